"""Plays recorded requests against local apps and compares the answers with the recorded ones.

Owns the order and the pace; what a request is and what a difference is, inspector/replay_request.py and
inspector/compare.py say.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from devroute.errors import AppUnreachable, DevrouteError
from devroute.inspector.capture import Capture, Fields, is_readable
from devroute.inspector.compare import Difference, IgnoreRules, differences, response_of
from devroute.inspector.recorder import Recorder, RecordingUpstream
from devroute.inspector.redaction import Redaction
from devroute.inspector.replay import Replay
from devroute.inspector.store import CaptureStore
from devroute.upstream.negotiating import NegotiatingUpstream

#: Requests under way together, and how far their answers are compared: together they bound the memory.
MAX_CONCURRENCY: Final = 16
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_ANSWERS_BYTES: Final = 3 * MAX_CONCURRENCY * MAX_ANSWER_BYTES

SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS"))

Verdict = Literal["same", "different", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class ReplayPlan:
    """`apps`: host and port by service, "" for all others. `methods`: None for all. `headers` replace the
    recorded ones of their names. `timeout` in seconds for each request."""

    apps: Mapping[str, tuple[str, int]]
    rules: IgnoreRules
    methods: frozenset[str] | None = SAFE_METHODS
    headers: Fields = field(default_factory=list)
    timeout: float = 30.0
    concurrency: int = 4


@dataclass(frozen=True, slots=True)
class ReplayOutcome:
    """What became of one entry. `reason` says why it failed or was skipped; `without` what was redacted in
    the recorded request, and so was not sent."""

    number: int
    service: str
    method: str
    target: str
    verdict: Verdict
    reason: str = ""
    recorded_status: int | None = None
    status: int | None = None
    ms: float | None = None
    differences: Sequence[Difference] = ()
    without: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "service": self.service,
            "method": self.method,
            "target": self.target,
            "verdict": self.verdict,
            "reason": self.reason or None,
            "recorded_status": self.recorded_status,
            "status": self.status,
            "ms": self.ms,
            "differences": [each.as_dict() for each in self.differences],
            "without": list(self.without),
        }


async def run(
    entries: Iterable[Capture], plan: ReplayPlan, tell: Callable[[ReplayOutcome], None]
) -> list[ReplayOutcome]:
    """Play all entries, `plan.concurrency` at a time; `tell` gets the outcomes in the entries' order."""
    player = _Player(plan)
    try:
        return await player.play(list(entries), tell)
    finally:
        await player.close()


class _Player:
    def __init__(self, plan: ReplayPlan) -> None:
        self._plan = plan
        self._store = CaptureStore(MAX_ANSWERS_BYTES, MAX_ANSWER_BYTES, Redaction((), (), ()))
        self._recorder = Recorder(self._store, asyncio.get_running_loop())
        self._apps = {
            service: RecordingUpstream(
                NegotiatingUpstream(host, port, unreachable=AppUnreachable), service, self._recorder
            )
            for service, (host, port) in plan.apps.items()
        }

    async def close(self) -> None:
        for app in self._apps.values():
            await app.close()

    async def play(
        self, entries: list[Capture], tell: Callable[[ReplayOutcome], None]
    ) -> list[ReplayOutcome]:
        outcomes: list[ReplayOutcome | None] = [None] * len(entries)
        left = iter(enumerate(entries))
        told = 0

        async def work() -> None:
            nonlocal told
            for index, entry in left:  # shared: each entry is taken by one of them
                outcomes[index] = await self._outcome(index + 1, entry)
                while told < len(outcomes) and (outcome := outcomes[told]) is not None:
                    tell(outcome)
                    told += 1

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self._plan.concurrency, len(entries))):
                group.create_task(work())
        return [outcome for outcome in outcomes if outcome is not None]

    async def _outcome(self, number: int, entry: Capture) -> ReplayOutcome:
        about = (number, entry.service, entry.method, entry.target)
        app = self._apps.get(entry.service, self._apps.get(""))
        methods = self._plan.methods
        if app is None:
            return ReplayOutcome(*about, "skipped", f"no app is given for the service '{entry.service}'")
        if methods is not None and entry.method not in methods:
            return ReplayOutcome(*about, "skipped", f"{entry.method} is sent only where --methods names it")
        if entry.status is None:
            return ReplayOutcome(*about, "skipped", "no answer was recorded")
        try:
            replay = Replay(app, entry, self._edits(entry))
        except DevrouteError as error:
            return ReplayOutcome(*about, "skipped", error.message)
        played, late = replay.capture, False
        try:
            async with asyncio.timeout(self._plan.timeout):
                await replay.done
        except TimeoutError:
            late = True
            replay.cancel()
        self._recorder.flush()
        self._store.drop(played)
        if late:
            reason = f"no whole answer within {self._plan.timeout:g} s"
            return ReplayOutcome(
                *about, "failed", reason, entry.status, played.status, without=replay.without
            )
        duration = played.duration
        ms = None if duration is None else round(duration * 1000, 1)
        if played.error is not None:
            reason = f"{played.error[0]}: {played.error[1]}"
            return ReplayOutcome(
                *about, "failed", reason, entry.status, played.status, ms, (), replay.without
            )
        recorded = response_of(entry)
        if not is_readable(entry.response_body, entry.response_headers):
            recorded = recorded._replace(body=b"", truncated=True)  # br and the like: nothing is known of it
        found = differences(recorded, response_of(played), self._plan.rules)
        verdict: Verdict = "different" if found else "same"
        return ReplayOutcome(*about, verdict, "", entry.status, played.status, ms, found, replay.without)

    def _edits(self, entry: Capture) -> dict[str, Any]:
        """The headers that are given, and no coding of the answer that could not be read."""
        given = {name.lower() for name, _ in self._plan.headers}
        headers: list[list[str]] = []
        for name, value in entry.request_headers:
            low = name.lower()
            if low not in given:
                headers.append([name, "gzip, deflate" if low == "accept-encoding" else value])
        return {"headers": [*headers, *(list(field) for field in self._plan.headers)]}
