"""Sends captured requests again: to the local app, never through the mesh, and an outgoing one to the service
of the mesh. Owns the streams of these requests until they end or `close` cancels them.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from devroute.errors import DevrouteError, NotReplayable
from devroute.http.message import Headers, ResponseHead
from devroute.inspector.capture import Capture
from devroute.inspector.recorder import App, RecordingUpstream
from devroute.inspector.replay_request import replay_request
from devroute.upstream.interface import UpstreamStream


class Replayer:
    """Replays for one `devroute up`: `apps` and, for outgoing requests, `reached` by service; both may
    change."""

    def __init__(
        self, apps: Mapping[str, App], reached: Mapping[str, RecordingUpstream] | None = None
    ) -> None:
        self._apps = apps
        self._reached = {} if reached is None else reached
        self._running: set[Replay] = set()

    async def __call__(self, capture: Capture, edits: Mapping[str, Any]) -> Capture:
        """Send the request again and return its new capture at once. `edits` as in
        inspector/replay_request.py. Raises NotReplayable, RequestMalformed."""
        replay = self.start(capture, edits)
        self._running.add(replay)
        replay.done.add_done_callback(lambda _: self._running.discard(replay))
        return replay.capture

    def start(self, capture: Capture, edits: Mapping[str, Any]) -> "Replay":
        return Replay(self._upstream(capture), capture, edits)

    def _upstream(self, capture: Capture) -> RecordingUpstream:
        """Raises NotReplayable."""
        service = capture.service
        if capture.direction == "out":
            if (reached := self._reached.get(service)) is None:
                hint = f"start it with --reach {service}"
                raise NotReplayable(f"this devroute up does not reach '{service}'", hint=hint)
            return reached
        found = self._apps.get(service)  # none is recorded where there is no inspector to replay from
        if not isinstance(found, RecordingUpstream):
            served = ", ".join(sorted(self._apps))
            raise NotReplayable(f"'{service}' is not served here", hint=f"this devroute up serves {served}")
        return found

    def close(self) -> None:
        for replay in list(self._running):
            replay.cancel()


class Replay:
    """One replayed request; implements devroute.upstream.ResponseSink. The response is recorded on its way,
    and otherwise ignored. `done` gets the new capture when it is complete or has failed."""

    def __init__(self, app: RecordingUpstream, original: Capture, edits: Mapping[str, Any]) -> None:
        again = replay_request(original, edits)
        self.without = again.without
        self.done: asyncio.Future[Capture] = asyncio.get_running_loop().create_future()
        self._stream: UpstreamStream
        self.capture, self._stream = app.record(again.head, self, original.id)
        if again.body:
            self._stream.send_data(again.body)  # at once: the store has bounded its size
        if again.body or original.kind == "grpc":
            self._stream.send_end([])

    def cancel(self) -> None:
        if not self.done.done():
            self._stream.cancel()
            self.done.set_result(self.capture)

    def on_informational(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...

    def on_end(self, trailers: Headers) -> None:
        self._finish()

    def on_error(self, error: DevrouteError) -> None:
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(self.capture)

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
