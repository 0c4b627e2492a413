"""Failover between a fake laptop and a fake mesh. Through real Envoy: tests/envoy/test_failover.py."""

import pytest

from devroute.contract.offer_options import OfferOptions
from devroute.errors import FailoverFailed, UpstreamReset
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead, ResponseHead
from devroute.upstream import failover
from devroute.upstream.failover import FailoverUpstream
from devroute.upstream.interface import UpstreamStream
from tests.upstream.fakes import OK, RecordingSink, RecordingUpstream

MISSING = parse_response_head(b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\n", b"PUT")
WIRE = (
    b"PUT /a HTTP/1.1\r\nHost: shop\r\nx-devroute-origin: foo.shop.svc.cluster.local:80\r\nx: y\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


@pytest.fixture
def mesh() -> RecordingUpstream:
    return RecordingUpstream()


def opened(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink, wire: bytes = WIRE
) -> UpstreamStream:
    options = OfferOptions(except_status=(404,), except_methods=("PUT",))
    upstream = FailoverUpstream(target, mesh, options, "foo", "alice", "foo answered by alice (tunnel)")
    return upstream.open(RequestHead(b"PUT", b"/a", Framing.CHUNKED, 0, wire), sink)


def test_a_declined_request_is_sent_to_the_service_with_what_was_kept_of_it(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    stream = opened(target, mesh, sink)
    stream.send_data(b"ab")
    stream.send_end([])
    target.sink.on_head(MISSING)
    target.sink.on_data(b"none")
    target.sink.on_end([])
    assert mesh.events == ["open", b"ab", "end"]
    assert mesh.head.wire == (
        b"PUT /a HTTP/1.1\r\nhost: foo.shop.svc.cluster.local:80\r\nx-devroute-host: shop\r\n"
        b"x-devroute-failover: foo\r\nx-devroute-egress: foo.shop.svc.cluster.local:80:0\r\n"
        b"x: y\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    mesh.sink.on_head(OK)
    mesh.sink.on_data(b"hello")
    mesh.sink.on_end([])
    assert sink.events == [200, b"hello", "end"]


def test_the_rest_of_a_request_is_sent_to_the_service_only(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    stream = opened(target, mesh, sink)
    stream.send_data(b"a")
    target.sink.on_head(MISSING)
    assert target.events == ["open", b"a", "cancel"]
    stream.send_data(b"b")
    stream.send_end([])
    assert mesh.events == ["open", b"a", b"b", "end"]


@pytest.mark.parametrize("early", [True, False])
def test_no_request_names_a_subject_under_the_proxy_s_certificate(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink, *, early: bool
) -> None:
    subject = b"x_devroute_subject: alice\r\nX-Devroute.Subject:alice\r\n"
    stream = opened(target, mesh, sink, WIRE.replace(b"x: y\r\n", subject + b"x_devroute_subjects: 1\r\n"))
    trailers = [(b"x-devroute-subject", b"alice"), (b"X_Devroute_Subject", b"alice"), (b"x-checksum", b"1")]
    if early:
        stream.send_end(trailers)
    target.sink.on_head(MISSING)
    if not early:
        stream.send_end(trailers)
    assert mesh.head.wire.count(b"ubject") == mesh.head.wire.count(b"\r\nx_devroute_subjects: 1\r\n") == 1
    assert mesh.trailers == [(b"x-checksum", b"1")]


def test_other_responses_stand(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    opened(target, mesh, sink).send_end([])
    target.sink.on_head(OK)
    target.sink.on_end([])
    assert (sink.events, mesh.events) == ([200, "end"], [])


def test_a_declined_response_stands_if_the_body_was_too_long_to_keep(
    target: RecordingUpstream,
    mesh: RecordingUpstream,
    sink: RecordingSink,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(failover, "MAX_KEPT_BYTES", 1)
    stream = opened(target, mesh, sink)
    stream.send_data(b"ab")
    stream.send_end([])
    target.sink.on_head(MISSING)
    assert (sink.events, mesh.events) == ([404], [])


REFUSED = parse_response_head(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 4\r\n\r\n", b"PUT")
SERVICES = parse_response_head(
    b"HTTP/1.1 403 Forbidden\r\nX-Devroute-Result: service\r\ncontent-length: 4\r\n\r\n", b"PUT"
)


@pytest.mark.parametrize("refusal", [REFUSED, UpstreamReset("gone")])
def test_where_the_mesh_refuses_the_laptops_response_stands(
    target: RecordingUpstream,
    mesh: RecordingUpstream,
    sink: RecordingSink,
    refusal: ResponseHead | UpstreamReset,
) -> None:
    opened(target, mesh, sink).send_end([])
    target.sink.on_head(MISSING)
    target.sink.on_data(b"no")
    assert sink.events == []
    if isinstance(refusal, ResponseHead):
        mesh.sink.on_head(refusal)
    else:
        mesh.sink.on_error(refusal)
    target.sink.on_data(b"ne")
    target.sink.on_end([])
    assert mesh.events == ["open", "end", "cancel"]
    assert sink.events == [404, b"no", b"ne", "end"]


def test_a_refusal_by_the_service_itself_is_passed_on(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    opened(target, mesh, sink).send_end([])
    target.sink.on_head(MISSING)
    target.sink.on_data(b"none")
    target.sink.on_end([])
    mesh.sink.on_head(SERVICES)
    assert sink.events == [403]


@pytest.mark.parametrize("refused", [False, True])
def test_of_a_long_response_the_rest_waits_for_the_service(
    target: RecordingUpstream,
    mesh: RecordingUpstream,
    sink: RecordingSink,
    monkeypatch: pytest.MonkeyPatch,
    refused: bool,
) -> None:
    monkeypatch.setattr(failover, "MAX_DECLINED_BYTES", 3)
    opened(target, mesh, sink).send_end([])
    target.sink.on_head(MISSING)
    target.sink.on_data(b"none")
    assert target.events == ["open", "end", "pause"]
    mesh.sink.on_head(REFUSED if refused else OK)
    assert target.events[3:] == (["resume"] if refused else ["cancel"])
    assert sink.events == ([404, b"none"] if refused else [200])


def test_without_the_laptops_response_a_service_that_cannot_be_reached_is_an_error_that_names_the_laptop(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    """The rest of the request went to the service, so that the laptop has been cancelled."""
    opened(target, mesh, sink)
    target.sink.on_head(MISSING)
    mesh.sink.on_error(UpstreamReset("gone"))
    (error,) = sink.events
    assert isinstance(error, FailoverFailed)
    assert (error.service, error.target) == ("foo", "alice")
    assert error.message == "laptop alice declined the request (404), but the service cannot be reached: gone"
