"""Failover (`devroute up --except-status`): the laptop declines a request, and the service is asked instead.

Wraps a laptop's upstream. It forwards the request at once and keeps a copy of it, up to a limit, until the
laptop's response starts. Then either that response stands, or the request is sent once more, to the service.
The declined response is kept, up to a limit, until the service's starts: it stands after all where the mesh
refuses the request, or cannot send it. A request is never sent again of which a part was not kept.
"""

import re
from dataclasses import dataclass
from typing import Final

from devroute.contract.mesh_identity import sender_namespace
from devroute.contract.offer_options import OfferOptions
from devroute.errors import DevrouteError, FailoverFailed
from devroute.headers import EGRESS, FAILOVER, HOST, ORIGIN, RESULT, line_start
from devroute.http.http2.headers import is_grpc
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.http.subject_field import SUBJECT_NAME, without_subject
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

#: Bytes of a request's body that are kept: most requests that are no uploads have fewer.
MAX_KEPT_BYTES: Final = 64 * 1024
#: Bytes of a declined response that are kept until the service responds. Most end below that, and the laptop
#: sees them as complete; the rest of a longer one waits.
MAX_DECLINED_BYTES: Final = 64 * 1024

_NONE: Final = Framing.NONE
_UPGRADE: Final = Framing.UPGRADE
#: The service's own address, from its sidecar: b.shop.svc.cluster.local:8080.
_ORIGIN: Final = re.compile(re.escape(line_start(ORIGIN)) + rb"([a-z0-9.-]{1,253}:[0-9]{1,5})\r\n")
_HOST: Final = re.compile(rb"\r\nhost:[ \t]*([^\r]*)", re.IGNORECASE)
#: Headers for this proxy only, and the one that services believe of its certificate.
_OURS: Final = re.compile(
    rf"\r\n(?:{ORIGIN}|{HOST}|{FAILOVER}|{EGRESS}|{SUBJECT_NAME}):[^\r]*".encode(), re.IGNORECASE
)
#: The service's sidecar sets it on what it lets pass, whatever comes of the request.
_RESULT: Final = re.compile(f"\r\n{RESULT}:".encode(), re.IGNORECASE)
_ADDED: Final = f"\r\n{HOST}: %b\r\n{FAILOVER}: %b\r\n{EGRESS}: %b:0".encode()


@dataclass(frozen=True, slots=True)
class FailoverUpstream:
    """Asks `laptop`, and `mesh` where the response's status is one of `options.except_status`. `key` is the
    service's name in the contract, `target` the laptop, `reason` the route's own x-devroute-reason."""

    laptop: Upstream
    mesh: Upstream
    options: OfferOptions
    key: str
    target: str
    reason: str

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _FailoverStream(self, head, sink)


def find_origin(head: RequestHead, options: OfferOptions, key: str) -> tuple[bytes, str]:
    """(the service's address, "") if the request's head permits failover, else (b"", why not)."""
    method = head.method.decode("ascii")
    if head.framing is _UPGRADE:
        return b"", "it asked for an upgrade"
    if is_grpc(head.wire):
        return b"", "it is gRPC"
    if method not in options.except_methods:
        return b"", f"{method} may have been acted upon (--except-methods)"
    origin = _ORIGIN.search(head.wire)
    if origin is None:
        return b"", "the sidecar did not send the service's address"
    name, _, namespace = key.partition(".")
    labels = origin[1].decode("ascii").split(".")
    sender = sender_namespace(head.wire)
    if (
        labels[0] != name
        or len(labels) < 2
        or labels[1] != (namespace or labels[1])
        or labels[1] != (sender or labels[1])
    ):
        return b"", "the sidecar names another service as its own"
    return origin[1], ""


def failover_request(head: RequestHead, origin: bytes, key: str) -> RequestHead:
    """The request for the service, to its own address, by which the mesh finds it. The filter there does not
    detour it, and restores the Host by which the service was called."""
    host = _HOST.search(head.wire)
    assert host is not None  # http/http1/request.py requires one
    ours = _ADDED % (host[1].rstrip(), key.encode("ascii"), origin)
    wire = _OURS.sub(b"", head.wire)
    wire = _HOST.sub(b"\r\nhost: %b%b" % (origin, ours), wire, count=1)
    return RequestHead(head.method, head.target, head.framing, head.length, wire)


class _FailoverStream:
    """One request: sent to the laptop, whose sink this is, and perhaps once more to the service."""

    def __init__(self, upstream: FailoverUpstream, head: RequestHead, sink: ResponseSink) -> None:
        self._upstream = upstream
        self._head = head
        self._sink = sink
        self._origin, self._obstacle = find_origin(head, upstream.options, upstream.key)
        self._kept: list[bytes] | None = None if self._obstacle else []
        self._size = 0
        self._trailers: Headers | None = [] if head.framing is _NONE else None  # once the request has ended
        self._request_paused = False
        self._response_paused = False
        self._continued = False
        self._declined: _DeclinedResponse | None = None
        self._first = self._stream = upstream.laptop.open(head, self)

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
        if trailers:  # the service may get them, under the proxy's certificate
            trailers = without_subject(trailers)
        self._trailers = trailers
        self._stream.send_end(trailers)

    def cancel(self) -> None:
        if self._declined is not None:
            self._declined.cancel()
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
        if head.status in self._upstream.options.except_status:
            if self._kept is not None:
                self._fail_over(head, self._kept)
                return
            head = self._standing(head, self._obstacle)
        self._kept = None
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        if self._declined is None:
            self._sink.on_data(data)
        else:
            self._declined.keep(data)

    def on_end(self, trailers: Headers) -> None:
        if self._declined is None:
            self._sink.on_end(trailers)
        else:
            self._declined.end = trailers

    def on_error(self, error: DevrouteError) -> None:
        if self._declined is None:
            self._sink.on_error(error)
        else:
            self._declined.end = error

    def pause_request(self) -> None:
        if self._declined is None:
            self._request_paused = True
            self._sink.pause_request()

    def resume_request(self) -> None:
        if self._declined is None:
            self._request_paused = False
            self._sink.resume_request()

    # --- to the service

    def _fail_over(self, declined: ResponseHead, kept: list[bytes]) -> None:
        upstream = self._upstream
        self._kept = None
        self._declined = _DeclinedResponse(self._first, declined)
        if self._response_paused:
            self._first.resume_response()
        if self._trailers is None:  # it will not get the rest of the request
            self._declined.cancel()
        if self._request_paused:
            self._request_paused = False
            self._sink.resume_request()
        sink = _ServiceSink(self._sink, self, upstream, declined.status, continued=self._continued)
        self._stream = upstream.mesh.open(failover_request(self._head, self._origin, upstream.key), sink)
        if self._response_paused:
            self._stream.pause_response()
        for data in kept:
            self._stream.send_data(data)
        if self._trailers is not None and self._head.framing is not _NONE:
            self._stream.send_end(self._trailers)

    def _standing(self, head: ResponseHead, obstacle: str) -> ResponseHead:
        """The laptop's response, with the reason why it stands."""
        reason = f"{self._upstream.reason}; no failover for {head.status}: {obstacle}"
        return head.with_outcome("laptop", reason)

    def service_responds(self) -> None:
        """The declined response is of no more use."""
        if self._declined is not None:
            self._declined.drop()

    def service_refused(self, obstacle: str) -> bool:
        """Let the declined response stand, if it is still there; at once what was kept of it, though the
        client may take no more for now."""
        declined = self._declined
        if declined is None or declined.dropped:
            return False
        self._declined = None
        self._stream.cancel()
        self._stream = self._first
        self._sink.on_head(self._standing(declined.head, obstacle))
        for data in declined.kept:
            self._sink.on_data(data)
        if isinstance(declined.end, DevrouteError):
            self._sink.on_error(declined.end)
        elif declined.end is not None:
            self._sink.on_end(declined.end)
        elif not self._response_paused:
            self._first.resume_response()
        return True


class _DeclinedResponse:
    """The laptop's response, kept in case that the service cannot respond: `end` is what ended it, if
    anything has."""

    def __init__(self, stream: UpstreamStream, head: ResponseHead) -> None:
        self._stream = stream
        self._size = 0
        self.head = head
        self.kept: list[bytes] = []
        self.end: Headers | DevrouteError | None = None
        self.dropped = False

    def keep(self, data: bytes) -> None:
        self._size += len(data)
        if not self.dropped:
            self.kept.append(data)
        if self._size > MAX_DECLINED_BYTES:
            if self.dropped:
                self.cancel()
            else:
                self._stream.pause_response()

    def drop(self) -> None:
        """Read the rest to its end if that is near, and discard all."""
        self.dropped = True
        self.kept.clear()
        if self._size > MAX_DECLINED_BYTES:
            self.cancel()

    def cancel(self) -> None:
        self.dropped = True
        self.kept.clear()
        if self.end is None:
            self.end = []
            self._stream.cancel()


class _ServiceSink:
    """Passes the service's response on, with the reason for the failover in its headers."""

    def __init__(
        self,
        sink: ResponseSink,
        stream: _FailoverStream,
        upstream: FailoverUpstream,
        status: int,
        *,
        continued: bool,
    ) -> None:
        self._sink = sink
        self._stream = stream
        self._upstream = upstream
        self._status = status
        self._continued = continued
        self.on_data = sink.on_data
        self.on_end = sink.on_end
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request
        self._started = False

    def on_informational(self, head: ResponseHead) -> None:
        if not (self._continued and head.status == 100):  # the client has had a 100 already
            self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        """An error that did not come through the service's sidecar is the mesh's own: no healthy host, or an
        AuthorizationPolicy that does not know this proxy."""
        refused = head.status >= 400 and _RESULT.search(head.raw) is None
        if refused and self._stream.service_refused(f"the mesh refused it ({head.status})"):
            return
        self._started = True
        self._stream.service_responds()
        reason = f"{self._upstream.key}: failover from laptop {self._upstream.target} ({self._status})"
        self._sink.on_head(head.with_outcome("service", reason))

    def on_error(self, error: DevrouteError) -> None:
        if not self._started:
            if self._stream.service_refused(f"the service cannot be reached: {error.message}"):
                return
            key, target = self._upstream.key, self._upstream.target
            error = FailoverFailed(
                f"laptop {target} declined the request ({self._status}), but the service cannot be reached:"
                f" {error.message}",
                service=key,
                target=target,
            )
        self._sink.on_error(error)
