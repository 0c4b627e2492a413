"""HPACK: the encoder and the decoder against the hpack library's."""

import hpack
import pytest
from hpack.exceptions import HPACKError, OversizedHeaderListError
from hypothesis import given
from hypothesis import strategies as st

from devroute.http.http2.hpack import Decoder, Encoder
from tests.support.examples import examples

NAMES = st.sampled_from([b":path", b":status", b"accept", b"authorization", b"cookie", b"x", b"x-long" * 30])
VALUES = st.one_of(st.sampled_from([b"", b"/", b"200", b"y" * 126, b"y" * 127]), st.binary(max_size=400))
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=8), max_size=4)


@examples(60)
@given(BLOCKS)
def test_any_decoder_reads_what_the_encoder_writes(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    decoder.max_allowed_table_size = 0  # a peer that permits no table
    for block in blocks:
        assert list(decoder.decode(encoder.encode(block), raw=True)) == block


@examples(60)
@given(BLOCKS, st.booleans(), st.sampled_from([0, 100, 4096]))
def test_the_decoder_reads_what_any_encoder_writes(
    blocks: list[list[tuple[bytes, bytes]]], huffman: bool, table: int
) -> None:
    encoder, decoder = hpack.Encoder(), Decoder()
    encoder.header_table_size = table
    for block in blocks:
        for _ in range(2):  # again, from the table
            assert decoder.decode(encoder.encode(block, huffman=huffman)) == block


@examples(150)
@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_as_by_the_library_or_are_an_error(data: bytes) -> None:
    try:
        wanted = list(hpack.Decoder().decode(data, raw=True))
    except (HPACKError, IndexError):
        wanted = None
    try:
        found = Decoder().decode(data)
    except (HPACKError, IndexError):
        found = None
    assert found == wanted


def test_secrets_are_never_indexed() -> None:
    block = Encoder().encode([(b"authorization", b"Bearer 1"), (b"x-other", b"1")])
    secret, other = hpack.Decoder().decode(block, raw=True)
    assert (secret.indexable, other.indexable) == (False, True)


def test_a_header_list_beyond_its_limit_is_an_error() -> None:
    with pytest.raises(OversizedHeaderListError):
        Decoder(1000).decode(hpack.Encoder().encode([(b"x", b"y" * 100)] * 20))
