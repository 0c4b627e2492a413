"""An open stream of a laptop: passes everything on in both directions, and records when it last did."""

from collections.abc import Callable
from typing import Protocol

from devroute.auth.identity import Identity
from devroute.contract.destination import Destination
from devroute.errors import DevrouteError, UpstreamTimeout
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.proxy.egress.mesh_http import without_mesh_fields
from devroute.upstream.interface import PassingStream, ResponseSink, Upstream


class Watch(Protocol):
    """`open`: the streams that are; `now`: the time, in seconds, which may be coarse."""

    open: "dict[WatchedStream, None]"
    now: float

    def ended(self) -> None:
        """One of them is open no more."""


class WatchedStream(PassingStream):
    """`active`: when something last passed."""

    __slots__ = ("_done", "_head", "_upgraded", "_watch", "active", "destination", "identity")

    def __init__(
        self,
        watch: Watch,
        identity: Callable[[], Identity],
        destination: Destination,
        head: RequestHead,
        sink: ResponseSink,
    ) -> None:
        super().__init__(sink)
        self._watch = watch
        self._head = head
        self._upgraded = False
        self._done = False
        self.identity = identity
        self.destination = destination
        self.active = watch.now

    @property
    def endless(self) -> bool:
        """Whether it may be open for as long as its two ends like."""
        return self._head.framing is Framing.UPGRADE

    def send(self, upstream: Upstream) -> "WatchedStream":
        self._watch.open[self] = None
        self.stream = upstream.open(self._head, self)
        return self

    def _remove(self) -> None:
        self._watch.open.pop(self, None)
        self._watch.ended()

    def end(self, error: DevrouteError) -> None:
        """The proxy ends it."""
        self.stream.cancel()
        self.on_error(error)

    def idle(self, seconds: float) -> None:
        message = f"nothing has passed to or from {self.destination} for {seconds:g} s"
        self.end(UpstreamTimeout(message, hint="the platform team decides with reach_idle_timeout"))

    # --- from the laptop

    def send_data(self, data: bytes) -> None:
        self.active = self._watch.now
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self.active = self._watch.now
        self._half_done()
        self.stream.send_end(without_mesh_fields(trailers) if trailers else trailers)

    def _half_done(self) -> None:
        """Of an upgraded one each half ends by itself."""
        if self._upgraded:
            if self._done:
                self._remove()
            self._done = True

    def cancel(self) -> None:
        self._remove()
        self.stream.cancel()

    # --- from the mesh

    def on_informational(self, head: ResponseHead) -> None:
        self.active = self._watch.now
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        self.active = self._watch.now
        self._upgraded = head.framing is Framing.UPGRADE
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        self.active = self._watch.now
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        if self._upgraded:
            self._half_done()
        else:
            self._remove()
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._remove()
        self._sink.on_error(error)
