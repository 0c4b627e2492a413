"""Sends captured requests to the local app again, never through the mesh. Owns the streams of these requests
until they end or `close` cancels them.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from devroute.errors import DevrouteError, NotReplayable
from devroute.http.message import Headers, ResponseHead
from devroute.inspector.capture import Capture
from devroute.inspector.recorder import RecordingUpstream
from devroute.inspector.replay_request import replay_request
from devroute.upstream.interface import UpstreamStream


class Replayer:
    """Replays for the apps of one `devroute up`, by service."""

    def __init__(self, apps: Mapping[str, RecordingUpstream]) -> None:
        self._apps = apps
        self._running: set[Replay] = set()

    async def __call__(self, capture: Capture, edits: Mapping[str, Any]) -> Capture:
        """Send the request again and return its new capture at once. `edits` as in
        inspector/replay_request.py. Raises NotReplayable, RequestMalformed."""
        replay = self.start(capture, edits)
        self._running.add(replay)
        replay.done.add_done_callback(lambda _: self._running.discard(replay))
        return replay.capture

    def start(self, capture: Capture, edits: Mapping[str, Any]) -> "Replay":
        app = self._apps.get(capture.service)
        if app is None:
            served = ", ".join(sorted(self._apps))
            raise NotReplayable(
                f"'{capture.service}' is not served here", hint=f"this devroute up serves {served}"
            )
        return Replay(app, capture, edits)

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
