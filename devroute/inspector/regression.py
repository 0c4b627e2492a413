"""Sends recorded requests to local apps, and compares the responses with the recorded ones (`devroute
replay`). Outgoing requests are no app's: they are skipped.

Owns the order and the concurrency. inspector/replay_request.py builds the requests, inspector/compare.py
finds the differences.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final, Literal

from devroute.contract.service_spec import ServiceSpec
from devroute.errors import DevrouteError, NotReplayable
from devroute.inspector.capture import Body, Capture, Fields, is_readable
from devroute.inspector.compare import Difference, IgnoreRules, ResponseParts, differences, response_of
from devroute.inspector.har_reader import Unreadable
from devroute.inspector.recorder import Recorder, RecordingUpstream
from devroute.inspector.redaction import Redaction
from devroute.inspector.replay import Replay
from devroute.inspector.replay_request import replay_request
from devroute.inspector.store import CaptureStore
from devroute.upstream.local_app import local_app

#: Concurrent requests, and bytes of each response that are compared. Together they bound the memory.
MAX_CONCURRENCY: Final = 16
MAX_RESPONSE_BYTES: Final = 16 * 1024 * 1024
MAX_RESPONSES_BYTES: Final = 3 * MAX_CONCURRENCY * MAX_RESPONSE_BYTES

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))

#: "ready": of a dry run, would be sent.
Outcome = Literal["same", "different", "failed", "skipped", "ready"]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """`apps`: by service, "" for all other services. `methods`: None for all. `headers` replace
    the recorded ones of the same names. `timeout`: seconds for each request. `dry_run`: send nothing."""

    apps: Mapping[str, ServiceSpec]
    rules: IgnoreRules
    methods: frozenset[str] | None = SAFE_METHODS
    headers: Fields = field(default_factory=list)
    timeout: float = 30.0
    concurrency: int = 4
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class EntryResult:
    """The result of one entry. `reason`: why it failed or was skipped. `without`: parts of the recorded
    request that were redacted, and therefore not sent."""

    number: int
    service: str
    method: str
    target: str
    outcome: Outcome
    reason: str = ""
    recorded_status: int | None = None
    status: int | None = None
    ms: float | None = None
    differences: Sequence[Difference] = ()
    without: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        differences = [each._asdict() for each in self.differences]
        changed = {"reason": self.reason or None, "differences": differences, "without": list(self.without)}
        return asdict(self) | changed


async def run(
    entries: Iterable[Capture | Unreadable], plan: ReplayPlan, report: Callable[[EntryResult], None]
) -> list[EntryResult]:
    """Replay all entries, `plan.concurrency` at a time. `report` gets the results in the entries' order."""
    player = _Player(plan)
    try:
        return await player.play(list(entries), report)
    finally:
        await player.close()


class _Player:
    def __init__(self, plan: ReplayPlan) -> None:
        self._plan = plan
        self._store = CaptureStore(MAX_RESPONSES_BYTES, MAX_RESPONSE_BYTES, Redaction((), (), ()))
        self._recorder = Recorder(self._store, asyncio.get_running_loop())
        self._apps = {
            service: RecordingUpstream(local_app(spec), service, self._recorder)
            for service, spec in plan.apps.items()
        }

    async def close(self) -> None:
        for app in self._apps.values():
            await app.close()

    async def play(
        self, entries: list[Capture | Unreadable], report: Callable[[EntryResult], None]
    ) -> list[EntryResult]:
        results: list[EntryResult | None] = [None] * len(entries)
        left = iter(enumerate(entries))
        reported = 0

        async def work() -> None:
            nonlocal reported
            for index, entry in left:  # shared by the workers
                results[index] = await self._result(index + 1, entry)
                while reported < len(results) and (result := results[reported]) is not None:
                    report(result)
                    reported += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._plan.concurrency, len(entries))):
                group.create_task(work())
        return [result for result in results if result is not None]

    async def _result(self, number: int, entry: Capture | Unreadable) -> EntryResult:
        if isinstance(entry, Unreadable):
            return EntryResult(number, "", entry.method, entry.url, "skipped", entry.reason)
        about = (number, entry.service, entry.method, entry.target)
        try:
            app = self._app_for(entry)
            edits = self._edits(entry)
            if self._plan.dry_run:
                without = replay_request(entry, edits).without
                return EntryResult(*about, "ready", "", entry.status, without=without)
            replay = Replay(app, entry, edits)
        except DevrouteError as error:
            return EntryResult(*about, "skipped", error.message)
        played, late = replay.capture, False
        try:
            async with asyncio.timeout(self._plan.timeout):
                await replay.done
        except TimeoutError:
            late = True
            replay.cancel()
        self._recorder.flush()
        self._store.drop(played)
        ms = None if late or played.duration is None else round(played.duration * 1000, 1)
        outcome: Outcome = "failed"
        reason, found = "", list[Difference]()
        if late:
            reason = f"no complete response within {self._plan.timeout:g} s"
        elif played.error is not None:
            reason = f"{played.error[0]}: {played.error[1]}"
        else:
            found = differences(self._recorded(entry), response_of(played), self._plan.rules)
            outcome = "different" if found else "same"
        return EntryResult(*about, outcome, reason, entry.status, played.status, ms, found, replay.without)

    def _app_for(self, entry: Capture) -> RecordingUpstream:
        """The app for an entry's request. Raises NotReplayable if it has to be skipped."""
        if entry.direction == "out":
            raise NotReplayable("it is an outgoing request, which no app on this laptop received")
        app = self._apps.get(entry.service, self._apps.get(""))
        methods = self._plan.methods
        if app is None:
            raise NotReplayable(f"no app is given for the service '{entry.service}'")
        if methods is not None and entry.method not in methods:
            raise NotReplayable(f"{entry.method} is sent only if --methods names it")
        if entry.status is None:
            raise NotReplayable("no response was recorded")
        return app

    def _edits(self, entry: Capture) -> dict[str, Any]:
        """The given headers in place of the recorded ones, and an Accept-Encoding that can be decoded."""
        given = {name.lower() for name, _ in self._plan.headers}
        headers: list[list[str]] = []
        for name, value in entry.request_headers:
            low = name.lower()
            if low not in given:
                headers.append([name, "gzip, deflate" if low == "accept-encoding" else value])
        return {"headers": [*headers, *(list(field) for field in self._plan.headers)]}

    def _recorded(self, entry: Capture) -> ResponseParts:
        """The recorded response, redacted as the other one is: a file of another tool has secrets, which are
        no difference, and are not shown. Without a body if that cannot be decoded (br, for example)."""
        body = entry.response_body
        kept = copy(entry)
        kept.request_body, kept.messages = Body(), []
        kept.response_body = replace(body, data=bytearray(body.data))
        self._store.redacted(kept)
        recorded = response_of(kept)
        if is_readable(body, entry.response_headers):
            return recorded
        return recorded._replace(body=b"", truncated=True, unknown="")
