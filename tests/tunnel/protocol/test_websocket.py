import base64
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import ProtocolError
from devroute.tunnel.protocol import websocket
from devroute.tunnel.protocol.masking import mask_arithmetically
from devroute.tunnel.protocol.websocket import KEYS_BYTES, WebSocket, split_head
from tests.support.examples import examples

KEY = b"\x37\xfa\x21\x3d"


def pair() -> tuple[WebSocket, WebSocket]:
    return WebSocket(client=True, random=lambda n: KEY), WebSocket(client=False, random=lambda n: KEY)


def payload(end: WebSocket, data: bytes, *cuts: int) -> bytes:
    places = sorted({0, len(data), *cuts})
    got = b""
    for start, stop in zip(places, places[1:], strict=False):  # noqa: RUF007 - two names read better
        # The shell hands over a buffer that it writes again: what is kept must have been copied.
        buffer = bytearray(data[start:stop])
        got += b"".join(bytes(piece) for piece in end.receive(memoryview(buffer)))
        buffer[:] = bytes(len(buffer))
    return got


def test_the_example_of_the_rfc_is_masked_as_it_says() -> None:
    # RFC 6455 §5.7 has "Hello" as text; the opcode differs, the masking is the same.
    client, _ = pair()
    assert client.encode([b"Hel", b"lo"]).hex() == "8285" + "37fa213d" + "7f9f4d5158"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 70001])
def test_every_length_form_goes_both_ways(size: int) -> None:
    client, server = pair()
    data = bytes(i * 7 % 256 for i in range(size))
    assert payload(server, bytes(client.encode([data[:3], data[3:]]))) == data
    assert payload(client, bytes(server.encode([data]))) == data


@examples(80)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.lists(st.integers(1, 1500), max_size=20))
def test_any_split_gives_the_same_payload(messages: list[bytes], cuts: list[int]) -> None:
    for sender, receiver in (pair(), pair()[::-1]):
        data = b"".join(bytes(sender.encode([m])) for m in messages)
        assert payload(receiver, data, *(c for c in cuts if c < len(data))) == b"".join(messages)


@examples(80)
@given(st.lists(st.binary(max_size=300), min_size=1, max_size=5), st.lists(st.integers(1, 64), min_size=1))
def test_what_is_unmasked_in_the_buffer_gives_the_same_payload(
    messages: list[bytes], sizes: list[int]
) -> None:
    client, server = pair()
    data = b"".join(bytes(client.encode([message])) for message in messages)
    buffer = bytearray(64)
    got = b""
    for size in itertools.cycle(sizes):
        read, data = data[:size], data[size:]
        if not read:
            break
        buffer[: len(read)] = read
        got += b"".join(bytes(piece) for piece in server.receive(memoryview(buffer)[: len(read)], buffer))
    assert got == b"".join(messages)


def test_most_of_a_buffer_is_unmasked_without_a_copy() -> None:
    client, server = pair()
    message = bytes(client.encode([bytes(100)]))
    buffer = bytearray(message[:64])
    (piece,) = server.receive(memoryview(buffer), buffer)
    assert isinstance(piece, memoryview)
    assert piece.obj is buffer
    (rest,) = server.receive(message[64:])
    assert bytes(piece) + bytes(rest) == bytes(100)


def test_each_message_has_a_key_of_its_own() -> None:
    drawn = b"".join(number.to_bytes(4) for number in range(1000))
    left = [drawn[at : at + KEYS_BYTES] for at in range(0, len(drawn), KEYS_BYTES)]
    client = WebSocket(client=True, random=lambda size: left.pop(0)[:size])
    keys = [bytes(client.encode([b"x"]))[2:6] for _ in range(600)]
    assert b"".join(keys) == drawn[: 4 * 600]


@pytest.mark.parametrize("end", [0, 1])
def test_a_message_in_pieces_is_the_same_message(end: int) -> None:
    pieces = [b"one", b"", bytes(300)]
    assert b"".join(pair()[end].frame(list(pieces))) == bytes(pair()[end].encode(pieces))


def test_the_routine_in_c_is_used_where_aiohttp_has_one() -> None:
    pytest.importorskip("aiohttp._websocket.mask")
    assert websocket.mask is not mask_arithmetically


@examples(50)
@given(st.binary(min_size=4, max_size=4), st.binary(max_size=200))
def test_masking_in_c_and_in_python_agree(key: bytes, data: bytes) -> None:
    one, other = bytearray(data), bytearray(data)
    websocket.mask(key, one)
    mask_arithmetically(key, other)
    assert one == other == bytes(b ^ key[i % 4] for i, b in enumerate(data))


def test_fragments_and_pings_between_them_are_accepted() -> None:
    _, server = pair()
    frame = _masked(0x02, b"abc") + _masked(0x89, b"are you there") + _masked(0x80, b"def")
    assert payload(server, frame, 4, 12) == b"abcdef"
    assert server.replies == [b"\x8a\x0dare you there"]


def test_a_flood_of_pings_costs_no_memory() -> None:
    _, server = pair()
    payload(server, _masked(0x89, b"x") * 10_000)
    assert len(server.replies) == 2


def test_a_close_gets_a_close_and_nothing_is_read_after_it() -> None:
    client, server = pair()
    assert payload(server, client.close(1001) + bytes(client.encode([b"late"]))) == b""
    assert server.closed == 1001
    assert server.error is None
    assert server.replies == [b"\x88\x02\x03\xe8"]


def _masked(first: int, data: bytes) -> bytes:
    body = bytearray(data)
    websocket.mask(KEY, body)
    return struct.pack("!BB", first, 0x80 | len(data)) + KEY + bytes(body)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (_masked(0x81, b"text"), "opcode 1: only binary"),
        (_masked(0x83, b""), "opcode 3: only binary"),
        (_masked(0x8B, b""), "opcode 11"),
        (_masked(0xC2, b"reserved bit"), "reserved bits"),
        (_masked(0x80, b"continues nothing"), "continuation frame out of order"),
        (_masked(0x02, b"a") + _masked(0x82, b"starts anew"), "continuation frame out of order"),
        (_masked(0x09, b"fragmented ping"), "long or fragmented WebSocket control frame"),
        (_masked(0x88, b"1"), "close of one byte"),
        (b"\x82\x01x", "masked on the wrong side"),
        (b"\x89\xfe\x00\xff", "long or fragmented WebSocket control frame"),
        (b"\x82\xff\xff\xff\xff\xff\xff\xff\xff\xff" + KEY, "frame of 18446744073709551615 bytes"),
    ],
)
def test_a_peer_that_breaks_the_rfc_is_closed_with_1002(frame: bytes, reason: str) -> None:
    _, server = pair()
    payload(server, frame)
    assert server.error is not None
    assert reason in server.error.message
    assert server.closed == 1002
    assert server.replies == [b"\x88\x02\x03\xea"]


def test_a_masked_server_is_refused() -> None:
    client, _ = pair()
    payload(client, _masked(0x82, b"x"))
    assert client.error is not None
    assert "masked on the wrong side" in client.error.message


REQUEST, SENT_KEY = websocket.request_upgrade(
    "proxy:8081", "/tunnel", {"authorization": "Bearer t"}, b"n" * 16
)


def test_the_handshake_of_the_rfc() -> None:
    head = split_head(REQUEST.replace(SENT_KEY, b"dGhlIHNhbXBsZSBub25jZQ=="))
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in websocket.accept_upgrade(head)


def test_client_and_server_agree() -> None:
    head = split_head(websocket.accept_upgrade(split_head(REQUEST)))
    websocket.check_upgraded(head, SENT_KEY)
    with pytest.raises(ProtocolError, match="does not match the request"):
        websocket.check_upgraded(head, base64.b64encode(b"another key here"))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"upgrade: websocket", b"upgrade: h2c", "not a WebSocket upgrade"),
        (b"connection: Upgrade", b"connection: close", "not a WebSocket upgrade"),
        (b"version: 13", b"version: 8", "version other than 13"),
        (SENT_KEY, b"not base64!", "Sec-WebSocket-Key"),
        (SENT_KEY, base64.b64encode(b"short"), "Sec-WebSocket-Key"),
    ],
)
def test_a_request_that_is_no_upgrade_is_refused(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        websocket.accept_upgrade(split_head(REQUEST.replace(old, new)))


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"accept: ", b"accept: x"), (b"upgrade: websocket", b"x: y\r\nsec-websocket-protocol: z")],
)
def test_a_response_that_does_not_match_the_request_is_refused(old: bytes, new: bytes) -> None:
    answer = websocket.accept_upgrade(split_head(REQUEST)).replace(old, new)
    with pytest.raises(ProtocolError, match="does not match the request"):
        websocket.check_upgraded(split_head(answer), SENT_KEY)


@pytest.mark.parametrize("line", [b"no colon", b": no name", b"name : v", b" folded: v", b"a: b\nc: d"])
def test_a_malformed_field_line_is_refused(line: bytes) -> None:
    with pytest.raises(ProtocolError, match="malformed field line"):
        split_head(b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n")
