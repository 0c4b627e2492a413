"""HTTP/2 field lists to HTTP/1.1 heads and back."""

import pytest

from devroute.errors import RequestMalformed, UpstreamInvalid
from devroute.http.http2.headers import (
    is_grpc,
    read_request,
    read_response,
    read_trailers,
    write_request,
    write_response,
)
from devroute.http.message import Framing

GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/a?b"), (b":authority", b"foo:80")]


@pytest.mark.parametrize(
    ("more", "ended", "framing", "length"),
    [
        ([], True, Framing.NONE, 0),
        ([], False, Framing.CHUNKED, 0),
        ([(b"content-length", b"5")], False, Framing.LENGTH, 5),
        ([(b"content-length", b"0")], True, Framing.NONE, 0),
        ([(b"content-length", b"0")], False, Framing.NONE, 0),
    ],
)
def test_the_framing_of_a_request(
    more: list[tuple[bytes, bytes]], ended: bool, framing: Framing, length: int
) -> None:
    request = read_request([*GET, *more], ended=ended)
    assert (request.framing, request.length) == (framing, length)
    forward = request.forward()
    assert forward.wire.startswith(b"GET /a?b HTTP/1.1\r\nhost: foo:80\r\n")
    assert write_request(forward) == [*GET, *more, (b"via", b"2.0 devroute")]


@pytest.mark.parametrize(
    ("status", "more", "method", "ended", "framing"),
    [
        (b"200", [], b"GET", True, Framing.NONE),
        (b"200", [], b"GET", False, Framing.CHUNKED),
        (b"200", [(b"content-length", b"5")], b"GET", False, Framing.LENGTH),
        (b"200", [(b"content-length", b"5")], b"HEAD", True, Framing.NONE),
        (b"304", [(b"content-length", b"5")], b"GET", True, Framing.NONE),
        (b"204", [], b"GET", True, Framing.NONE),
        (b"103", [(b"link", b"</a>")], b"GET", False, Framing.NONE),
    ],
)
def test_the_framing_of_a_response(
    status: bytes, more: list[tuple[bytes, bytes]], method: bytes, ended: bool, framing: Framing
) -> None:
    head = read_response([(b":status", status), *more], method, ended=ended)
    assert (head.status, head.framing) == (int(status), framing)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(b":status", b"101")], "switches protocols"),
        ([(b":status", b"200 OK\r\nx: 1")], "pseudo-header field has characters"),
        ([(b":status", b"20")], "pseudo-header field has characters"),
        ([], "pseudo-header field has characters"),
        ([(b":status", b"200"), (b":path", b"/")], "pseudo-header field is unknown"),
        ([(b":status", b"200"), (b"content-length", b"5")], "announces a body, but there is none"),
        (
            [(b":status", b"200"), (b"transfer-encoding", b"chunked")],
            "is a field of HTTP/1.1",
        ),
        ([(b":status", b"200"), (b"x", b"1\r\ny: 2")], "field value has control characters"),
    ],
)
def test_an_invalid_response_is_refused(fields: list[tuple[bytes, bytes]], reason: str) -> None:
    with pytest.raises(UpstreamInvalid, match=reason):
        read_response(fields, b"GET", ended=True)


def test_a_grpc_response_loses_the_content_length_that_http11_needs() -> None:
    fields = [(b":status", b"200"), (b"content-type", b"application/grpc"), (b"grpc-status", b"5")]
    head = read_response(fields, b"POST", ended=True)
    assert b"content-length: 0" in head.raw
    assert write_response(head, [(b"x", b"1")]) == [*fields, (b"x", b"1")]


@pytest.mark.parametrize(
    ("trailer", "reason"),
    [
        ((b":status", b"1"), "pseudo-header field is unknown, repeated or late"),
        ((b"content-length", b"1"), "content-length in a trailer section"),
        ((b"x", b"1\n"), "field value has control characters"),
        ((b"x", b"y" * 20_000), "trailer section of more than 16384 bytes"),
    ],
)
def test_invalid_trailers_are_refused(trailer: tuple[bytes, bytes], reason: str) -> None:
    with pytest.raises(RequestMalformed, match=reason):
        read_trailers([(b"x-good", b"1"), trailer], RequestMalformed)


@pytest.mark.parametrize(
    ("kind", "grpc"),
    [
        (b"application/grpc", True),
        (b"application/grpc+proto", True),
        (b"application/grpc;charset=x", True),
        (b"application/grpc-web", False),
        (b"application/grpc-web+proto", False),
        (b"application/json", False),
    ],
)
def test_grpc_is_recognised_by_its_content_type(kind: bytes, grpc: bool) -> None:
    assert is_grpc(b"POST / HTTP/1.1\r\nContent-Type: %b\r\n\r\n" % kind) is grpc


def test_white_space_at_the_ends_of_a_value_is_removed() -> None:
    """As grpc-message may have it: "no user: "."""
    spaced = [(b"grpc-message", b"no user: "), (b"x-metadata", b"\t a b\t"), (b"x-blank", b"  ")]
    trimmed = [(b"grpc-message", b"no user:"), (b"x-metadata", b"a b"), (b"x-blank", b"")]
    assert read_trailers(spaced, UpstreamInvalid) == trimmed
    response = read_response([(b":status", b"200"), *spaced], b"POST", ended=False)
    assert write_response(response, [])[1:] == trimmed
    start = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"foo")]
    request = read_request([*start, *spaced], ended=True)
    assert [field for field in write_request(request.forward()) if field in trimmed] == trimmed


@pytest.mark.parametrize("status", [b"200", b"599", b"600", b"999"])
def test_any_status_of_three_digits_is_passed_on(status: bytes) -> None:
    head = read_response([(b":status", status), (b"content-length", b"0")], b"GET", ended=True)
    assert write_response(head, [])[0] == (b":status", status)
