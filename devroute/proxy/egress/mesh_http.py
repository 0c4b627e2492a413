"""What a laptop reaches by HTTP: its requests go to the egress listener of the proxy's own sidecar, so that
the mesh's TLS, telemetry and policies hold. Owns what is rewritten in a request's head, and the errors that
explain what the mesh itself responded.
"""

import re
from dataclasses import dataclass
from typing import Final

from devroute.contract.destination import Destination
from devroute.errors import (
    CircuitOpen,
    DevrouteError,
    HeadTooLarge,
    ReachRefused,
    ReachUnavailable,
    RequestMalformed,
    ServiceUnknown,
    TargetUnreachable,
)
from devroute.headers import EGRESS, SUBJECT, TRACE, VIA
from devroute.http.http1.request import parse_request_head
from devroute.http.message import VIA_HTTP2, Framing, Headers, HeadLimits, RequestHead, ResponseHead
from devroute.http.subject_field import SIGN
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.quota import RefusedStream

#: Fields that only the mesh may set: the caller's certificate, what Envoy obeys, what devroute's parts say to
#: each other, in every spelling. The contract itself, and what goes with it through the chain, are the app's.
_OF_THE_MESH: Final = re.compile(
    rf"\r\n(?:forwarded|x{SIGN}forwarded{SIGN}client{SIGN}cert|x{SIGN}envoy{SIGN}[^:\r]*"
    rf"|(?!{VIA}:|{TRACE}:)x{SIGN}devroute{SIGN}[^:\r]*):[^\r]*".encode(),
    re.IGNORECASE,
)
_HOST: Final = re.compile(rb"\r\nhost:[^\r]*", re.IGNORECASE)
_ADDED: Final = f"\r\nhost: %b\r\n{SUBJECT}: %b\r\n{EGRESS}: %b:0".encode()

#: Bytes of a response of Envoy's own that are read in order to explain it.
MAX_EXPLAINED: Final = 2048
#: The body of a refusal by an AuthorizationPolicy, and the same as a gRPC message.
_DENIED: Final = b"RBAC: access denied"
_GRPC_DENIED: Final = re.compile(
    rb"\r\ngrpc-message:[ \t]*RBAC(?::|%3A)(?: |%20)access(?: |%20)denied", re.IGNORECASE
)
_NO_PODS: Final = b"no healthy upstream"
_FROM_SERVICE: Final = re.compile(rb"\r\nx-envoy-upstream-service-time:", re.IGNORECASE)
_FROM_ENVOY: Final = re.compile(rb"\r\nserver:[ \t]*(?:istio-)?envoy\r", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class MeshHttp:
    """One destination for the laptops of one subject; implements Upstream. `mesh`: the egress listener."""

    mesh: Upstream | None
    destination: Destination
    host: bytes
    subject: bytes
    limits: HeadLimits

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        if self.mesh is None:
            return RefusedStream(sink, ReachUnavailable("the proxy has no way into the mesh by HTTP"))
        try:
            request = self.request(head)
        except DevrouteError as error:
            return RefusedStream(sink, error)
        return self.mesh.open(request, _MeshSink(sink, self.destination))

    def request(self, head: RequestHead) -> RequestHead:
        """The request for the mesh. The agent is not trusted: its head is validated like a sidecar's. Raises
        HeadTooLarge, RequestMalformed or NotSupported."""
        if len(head.wire) > self.limits.size:
            raise HeadTooLarge(f"the head is longer than {self.limits.size} bytes")
        inbound = parse_request_head(head.wire, self.limits.fields)
        if (inbound.framing, inbound.length) != (head.framing, head.length):
            raise RequestMalformed("the head announces another body than the frame that opened the stream")
        inbound.http2 = VIA_HTTP2 in head.wire
        forwarded = inbound.forward()
        wire = _OF_THE_MESH.sub(b"", forwarded.wire)
        ours = _ADDED % (self.host, self.subject, self.host)
        wire = _HOST.sub(ours, wire, count=1)
        return RequestHead(forwarded.method, forwarded.target, forwarded.framing, forwarded.length, wire)


def without_mesh_fields(trailers: Headers) -> Headers:
    """An app's trailers for the mesh, without those that only the mesh may set: some servers merge trailers
    into the head."""
    return [each for each in trailers if _OF_THE_MESH.match(b"\r\n%b:" % each[0]) is None]


class _MeshSink:
    """Passes a response on, unless the mesh made it in the service's place: then as an error that says what
    to do."""

    __slots__ = ("_body", "_destination", "_held", "_sink")

    def __init__(self, sink: ResponseSink, destination: Destination) -> None:
        self._sink = sink
        self._destination = destination
        self._held: ResponseHead | None = None
        self._body = b""

    def on_informational(self, head: ResponseHead) -> None:
        self._sink.on_informational(head)

    def on_head(self, head: ResponseHead) -> None:
        if _may_be_of_the_mesh(head):
            self._held = head
        else:
            self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        if self._held is None:
            self._sink.on_data(data)
            return
        self._body += data
        if len(self._body) > MAX_EXPLAINED:
            self._release()

    def on_end(self, trailers: Headers) -> None:
        if self._held is None:
            self._sink.on_end(trailers)
        elif (error := _explained(self._held, self._body, self._destination)) is not None:
            self._sink.on_error(error)
        else:
            self._release()
            self._sink.on_end(trailers)

    def _release(self) -> None:
        held, self._held = self._held, None
        body, self._body = self._body, b""
        if held is not None:
            self._sink.on_head(held)
            if body:
                self._sink.on_data(body)

    def on_error(self, error: DevrouteError) -> None:
        self._release()
        if isinstance(error, TargetUnreachable | CircuitOpen):  # the listener, not the service
            error = ReachUnavailable(
                f"the proxy's own sidecar has no egress listener: {error.message}",
                hint="the platform team looks at mesh_egress and at the Sidecar resource of the proxy",
            )
        self._sink.on_error(error)

    def pause_request(self) -> None:
        self._sink.pause_request()

    def resume_request(self) -> None:
        self._sink.resume_request()


def _may_be_of_the_mesh(head: ResponseHead) -> bool:
    """Whether the body may say that an Envoy responded in the service's place."""
    status = head.status
    if status == 200:
        return _GRPC_DENIED.search(head.raw) is not None
    if status == 403:
        return head.framing is Framing.LENGTH and head.length == len(_DENIED)
    return (
        status in (502, 503)
        and (
            head.framing is Framing.NONE or (head.framing is Framing.LENGTH and head.length <= MAX_EXPLAINED)
        )
        and _FROM_ENVOY.search(head.raw) is not None
        and _FROM_SERVICE.search(head.raw) is None
    )


def _explained(head: ResponseHead, body: bytes, destination: Destination) -> DevrouteError | None:
    """The error for a response that the mesh made; None if it is the service's own."""
    service = str(destination)
    if head.status == 200 or (head.status == 403 and body == _DENIED):
        return ReachRefused(
            f"{service} refused the request: an AuthorizationPolicy does not admit devroute's proxy",
            hint="the platform team admits its principal there (docs/reach-platform.md)",
            service=service,
        )
    if head.status == 403:
        return None
    where = f"kubectl get service -n {destination.namespace}" if destination.namespace else "its ServiceEntry"
    if not body and head.status == 502:
        return ServiceUnknown(
            f"the mesh knows no service {service}",
            hint=f"check name, namespace and port: {where}",
            service=service,
        )
    if body == _NO_PODS or not body:  # the response to HEAD has none, nor one for an unknown cluster
        return ServiceUnknown(
            f"no pod of {service} is ready, or the service is headless",
            hint=f"check {where}; a VirtualService has to name the port if the service has several",
            service=service,
        )
    text = body.decode("utf-8", "replace")
    return TargetUnreachable(
        f"the proxy's sidecar cannot reach {service}: {text}",
        hint="a TLS error: its DestinationRule and PeerAuthentication contradict each other"
        if "TLS" in text
        else None,
        service=service,
    )
