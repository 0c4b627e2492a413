"""What came of an exchange, in words."""

import pytest

from devroute.http.grpc import NAMES, status_name
from devroute.inspector.capture import Capture, CapturedHead, Message, Opcode
from devroute.inspector.outcome import close_words, status_class, status_text
from devroute.inspector.views import as_summary


def capture(status: int | None, kind: str = "http", **changes: object) -> Capture:
    made = Capture("shop", "GET", "/", 1_700_000_000.0, 1.0)
    made.status, made.state = status, "done"
    for name, value in {"kind": kind, **changes}.items():
        setattr(made, name, value)
    return made


def web(trailers: bytes) -> Capture:
    """A call of gRPC-Web, whose trailers are the last message."""
    made = capture(200, "grpc")
    made.response_head = CapturedHead.of([("content-type", "application/grpc-web+proto")])
    made.response_body.data += b"\0\0\0\0\x02\x08\x2a" + trailers
    return made


def closing(data: bytes, opcode: Opcode = "close") -> Message:
    return Message(0.1, False, opcode, data, len(data))


@pytest.mark.parametrize(
    ("made", "outcome_class", "text"),
    [
        (capture(204), "2xx", "204"),
        (capture(None, state="open"), "open", ""),
        (capture(None, error=("app-unreachable", "refused")), "failed", "failed"),
        (capture(200, error=("app-broke-off", "reset")), "failed", "200"),
        (capture(200, "grpc", trailers=[("grpc-status", "0")]), "2xx", "OK"),
        (capture(200, "grpc", trailers=[("grpc-status", "5")]), "failed", "NOT_FOUND"),
        (capture(200, "grpc", trailers=[("grpc-status", "99")]), "failed", "gRPC 99"),
        (capture(200, "grpc"), "failed", "no status"),
        (capture(200, "grpc", state="open"), "2xx", ""),
        (capture(503, "grpc"), "failed", "HTTP 503"),
        (web(b"\x80\0\0\0\x10grpc-status: 5\r\n"), "failed", "NOT_FOUND"),
        (web(b"\x80\0\0\0\x0fgrpc-status:0\r\n"), "2xx", "OK"),
        (web(b"gAAAAA9ncnBjLXN0YXR1czowDQo="), "2xx", "200"),
        (capture(101, "websocket"), "1xx", "101"),
        (capture(101, "websocket", messages=[closing(b"\x03\xe8")]), "1xx", "closed 1000"),
        (capture(101, "websocket", messages=[closing(b"\x03\xf3oops")]), "failed", "closed 1011"),
        (capture(101, "websocket", messages=[closing(b"\x0f\xa0")]), "1xx", "closed 4000"),
        (capture(101, "websocket", messages=[closing(b"")]), "1xx", "closed 1005"),
    ],
)
def test_an_outcome_has_a_class_and_a_text(made: Capture, outcome_class: str, text: str) -> None:
    assert (status_class(made), status_text(made)) == (outcome_class, text)
    assert as_summary(made)["class"] == outcome_class


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x03\xe9", "1001 going away"),
        (b"\x03\xf3out of tea", "1011 internal error: out of tea"),
        (b"\x0f\xa0<b>", "4000 a code of the app: <b>"),
        (b"\x00\x01", "1 a code without a meaning"),
        (b"", "1005 no status"),
        (b"\x03\xe8\xff", "1000 normal closure: \ufffd"),
    ],
)
def test_a_close_frame_is_shown_in_words(data: bytes, words: str) -> None:
    assert close_words(closing(data)) == words


def test_every_code_of_grpc_has_its_name() -> None:
    assert (status_name(0), status_name(16), status_name(17), len(NAMES)) == (
        "OK",
        "UNAUTHENTICATED",
        "gRPC 17",
        17,
    )
