"""Failover between a fake laptop and a fake mesh. Through real Envoy: tests/envoy/test_failover.py."""

import pytest

from devroute.contract.offer_options import OfferOptions
from devroute.errors import FailoverFailed, UpstreamReset
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
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


def opened(target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink) -> UpstreamStream:
    options = OfferOptions(except_status=(404,), except_methods=("PUT",))
    upstream = FailoverUpstream(target, mesh, options, "foo", "alice", "foo answered by alice (tunnel)")
    return upstream.open(RequestHead(b"PUT", b"/a", Framing.CHUNKED, 0, WIRE), sink)


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
        b"x-devroute-failover: foo\r\nx: y\r\ntransfer-encoding: chunked\r\n\r\n"
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


def test_a_service_that_cannot_be_reached_is_an_error_that_names_the_laptop(
    target: RecordingUpstream, mesh: RecordingUpstream, sink: RecordingSink
) -> None:
    opened(target, mesh, sink).send_end([])
    target.sink.on_head(MISSING)
    mesh.sink.on_error(UpstreamReset("gone"))
    (error,) = sink.events
    assert isinstance(error, FailoverFailed)
    assert (error.service, error.target) == ("foo", "alice")
    assert error.message == "laptop alice declined the request (404), but the service cannot be reached: gone"
