"""Sends a kept request to the local app once more. It never leaves the laptop: not through the mesh.

Owns the streams of the requests that it sent, until they end or `close` cancels them.
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
    """For the apps of one `devroute up`, by service."""

    def __init__(self, apps: Mapping[str, RecordingUpstream]) -> None:
        self._apps = apps
        self._running: set[Replay] = set()

    async def __call__(self, capture: Capture, edits: Mapping[str, Any]) -> Capture:
        """Send it; returns the new exchange, which goes on by itself. `edits` as in
        inspector/replay_request.py.

        Raises NotReplayable, RequestMalformed.
        """
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
    """One request that is sent again; implements devroute.upstream.ResponseSink. The tap records the answer,
    so there is nothing left to do with it. `done` gets the new exchange when it is over, failed or not."""

    def __init__(self, app: RecordingUpstream, original: Capture, edits: Mapping[str, Any]) -> None:
        again = replay_request(original, edits)
        self.without = again.without
        self.done: asyncio.Future[Capture] = asyncio.get_running_loop().create_future()
        self._stream: UpstreamStream
        self.capture, self._stream = app.record(again.head, self, original.id)
        if again.body:
            self._stream.send_data(again.body)  # all at once: it was kept, so it is bounded
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
        self._over()

    def on_error(self, error: DevrouteError) -> None:
        self._over()

    def _over(self) -> None:
        if not self.done.done():
            self.done.set_result(self.capture)

    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...
