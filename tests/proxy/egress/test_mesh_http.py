"""Requests of a laptop by HTTP: what the mesh gets of a head, and errors for what the mesh itself says."""

import asyncio

import pytest

from devroute.contract.destination import parse_destination
from devroute.errors import (
    DevrouteError,
    ReachRefused,
    ReachUnavailable,
    RequestMalformed,
    ServiceUnknown,
    TargetUnreachable,
)
from devroute.http.http1.response import parse_response_head
from devroute.http.message import HEAD_LIMITS, VIA_HTTP2, Framing, RequestHead
from devroute.proxy.egress.mesh_http import MAX_EXPLAINED, MeshHttp
from devroute.upstream.interface import Upstream
from tests.support.loopback import App, AppStream, Client


def upstream(mesh: Upstream | None = None) -> MeshHttp:
    destination = parse_destination("c.shop:80")
    return MeshHttp(mesh, destination, b"c.shop.svc.cluster.local:80", b"alice", HEAD_LIMITS)


def head(
    *lines: bytes, framing: Framing = Framing.NONE, length: int = 0, method: bytes = b"GET"
) -> RequestHead:
    wire = b"\r\n".join((method + b" /a?b=c HTTP/1.1", b"host: localhost:9002", *lines, b"", b""))
    return RequestHead(method, b"/a?b=c", framing, length, wire)


#: Field lines of an app, and what the mesh gets of them.
FIELDS: dict[bytes, bytes] = {
    b'x-devroute: {"b": "bob"}': b'x-devroute: {"b": "bob"}',
    b"x-devroute-via: b": b"x-devroute-via: b",
    b"x-devroute-trace: 7": b"x-devroute-trace: 7",
    b"baggage: devroute=x": b"baggage: devroute=x",
    b"authorization: Bearer x": b"authorization: Bearer x",
    b"traceparent: 00-x": b"traceparent: 00-x",
    b"X-DevRoute-Subject: mallory": b"",
    b"x-devroute-caller: spiffe://a/ns/b/sa/c": b"",
    b"x-devroute-failover: c": b"",
    b"x-devroute-host: c": b"",
    b"x-devroute-egress: admin.shop.svc.cluster.local:80:0": b"",
    b"x-devroute-matched: c": b"",
    b"x-devroute-viaduct: c": b"",
    b"X-Forwarded-Client-Cert: By=spiffe://x;URI=spiffe://y": b"",
    b"forwarded: for=1.2.3.4": b"",
    b"x-envoy-original-dst-host: 169.254.169.254:80": b"",
    b"x-envoy-retry-on: 5xx": b"",
    b"x_devroute_subject: mallory": b"",
    b"X.Devroute-Subject: mallory": b"",
    b"x_devroute_via: b": b"",
    b"x_forwarded_client_cert: By=spiffe://x": b"",
    b"X-Envoy_Peer-Metadata: x": b"",
    b"x-forwarded-for: 1.2.3.4": b"x-forwarded-for: 1.2.3.4",
    b"x-devroutes: c": b"x-devroutes: c",
    b"connection: close": b"",
    b"connection: x-devroute-subject, host": b"",
    b"keep-alive: timeout=5": b"",
}


@pytest.mark.parametrize("line", FIELDS, ids=lambda line: line.partition(b":")[0].decode())
def test_the_mesh_gets_the_app_s_fields_without_those_that_only_the_mesh_may_set(line: bytes) -> None:
    wire = upstream().request(head(line, b"x-app: 1")).wire
    kept = FIELDS[line] + b"\r\n" if FIELDS[line] else b""
    assert wire == (
        b"GET /a?b=c HTTP/1.1\r\nhost: c.shop.svc.cluster.local:80\r\nx-devroute-subject: alice\r\n"
        b"x-devroute-egress: c.shop.svc.cluster.local:80:0\r\n"
        + kept
        + b"x-app: 1\r\nvia: 1.1 devroute\r\n\r\n"
    )


def test_an_absolute_target_leads_nowhere_else() -> None:
    wire = b"GET http://kubernetes.default/api HTTP/1.1\r\nhost: kubernetes.default\r\n\r\n"
    request = upstream().request(RequestHead(b"GET", b"/", Framing.NONE, 0, wire))
    assert request.wire.startswith(b"GET /api HTTP/1.1\r\nhost: c.shop.svc.cluster.local:80\r\n")


def test_the_last_hop_learns_that_the_app_speaks_http2() -> None:
    wire = head().wire[:-2] + VIA_HTTP2
    request = upstream().request(RequestHead(b"GET", b"/", Framing.NONE, 0, wire))
    assert request.wire.endswith(VIA_HTTP2)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (head(b"content-length: 5"), "announces another body"),
        (head(b"content-length: 5", framing=Framing.LENGTH, length=6), "announces another body"),
        (head(b"transfer-encoding: chunked", framing=Framing.LENGTH, length=5), "announces another body"),
        (
            head(b"content-length: 5", b"transfer-encoding: chunked", framing=Framing.CHUNKED),
            "transfer-encoding",
        ),
        (head(b"host: other"), "2 host fields"),
        (head(b"x: a\nhost: evil"), "a bare CR or LF"),
        (head(b" folded"), "a folded field line"),
        (head(b"", b"GET /x HTTP/1.1"), "an empty line within the head"),
        (head(b"", b"GET /x HTTP/1.1", b"x: y"), "an empty line within the head"),
        (head(b"connection: upgrade", framing=Framing.UPGRADE), "announces another body"),
        (head(method=b"CONNECT"), "CONNECT is not forwarded"),
        (head(b"x: " + b"y" * HEAD_LIMITS.size), f"longer than {HEAD_LIMITS.size} bytes"),
        (head(*[b"x: y"] * (HEAD_LIMITS.fields + 1)), f"at most {HEAD_LIMITS.fields} are accepted"),
        (RequestHead(b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\r\n\r\n"), "0 host fields"),
        (
            RequestHead(b"GET", b"/", Framing.NONE, 0, b"GET / HTTP/1.1\nhost: x\n\n\r\n\r\n"),
            "the request line is not",
        ),
    ],
    ids=range(15),
)
def test_a_head_that_an_agent_should_not_have_sent_is_refused(bad: RequestHead, reason: str) -> None:
    with pytest.raises(DevrouteError, match=reason) as caught:
        upstream().request(bad)
    assert caught.value.status in range(400, 502)


async def response(raw: bytes, *pieces: bytes, error: DevrouteError | None = None) -> Client:
    """What the laptop gets for a response of the egress listener."""

    def serve(stream: AppStream) -> None:
        if raw:
            stream.sink.on_head(parse_response_head(raw, b"GET"))
        for piece in pieces:
            stream.sink.on_data(piece)
        if error is None:
            stream.sink.on_end([])
        else:
            stream.sink.on_error(error)

    client = Client()
    upstream(App(serve)).open(head(), client)
    await asyncio.wait_for(client.done.wait(), 20)
    return client


ENVOY = b"server: envoy\r\n"
FROM_C = ENVOY + b"x-envoy-upstream-service-time: 3\r\n"
DENIED = b"RBAC: access denied"
NO_PODS = b"no healthy upstream"
TLS = b"upstream connect error or disconnect/reset before headers. reset reason: TLS_error: x"


def sized(status: int, body: bytes, fields: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\n%bcontent-length: %d\r\n\r\n" % (status, fields, len(body))


#: What the egress listener responds; the error for the laptop, None where it gets the response; and a part of
#: the error's message or hint.
EXPLAINED = {
    "an AuthorizationPolicy": (sized(403, DENIED, FROM_C), DENIED, ReachRefused, "admits its principal"),
    "the same by gRPC": (
        sized(200, b"", b"grpc-status: 7\r\ngrpc-message: RBAC%3A%20access%20denied\r\n"),
        b"", ReachRefused, "c.shop:80 refused the request",
    ),
    "a 403 of the service": (sized(403, b"go away, go away!!!", FROM_C), b"go away, go away!!!", None, ""),
    "no such service": (sized(502, b"", ENVOY), b"", ServiceUnknown, "kubectl get service -n shop"),
    "no pods": (sized(503, NO_PODS, ENVOY), NO_PODS, ServiceUnknown, "no pod of c.shop:80 is ready"),
    "no pods, to HEAD": (sized(503, b"", ENVOY), b"", ServiceUnknown, "no pod of c.shop:80 is ready"),
    "a TLS error": (sized(503, TLS, ENVOY), TLS, TargetUnreachable, "PeerAuthentication contradict"),
    "a 502 of the service": (sized(502, b"", FROM_C), b"", None, ""),
    "a 503 of the service": (sized(503, NO_PODS, FROM_C), NO_PODS, None, ""),
    "a 502 of something else": (sized(502, b"", b"server: nginx\r\n"), b"", None, ""),
}  # fmt: skip


@pytest.mark.parametrize("name", EXPLAINED)
async def test_what_the_mesh_responds_in_the_service_s_place_becomes_an_error_that_teaches(name: str) -> None:
    raw, body, kind, text = EXPLAINED[name]
    client = await response(raw, *([body[:7], body[7:]] if body else []))
    if kind is None:
        assert (client.error, bytes(client.body), client.heads[0].raw) == (None, body, raw)
    else:
        assert type(client.error) is kind
        assert text in client.error.message + client.error.hint
        assert (client.heads, client.size) == ([], 0)


async def test_a_longer_response_is_passed_on_as_it_is() -> None:
    raw = b"HTTP/1.1 503 X\r\n" + ENVOY + b"content-length: %d\r\n\r\n" % (MAX_EXPLAINED + 1)
    client = await response(raw, bytes(MAX_EXPLAINED + 1))
    assert (client.error, client.size) == (None, MAX_EXPLAINED + 1)


async def test_a_response_that_breaks_off_while_it_is_looked_at_is_an_error_after_its_head() -> None:
    client = await response(sized(403, DENIED), DENIED[:5], error=RequestMalformed("cut off"))
    assert (client.heads[0].status, client.body) == (403, DENIED[:5])
    assert isinstance(client.error, RequestMalformed)


async def test_without_an_egress_listener_the_error_says_what_to_set() -> None:
    client = Client()
    upstream(None).open(head(), client)
    await asyncio.wait_for(client.done.wait(), 20)
    assert isinstance(client.error, ReachUnavailable)
    assert "mesh_egress" in client.error.hint
    refused = await response(b"", error=TargetUnreachable("127.0.0.1:15080 refused the connection"))
    assert isinstance(refused.error, ReachUnavailable)
    assert "has no egress listener: 127.0.0.1:15080 refused" in refused.error.message
