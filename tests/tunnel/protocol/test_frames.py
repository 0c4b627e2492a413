import pytest

from devroute.errors import AppUnreachable, ProtocolError, UpstreamReset
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.frames import Flag, FrameType


def test_the_wire_vectors_of_version_1() -> None:
    assert frames.HEADER.pack(FrameType.DATA, Flag.END, 7, 5).hex() == "05010000000700000005"
    assert frames.OPEN_HEADER.pack(FrameType.OPEN, Flag.CHUNKED, 1, 30, 0, 3).hex() == (
        "0304000000010000001e000000000000000003"
    )
    assert frames.CREDIT_FRAME.pack(FrameType.CREDIT, 0, 2, 4, 524288).hex() == "0900000000020000000400080000"
    assert frames.HEADER.pack(FrameType.RENEW, 0, 0, 3).hex() == "0d000000000000000003"
    assert frames.HEADER.pack(FrameType.RENEWED, 0, 0, 2).hex() == "0e000000000000000002"
    assert frames.encode_reason("cancelled", "gone", "") == b"cancelled\ngone\n"


def test_a_reason_becomes_the_error_its_code_names() -> None:
    reason = frames.decode_reason(frames.encode_reason("app-unreachable", "nothing listens", "start it"))
    error = reason.as_error(UpstreamReset)
    assert isinstance(error, AppUnreachable)
    assert (error.message, error.hint) == ("nothing listens", "start it")
    assert isinstance(frames.Reason("no-such-code", "", "").as_error(UpstreamReset), UpstreamReset)


def test_a_reason_cannot_smuggle_lines_or_terminal_codes() -> None:
    assert frames.decode_reason(frames.encode_reason("a\nb", "c\r\nd", "e")) == ("a b", "c d", "e")
    assert frames.decode_reason(b"code\n\x1b[31mred\r\n").message == " [31mred "


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"one line", "of 1 lines"), (b"a\nb\nc\nd", "of 4 lines"), (b"\xff\n\n", "not UTF-8")],
)
def test_a_reason_that_is_not_three_lines_of_text_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        frames.decode_reason(payload)


def test_a_long_reason_keeps_its_code_and_fits() -> None:
    payload = frames.encode_reason("code", "é" * 10_000, "h" * 10_000)
    assert len(payload) <= frames.MAX_REASON
    assert frames.decode_reason(payload).code == "code"


def test_trailers_survive_and_may_not_frame_anything() -> None:
    trailers = [(b"grpc-status", b"0"), (b"x", b"a: b")]
    assert frames.decode_trailers(frames.encode_trailers(trailers)) == trailers
    for payload, reason in (
        (b"content-length: 3\r\n", "content-length in a trailer section"),
        (b"bad line\r\n", "malformed"),
        (b"a: b\r\n\r\nGET / HTTP/1.1\r\n", "empty line"),
        (b"a: b", "empty line"),
        (b"a: b\n", "bare LF"),
    ):
        with pytest.raises(ProtocolError, match=reason):
            frames.decode_trailers(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "too short"),
        (b"\0" * 8, "too short"),
        (b"\0" * 8 + b"\x05foo", "without a whole head"),
        (b"\0" * 8 + b"\x03fooGET / HTTP/1.1\r\n", "without a whole head"),
    ],
)
def test_an_open_without_a_whole_head_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=f"^OPEN .*{reason}"):
        frames.decode_open(payload)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [(b"", "of 0 bytes"), (b"\0\0\0\0", "for 0 bytes"), (b"\0\0\0\0\1", "of 5 bytes")],
)
def test_a_credit_of_nothing_is_refused(payload: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=f"^CREDIT {reason}"):
        frames.decode_credit(payload)
