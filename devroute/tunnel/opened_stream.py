"""Requests through a tunnel, at the end that opens them: the proxy's, or the agent's for what its laptop
reaches.

It does not trust the other end: response heads are parsed again and bodies are counted.
"""

from time import monotonic
from typing import TYPE_CHECKING, Final

from devroute.errors import DevrouteError, TargetOverloaded, UpstreamInvalid, UpstreamReset
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead, rule_of
from devroute.http.spans import AgentSpan
from devroute.tunnel.link_stream import UNBOUNDED, LinkStream
from devroute.tunnel.protocol.frames import Flag, Reason
from devroute.tunnel.protocol.windows import WindowBudget
from devroute.upstream.interface import NO_SINK, ResponseSink

if TYPE_CHECKING:
    from devroute.tunnel.exchange_link import ExchangeLink

# Looked up once: an enum's member costs as much as a method call.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_UPGRADE: Final = Framing.UPGRADE
_FLAG_END: Final = int(Flag.END)
_FLAG_UPGRADE: Final = int(Flag.UPGRADE)
_FLAG_INFORMATIONAL: Final = int(Flag.INFORMATIONAL)


class OpenedStream(LinkStream):
    """One request through the tunnel; implements devroute.upstream.interface.UpstreamStream."""

    __slots__ = (
        "_exchanges",
        "_method",
        "_sink",
        "_upgradable",
        "_upgraded",
        "answered",
    )

    def __init__(self, link: "ExchangeLink", head: RequestHead, sink: ResponseSink) -> None:
        super().__init__(link)
        self._exchanges = link
        self._method = head.method
        self._upgradable = head.framing is _UPGRADE
        self._sink = sink
        self._upgraded = False
        self.answered = False  # something of the response has arrived

    # --- the request

    def send_data(self, data: bytes) -> None:
        self.link.send_data(self, data)

    def send_end(self, trailers: Headers) -> None:
        self.link.send_end(self, trailers)

    def cancel(self) -> None:
        self.done = True
        if not self.stream.closed:
            self.link.send_reset(self, "cancelled", "the client has gone away")
        self.settle()

    def pause_response(self) -> None:
        self.hold()

    def resume_response(self) -> None:
        self.release()

    # --- the response

    def receive_head(self, raw: bytes, flags: int) -> None:
        if self.done:
            return
        self.answered = True
        try:
            head = self._checked(raw, flags)
        except UpstreamInvalid as error:
            self.reset(error)
            self.broken(error)
            return
        if flags & _FLAG_INFORMATIONAL:
            self._sink.on_informational(head)
            return
        framing = head.framing
        if framing is _LENGTH:
            self.left = head.length
        elif framing is not _NONE:
            self.left = UNBOUNDED
            self._upgraded = framing is _UPGRADE
        self._sink.on_head(head)
        if flags & _FLAG_END:
            self.receive_end([])

    def _checked(self, raw: bytes, flags: int) -> ResponseHead:
        """The parsed head. Raises UpstreamInvalid, also where the frame's flags contradict it."""
        if raw[-4:] != b"\r\n\r\n":
            raise UpstreamInvalid(f"the {self._exchanges.responder}'s response has no whole head")
        head = self._exchanges.response_parser.parse(raw, self._method)
        if head.drop and not head.repeated:
            head.by_rule = rule_of(raw)
        status = head.status
        if (status == 101) is not bool(flags & _FLAG_UPGRADE) or (
            (status < 200 and status != 101) is not bool(flags & _FLAG_INFORMATIONAL)
        ):
            raise UpstreamInvalid(
                f"the {self._exchanges.responder}'s response has status {status},"
                " which its frame's flags contradict"
            )
        if status == 101 and not self._upgradable:
            # The sidecar would take it for a whole response, and send the next request into the pipe.
            who = self._exchanges.responder
            raise UpstreamInvalid(f"the {who}'s response switches protocols (101) without a request for it")
        return head

    def consume(self, data: bytes) -> None:
        self._sink.on_data(data)

    def complete(self, trailers: Headers) -> None:
        self.done = True
        self._sink.on_end(trailers)
        if not self._upgraded and not self.stream.closed:
            # The response is complete before its request: the rest will not be sent.
            self.link.send_reset(self, "cancelled", "the response was complete before its request")

    def broken(self, error: DevrouteError) -> None:
        if not self.done:
            self.done = True
            self._sink.on_error(error)
        self.link.dismiss(self)  # one that was refused may have sent data since then
        self.settle()

    def waiting_budget(self) -> WindowBudget | None:
        return self._exchanges.waiting_responses

    def too_much_waits(self) -> DevrouteError:
        return TargetOverloaded(
            f"the client does not read, and more of the {self._exchanges.responder}'s responses"
            " waits for such clients than the proxy holds"
        )

    def let_go(self) -> None:
        self._sink = NO_SINK

    def wrong_length(self, message: str) -> DevrouteError:
        return UpstreamReset(f"the {self._exchanges.responder}'s response: {message}")

    def receive_reset(self, reason: Reason) -> None:
        self.link.dismiss(self)
        self._end_abruptly(reason.as_error(UpstreamReset))

    def link_lost(self, error: DevrouteError) -> None:
        self._end_abruptly(UpstreamReset(error.message, hint=error.hint))

    def _end_abruptly(self, error: DevrouteError) -> None:
        """Also ends an upgrade of which only the request's half is open: no one would receive it."""
        if self._upgraded and self.done:
            self._upgraded = False
            self._sink.on_error(error)
            self.settle()
        else:
            self.broken(error)

    # --- flow control

    def stop_source(self) -> None:
        if not self.done or self._upgraded:
            self._sink.pause_request()

    def start_source(self) -> None:
        if not self.done or self._upgraded:
            self._sink.resume_request()


class SampledStream(OpenedStream):
    """One whose times become a span of the laptop's."""

    __slots__ = ("_heartbeat", "_span")

    def __init__(self, link: "ExchangeLink", head: RequestHead, sink: ResponseSink, span: AgentSpan) -> None:
        super().__init__(link, head, sink)
        self._heartbeat = link.heartbeat
        self._span = span

    def _checked(self, raw: bytes, flags: int) -> ResponseHead:
        head = super()._checked(raw, flags)
        if not flags & _FLAG_INFORMATIONAL:
            self._span.status = head.status
        return head

    def complete(self, trailers: Headers) -> None:
        now = monotonic()
        super().complete(trailers)
        self._end(now, "")

    def broken(self, error: DevrouteError) -> None:
        now = monotonic()
        super().broken(error)
        self._end(now, error.code)

    def cancel(self) -> None:
        now = monotonic()
        super().cancel()
        self._end(now, "cancelled")

    def _end(self, now: float, code: str) -> None:
        self._span.end(now, self._heartbeat.round_trip, code)
