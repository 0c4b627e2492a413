"""Requests through a tunnel, at the end that serves them: each goes to an Upstream, whose response is written
into the stream as it arrives.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from devroute.errors import DevrouteError, RequestMalformed, TargetOverloaded
from devroute.http.aio.connection import READ_TURN
from devroute.http.grpc import read_status
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead, without_rule
from devroute.tunnel.link_stream import LinkStream
from devroute.tunnel.protocol.frames import Flag, Reason
from devroute.tunnel.protocol.windows import WindowBudget
from devroute.upstream.interface import NO_REQUEST, Upstream, UpstreamStream

if TYPE_CHECKING:
    from devroute.tunnel.exchange_link import ExchangeLink

_UPGRADE: Final = Framing.UPGRADE
_FLAG_UPGRADE: Final = int(Flag.UPGRADE)
_FLAG_INFORMATIONAL: Final = int(Flag.INFORMATIONAL)
_GRPC_STATUS: Final = b"\r\ngrpc-status:"
_new = tuple.__new__  # a namedtuple's own, in Python, costs 0.4 µs

#: Bytes of the body of a 400 or 403 that are kept: pages of frameworks begin with their styles.
MAX_REFUSAL: Final = 16 * 1024


class Finished(NamedTuple):
    """A finished exchange. Times in seconds; `status` is 0 without a response; `code` is "" on success, else
    a code of devroute.errors or "cancelled", with its reason. `head` is the request's, as it came. `refusal`
    is the start of the body of a 400 or 403, which may be the app's server refusing what it was sent.
    `grpc_status` is None where the response has none. `rule`: what a rule did, "" if none did anything.
    `outgoing`: one from this laptop, and `service` that of the mesh (agent/outgoing.py). `abandoned`: it was
    ended by the end that sent it, or for what that sent, and not by its upstream."""

    service: str
    method: str
    target: str
    status: int
    started: float
    duration: float
    size: int
    code: str
    reason: str
    head: bytes = b""
    refusal: bytes = b""
    grpc_status: int | None = None
    rule: str = ""
    outgoing: bool = False
    abandoned: bool = False

    @property
    def failed(self) -> bool:
        """Whether the caller got an error that the app or its host is to blame for: no whole response, a 5xx,
        or a gRPC status other than OK."""
        return bool(self.code or self.status >= 500 or self.grpc_status)


class OpenRequest(NamedTuple):
    """A request that has not finished. `started` by the loop's clock, `age` in seconds; `status` is 0 until
    there is a response's head. `outgoing` as of Finished."""

    service: str
    method: str
    target: str
    status: int
    started: float
    age: float
    outgoing: bool = False


Observe = Callable[[Finished], None]


class ServedStream(LinkStream):
    """One request from the tunnel; implements devroute.upstream.interface.ResponseSink."""

    __slots__ = (
        "_exchanges", "_grpc_status", "_head", "_refusal", "_rule", "_service", "_size", "_started",
        "_status", "_to_app",
    )  # fmt: skip

    def __init__(self, link: "ExchangeLink", service: bytes, head: RequestHead) -> None:
        super().__init__(link)
        self._exchanges = link
        self._service = service
        self._head = head
        self._to_app: UpstreamStream
        self._started = link.time()
        self._status = 0
        self._size = 0
        self._refusal = b""
        self._rule = ""
        self._grpc_status: int | None = None

    @property
    def age(self) -> float:
        """Seconds since the request came, negative once it has been observed."""
        return self._exchanges.time() - self._started if self._started >= 0 else -1.0

    def as_open(self) -> OpenRequest:
        head = self._head
        return OpenRequest(
            self._service.decode("utf-8", "replace"),
            head.method.decode("latin-1"),
            head.target.decode("latin-1"),
            self._status,
            self._started,
            self.age,
        )

    def start(self, upstream: Upstream) -> None:
        self._to_app = upstream.open(self._head, self)

    # --- the request

    def consume(self, data: bytes) -> None:
        self._to_app.send_data(data)

    def complete(self, trailers: Headers) -> None:
        self.done = True
        self._to_app.send_end(trailers)

    def broken(self, error: DevrouteError) -> None:
        self._abandon(error.code, error.message)

    def wrong_length(self, message: str) -> DevrouteError:
        return RequestMalformed(f"the request: {message}")

    def receive_reset(self, reason: Reason) -> None:
        self.link.dismiss(self)
        self._abandon(self._exchanges.reset_code(reason), reason.message)

    def _abandon(self, code: str, reason: str) -> None:
        self.done = True
        self._to_app.cancel()
        self._finished(code, reason, abandoned=True)
        self.settle()

    def waiting_budget(self) -> WindowBudget | None:
        return self._exchanges.waiting

    def too_much_waits(self) -> DevrouteError:
        service = self._service.decode("utf-8", "replace")
        return TargetOverloaded(
            f"{service} does not read, and more waits for such services than the proxy holds",
            hint="send fewer large bodies at once",
        )

    def let_go(self) -> None:
        self._to_app = NO_REQUEST

    # --- the response

    def on_informational(self, head: ResponseHead) -> None:
        self.link.send_head(self.stream, head.raw, _FLAG_INFORMATIONAL)

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status
        self._rule = head.by_rule
        exchanges = self._exchanges
        raw = exchanges.repeated_raw if head is exchanges.repeated_head else self._searched(head)
        exchanges.send_head(self.stream, raw, _FLAG_UPGRADE if head.framing is _UPGRADE else 0)

    def _searched(self, head: ResponseHead) -> bytes:
        """The head as the tunnel carries it, searched for what it says. One that says nothing, and that its
        app repeats, is not searched again."""
        raw = head.raw
        at = raw.find(_GRPC_STATUS)
        if at >= 0:  # without a message, the status is in the head
            self._grpc_status = read_status(raw[at + len(_GRPC_STATUS) : at + len(_GRPC_STATUS) + 8])
        if head.drop and not head.by_rule:
            raw = without_rule(raw)
        if head.repeated and at < 0:
            self._exchanges.repeated_head, self._exchanges.repeated_raw = head, raw
        return raw

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if (self._status == 403 or self._status == 400) and len(self._refusal) < MAX_REFUSAL:
            self._refusal += data[: MAX_REFUSAL - len(self._refusal)]
        self.link.send_data(self, data)

    def on_end(self, trailers: Headers) -> None:
        for name, value in trailers:
            if name == b"grpc-status":
                self._grpc_status = read_status(value)
        self.link.send_end(self, trailers)
        counted = self._exchanges.counted
        if self._refusal or self._started < 0 or self._service.startswith(b"@") or not counted():
            READ_TURN.after_flush(self._succeeded)
        else:
            self._started = -1.0  # observed

    def _succeeded(self) -> None:
        self._finished("", "")

    def on_error(self, error: DevrouteError) -> None:
        self.done = True
        self.reset(error)
        self._finished(error.code, error.message)
        self.settle()

    def _finished(self, code: str, reason: str, *, abandoned: bool = False) -> None:
        link = self._exchanges
        observe, head, started = link.observe, self._head, self._started
        if started >= 0:
            self._started = -1.0  # observed
            fields = (
                self._service.decode("utf-8", "replace"),
                head.method.decode("latin-1"),
                head.target.decode("latin-1"),
                self._status,
                started,
                link.time() - started,
                self._size,
                code,
                reason,
                head.wire,
                self._refusal,
                self._grpc_status,
                self._rule,
                False,
                abandoned,
            )
            observe(_new(Finished, fields))

    # --- flow control

    def pause_request(self) -> None:
        self.hold()

    def resume_request(self) -> None:
        self.release()

    def stop_source(self) -> None:
        self._to_app.pause_response()

    def start_source(self) -> None:
        self._to_app.resume_response()


class RefusedRequest(LinkStream):
    """A request that was reset when it was opened: what had been sent before its sender learns of that."""

    __slots__ = ()

    def __init__(self, link: "ExchangeLink") -> None:
        super().__init__(link)
        self.done = True

    def receive_reset(self, reason: Reason) -> None: ...
    def link_lost(self, error: DevrouteError) -> None: ...
