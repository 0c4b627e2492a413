"""Messages are found in streams of bytes, however these are chunked."""

import os
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.inspector.capture import Message
from devroute.inspector.messages import GrpcMessages, Watcher, WebSocketMessages


def fed(watcher: Watcher, data: bytes, size: int) -> list[Message]:
    return [m for at in range(0, len(data), size) for m in watcher.feed(data[at : at + size], at / 10)]


def frame(
    opcode: int, payload: bytes, *, masked: bool = False, fin: bool = True, rsv1: bool = False
) -> bytes:
    first = opcode | (0x80 if fin else 0) | (0x40 if rsv1 else 0)
    bit = 0x80 if masked else 0
    size = len(payload)
    if size < 126:
        head = bytes((first, bit | size))
    elif size < 65536:
        head = struct.pack("!BBH", first, bit | 126, size)
    else:
        head = struct.pack("!BBQ", first, bit | 127, size)
    if not masked:
        return head + payload
    key = os.urandom(4)
    return head + key + bytes(byte ^ key[index % 4] for index, byte in enumerate(payload))


talks = st.lists(
    st.tuples(
        st.sampled_from([1, 2, 8, 9, 10]),
        st.binary(max_size=100) | st.integers(120, 70_000).map(bytes),
        st.integers(1, 3),
    ),
    max_size=6,
)


@given(talks, st.booleans(), st.integers(1, 5000))
def test_websocket_messages_are_found_in_any_chunks(
    talk: list[tuple[int, bytes, int]], masked: bool, size: int
) -> None:
    wire, wanted = b"", []
    for opcode, payload, parts in talk:
        if opcode >= 8:
            payload, parts = payload[:125], 1
        wanted.append((opcode, payload))
        step = max(1, -(-len(payload) // parts))
        pieces = [payload[at : at + step] for at in range(0, len(payload), step)] or [b""]
        for index, piece in enumerate(pieces):
            wire += frame(0 if index else opcode, piece, masked=masked, fin=index == len(pieces) - 1)
            if index < len(pieces) - 1:
                wire += frame(9, b"between", masked=masked)
    size = max(size, len(wire) // 200 + 1)
    found = fed(WebSocketMessages(from_client=masked, extensions="", limit=1 << 20), wire, size)
    names = {1: "text", 2: "binary", 8: "close", 9: "ping", 10: "pong"}
    assert [(m.opcode, m.data) for m in found if m.data != b"between"] == [
        (names[opcode], payload) for opcode, payload in wanted
    ]
    assert all(m.size == len(m.data) and m.from_client is masked for m in found)


@pytest.mark.parametrize("takeover", [True, False])
def test_compressed_messages_are_inflated(takeover: bool) -> None:
    extensions = "permessage-deflate" + ("" if takeover else "; server_no_context_takeover")
    packer = zlib.compressobj(wbits=-15)
    wire, texts = b"", [b"hello hello", b"hello hello hello", b"x" * 100_000]
    for text in texts:
        if not takeover:
            packer = zlib.compressobj(wbits=-15)
        packed = packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH)
        wire += frame(1, packed[:3], fin=False, rsv1=True) + frame(0, packed[3:-4])
    found = fed(WebSocketMessages(from_client=False, extensions=extensions, limit=50_000), wire, 7)
    assert [m.data for m in found] == [text[:50_000] for text in texts]
    assert [m.size for m in found] == [len(text) for text in texts]


def test_messages_that_cannot_be_inflated_are_only_counted() -> None:
    for extensions in ("", "permessage-deflate"):
        watcher = WebSocketMessages(from_client=False, extensions=extensions)
        (found,) = watcher.feed(frame(1, b"\xff not deflate", rsv1=True), 0)
        assert found.compressed
        assert found.data == b""


def test_a_decompression_bomb_is_inflated_to_the_message_limit_only() -> None:
    packer = zlib.compressobj(wbits=-15)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(40)) + packer.flush(zlib.Z_SYNC_FLUSH)
    watcher = WebSocketMessages(from_client=False, extensions="permessage-deflate", limit=100)
    (found,) = watcher.feed(frame(2, packed[:-4], rsv1=True), 0)
    assert found.compressed
    assert found.size < 20 * 1024 * 1024


@given(st.binary(max_size=300), st.integers(1, 50))
def test_bytes_that_are_not_frames_are_ignored(data: bytes, size: int) -> None:
    fed(WebSocketMessages(from_client=True, extensions="permessage-deflate"), data, size)
    fed(GrpcMessages(from_client=True), data, size)


@given(st.lists(st.binary(max_size=40) | st.just(bytes(9000)), max_size=6), st.integers(1, 5000))
def test_grpc_messages_are_found_in_any_chunks(payloads: list[bytes], size: int) -> None:
    wire = b"".join(b"\0" + len(payload).to_bytes(4, "big") + payload for payload in payloads)
    found = fed(GrpcMessages(from_client=True), wire, size)
    assert [(m.data, m.size) for m in found] == [(payload[:4096], len(payload)) for payload in payloads]
