"""The seam of the data path: who answers a request (`Upstream`), and who asked (`ResponseSink`).

The relay does not know whether it has a direct connection or a stream of a tunnel; an upstream does not know
whether an HTTP/1.1 client, an HTTP/2 client or a tunnel asked. Everything is a plain call on one event loop:
no tasks, no queues, no awaits. Flow control is two pairs of calls, pause and resume, one in each direction.

The order of calls on a sink: on_informational* on_head on_data* (on_end | on_error), or on_error alone.
After on_end or on_error the upstream never calls the sink again, save for pause and resume of an upgrade's
other half; after cancel() it calls nothing at all.
"""

from typing import Protocol

from devroute.errors import DevrouteError
from devroute.http.message import Headers, RequestHead, ResponseHead


class ResponseSink(Protocol):
    """The side that asked: it gets the response as it arrives."""

    def on_informational(self, head: ResponseHead) -> None:
        """A 1xx other than 101 (RFC 9110 §15.2)."""

    def on_head(self, head: ResponseHead) -> None:
        """The final response's head, or a 101: then data are raw bytes in both directions (§7.8)."""

    def on_data(self, data: bytes) -> None:
        """A piece of the body, without its transfer coding. It may have any size above zero."""

    def on_end(self, trailers: Headers) -> None:
        """The response is complete. After a 101: the upstream has closed its sending half."""

    def on_error(self, error: DevrouteError) -> None:
        """The response cannot be had, or (after on_head) cannot be completed."""

    def pause_request(self) -> None:
        """The way to the upstream is full: send no more data until resume_request."""

    def resume_request(self) -> None: ...


class UpstreamStream(Protocol):
    """One request on its way to the upstream."""

    def send_data(self, data: bytes) -> None:
        """A piece of the request's body, without its transfer coding; never after pause_request, save for
        what was already in hand."""

    def send_end(self, trailers: Headers) -> None:
        """The request is complete. After a 101: our half is closed, the other may go on."""

    def cancel(self) -> None:
        """The side that asked has gone away, or wants no more: stop the upstream's work now."""

    def pause_response(self) -> None:
        """The way to the client is full: deliver no more data until resume_response."""

    def resume_response(self) -> None: ...


class Upstream(Protocol):
    """Something that answers requests."""

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        """Start a request. Never raises and never blocks: failures arrive at sink.on_error, never before
        open has returned. Unless head.framing is NONE, send_data* and send_end follow."""


class ProbedUpstream(Upstream, Protocol):
    """An upstream that can become unreachable without notice, as a laptop that falls asleep."""

    async def check_reachable(self, seconds: float) -> None:
        """Wait up to so many seconds for a sign that the upstream is reachable. Raises LaptopOffline."""
