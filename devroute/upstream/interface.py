"""The interface of the data path: an `Upstream` takes a request, a `ResponseSink` gets its response.

The downstream side does not know whether the upstream is a direct connection or a stream of a tunnel. An
upstream does not know whether the request came over HTTP/1.1, HTTP/2 or a tunnel. Everything is a plain call
on one event loop: no tasks, no queues, no awaits. Flow control is a pair of calls, pause and resume, in each
direction.

Calls on a sink, in order: on_informational* on_head on_data* (on_end | on_error), or on_error alone. After
on_end or on_error the upstream calls the sink no more, except for pause and resume of the other half of an
upgraded connection; after cancel() it calls nothing at all.
"""

from typing import Final, Protocol, runtime_checkable

from devroute.errors import DevrouteError
from devroute.http.message import Headers, RequestHead, ResponseHead


class ResponseSink(Protocol):
    """The side that sent the request: gets the response as it arrives."""

    def on_informational(self, head: ResponseHead) -> None:
        """A 1xx other than 101 (RFC 9110 §15.2)."""

    def on_head(self, head: ResponseHead) -> None:
        """The final response's head, or a 101: from then on, data are raw bytes in both directions (§7.8)."""

    def on_data(self, data: bytes) -> None:
        """A part of the body, without its transfer coding, of any size above zero."""

    def on_end(self, trailers: Headers) -> None:
        """The response is complete. After a 101: the upstream has closed its sending half."""

    def on_error(self, error: DevrouteError) -> None:
        """There will be no response, or (after on_head) no complete one."""

    def pause_request(self) -> None:
        """The upstream takes no more for now: send no data until resume_request."""

    def resume_request(self) -> None: ...


class UpstreamStream(Protocol):
    """One request to the upstream."""

    def send_data(self, data: bytes) -> None:
        """A part of the request's body, without its transfer coding. After pause_request, only what had been
        read before."""

    def send_end(self, trailers: Headers) -> None:
        """The request is complete. After a 101: our half is closed, the other may go on."""

    def cancel(self) -> None:
        """The response is not wanted any more: stop the upstream's work now."""

    def pause_response(self) -> None:
        """The client takes no more for now: deliver no data until resume_response."""

    def resume_response(self) -> None: ...


class DiscardedRequest:
    """A stream that ignores its request; for responses that do not depend on it, and base of such streams."""

    __slots__ = ()

    def send_data(self, data: bytes) -> None: ...
    def send_end(self, trailers: Headers) -> None: ...
    def cancel(self) -> None: ...
    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...


class IgnoredResponse:
    """A sink that ignores its response."""

    __slots__ = ()

    def on_informational(self, head: ResponseHead) -> None: ...
    def on_head(self, head: ResponseHead) -> None: ...
    def on_data(self, data: bytes) -> None: ...
    def on_end(self, trailers: Headers) -> None: ...
    def on_error(self, error: DevrouteError) -> None: ...
    def pause_request(self) -> None: ...
    def resume_request(self) -> None: ...


class PassingStream:
    """Base of what looks at a request and its response on their way: passes on what that does not look at,
    flow control and interim responses. `stream` leads to the upstream, once that has opened it."""

    __slots__ = ("_sink", "stream")

    def __init__(self, sink: ResponseSink) -> None:
        self._sink = sink
        self.stream: UpstreamStream

    def pause_response(self) -> None:
        self.stream.pause_response()

    def resume_response(self) -> None:
        self.stream.resume_response()

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)


#: What one side has instead of the other once both have ended: two objects that refer to each other would
#: wait for the garbage collector, and its pauses delay requests.
NO_REQUEST: Final = DiscardedRequest()
NO_SINK: Final = IgnoredResponse()


class Upstream(Protocol):
    """Something that responds to requests."""

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        """Start a request. Never raises and never blocks: failures arrive at sink.on_error, never before
        open has returned. Unless head.framing is NONE, send_data* and send_end follow."""


@runtime_checkable
class Reservable(Protocol):
    """What a request can wait for, and be counted by, before it is sent."""

    def reserve(self) -> DevrouteError | None:
        """Count one more request as in flight; or the error for it, if there are too many."""

    def unreserve(self) -> None:
        """The request is sent now, or given up."""


class ProbedUpstream(Upstream, Protocol):
    """An upstream that can become unreachable without notice, as a laptop that falls asleep."""

    @property
    def responded_just_now(self) -> bool:
        """Whether check_reachable would wait for nothing."""

    async def check_reachable(self, seconds: float) -> None:
        """Wait up to so many seconds for a sign that the upstream is reachable. Raises LaptopOffline."""
