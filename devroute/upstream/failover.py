"""Handing a request back (`devroute up --except-status`): the laptop has declined, the real service answers.

An upstream around a laptop's. It sends everything on at once and keeps what it sent, as far as that is
bounded, until the laptop's answer has begun; then either that answer stands, or the request is sent once
more, through the mesh. It never buffers an answer, and never hands back what has been forgotten in part.
"""

import re
from dataclasses import dataclass
from typing import Final

from devroute.contract.mesh_identity import sender_namespace
from devroute.contract.offer_options import OfferOptions
from devroute.errors import DevrouteError, FailoverFailed
from devroute.headers import FAILOVER, HOST, ORIGIN, REASON, RESULT, line_start
from devroute.http.http2.headers import is_grpc
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.quoting import printable
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: Bytes of a request's body that are kept: as much as most requests have that are no uploads.
MAX_KEPT_BYTES: Final = 64 * 1024
#: Bytes of a declined answer that are still read, so that the laptop sees its answer as complete.
MAX_DECLINED_BYTES: Final = 64 * 1024

_UPGRADE: Final = Framing.UPGRADE
#: Where the service is that sent the request away, as its sidecar says: foo.shop.svc.cluster.local:8080.
_ORIGIN: Final = re.compile(re.escape(line_start(ORIGIN)) + rb"([a-z0-9.-]{1,253}:[0-9]{1,5})\r\n")
_HOST: Final = re.compile(rb"\r\nhost:[ \t]*([^\r]*)", re.IGNORECASE)
#: Our own fields, which are for this proxy only.
_OURS: Final = re.compile(f"\r\n(?:{ORIGIN}|{HOST}|{FAILOVER}):[^\r]*".encode(), re.IGNORECASE)
_ADDED: Final = f"\r\n{HOST}: %b\r\n{FAILOVER}: %b".encode()


@dataclass(frozen=True, slots=True)
class FailoverUpstream:
    """An upstream whose answers with one of `terms.except_status` are the real service's to give. `key` is
    the contract's name of the service, `marks` what is said of answers that stand; `target` the laptop."""

    laptop: Upstream
    mesh: Upstream
    options: OfferOptions
    key: str
    target: str
    answered_by: str

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Attempt(self, head, sink)


def obstacle(head: RequestHead, options: OfferOptions, key: str) -> str | None:
    """Why a request cannot be handed back, as far as its head says, or None."""
    method = head.method.decode("ascii")
    if head.framing is _UPGRADE:
        return "it asked for an upgrade"
    if is_grpc(head.wire):
        return "it is gRPC"
    if method not in options.except_methods:
        return f"{method} may have been acted upon (--except-methods)"
    origin = _ORIGIN.search(head.wire)
    if origin is None:
        return "the sidecar does not say where the service is"
    name, _, namespace = key.partition(".")
    said = origin[1].decode("ascii").split(".")
    sender = sender_namespace(head.wire)
    if (
        said[0] != name
        or len(said) < 2
        or said[1] != (namespace or said[1])
        or said[1] != (sender or said[1])
    ):
        return "the sidecar names another service as its own"
    return None


def failover_request(head: RequestHead, key: str) -> RequestHead:
    """The request for the real service: to its own name, by which the mesh finds it. The filter there leaves
    it alone, and puts the Host back by which the service was called."""
    origin = _ORIGIN.search(head.wire)
    host = _HOST.search(head.wire)
    assert origin is not None
    assert host is not None
    ours = _ADDED % (host[1].rstrip(), key.encode("ascii"))
    wire = _OURS.sub(b"", head.wire)
    wire = _HOST.sub(b"\r\nhost: %b%b" % (origin[1], ours), wire, count=1)
    return RequestHead(head.method, head.target, head.framing, head.length, wire)


def _marks(result: str, reason: str) -> bytes:
    return f"{RESULT}: {result}\r\n{REASON}: {printable(reason)}\r\n".encode("ascii")


class _Attempt:
    """One request: first the laptop's, whose sink this is, and perhaps the real service's."""

    def __init__(self, declining: FailoverUpstream, head: RequestHead, sink: ResponseSink) -> None:
        self._declining = declining
        self._head = head
        self._sink = sink
        self._obstacle = obstacle(head, declining.options, declining.key)
        self._kept: list[bytes] | None = [] if self._obstacle is None else None
        self._size = 0
        self._trailers: Headers | None = [] if head.framing is Framing.NONE else None  # the request's end
        self._request_paused = False
        self._response_paused = False
        self._continued = False
        self._declined: _Declined | None = None
        self._first = self._stream = declining.laptop.open(head, self)

    # --- the request

    def send_data(self, data: bytes) -> None:
        if self._kept is not None:
            self._size += len(data)
            if self._size <= MAX_KEPT_BYTES:
                self._kept.append(data)
            else:
                self._kept = None
                self._obstacle = f"its body is longer than {MAX_KEPT_BYTES} bytes"
        self._stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self._trailers = trailers
        self._stream.send_end(trailers)

    def cancel(self) -> None:
        if self._declined is not None:
            self._declined.leave()
        self._stream.cancel()

    def pause_response(self) -> None:
        self._response_paused = True
        self._stream.pause_response()

    def resume_response(self) -> None:
        self._response_paused = False
        self._stream.resume_response()

    # --- from the laptop

    def on_informational(self, head: ResponseHead) -> None:
        self._continued = self._continued or head.status == 100
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        declining = self._declining
        if head.status in declining.options.except_status:
            if self._kept is not None:
                self._fail_over(head)
                return
            reason = f"{declining.answered_by}; no failover for {head.status}: {self._obstacle}"
            head = head.with_route_headers(_marks("laptop", reason))
        self._kept = None
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        if self._declined is None:
            self._sink.on_data(data)
        else:
            self._declined.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        if self._declined is None:
            self._sink.on_end(trailers)
        else:
            self._declined.over = True

    def on_error(self, error: DevrouteError) -> None:
        if self._declined is None:
            self._sink.on_error(error)
        else:
            self._declined.over = True

    def pause_request(self) -> None:
        if self._declined is None:
            self._request_paused = True
            self._sink.pause_request()

    def resume_request(self) -> None:
        if self._declined is None:
            self._request_paused = False
            self._sink.resume_request()

    # --- to the real service

    def _fail_over(self, head: ResponseHead) -> None:
        declining, kept = self._declining, self._kept or []
        self._kept = None
        self._declined = _Declined(self._first)
        if self._response_paused:
            self._first.resume_response()
        if self._trailers is None:  # nobody will send it the rest
            self._declined.leave()
        if self._request_paused:
            self._request_paused = False
            self._sink.resume_request()
        back = _FromService(self._sink, declining, head.status, continued=self._continued)
        self._stream = declining.mesh.open(failover_request(self._head, declining.key), back)
        if self._response_paused:
            self._stream.pause_response()
        for data in kept:
            self._stream.send_data(data)
        if self._trailers is not None and self._head.framing is not Framing.NONE:
            self._stream.send_end(self._trailers)


class _Declined:
    """What is left of the laptop's answer: read to its end, if that is near, and thrown away."""

    def __init__(self, stream: UpstreamStream) -> None:
        self._stream = stream
        self._size = 0
        self.over = False

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > MAX_DECLINED_BYTES:
            self.leave()

    def leave(self) -> None:
        if not self.over:
            self.over = True
            self._stream.cancel()


class _FromService:
    """The real service's answer on its way to whoever asked; says how it came to that."""

    def __init__(
        self, sink: ResponseSink, declining: FailoverUpstream, status: int, *, continued: bool
    ) -> None:
        self._sink = sink
        self._declining = declining
        self._status = status
        self._continued = continued
        self.on_data = sink.on_data
        self.on_end = sink.on_end
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request
        self._begun = False

    def on_informational(self, head: ResponseHead) -> None:
        if not (self._continued and head.status == 100):  # the client has been told
            self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        self._begun = True
        each = self._declining
        marks = _marks("service", f"{each.key}: failover from laptop {each.target} ({self._status})")
        self._sink.on_head(head.with_route_headers(marks))

    def on_error(self, error: DevrouteError) -> None:
        if not self._begun:
            each = self._declining
            error = FailoverFailed(
                f"laptop {each.target} answered {self._status} and handed the request back, but the real"
                f" service cannot be reached: {error.message}",
                service=each.key,
                target=each.target,
            )
        self._sink.on_error(error)
