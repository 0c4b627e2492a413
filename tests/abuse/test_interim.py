"""Interim responses (1xx) have no flow control: without a bound they would fill memory."""

import asyncio

import pytest

from devroute.downstream.exchange import MAX_INTERIM
from tests.conformance.port import data_port

HINT = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
REQUEST = b'GET / HTTP/1.1\r\nhost: foo\r\nx-devroute: {"foo": "alice"}\r\nx-devroute-matched: foo\r\n\r\n'


@pytest.mark.parametrize(("count", "status"), [(MAX_INTERIM, 200), (MAX_INTERIM + 1, 502)])
async def test_interim_responses_are_bounded(count: int, status: int) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HINT * count + b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        await reader.read()
        writer.close()

    async with data_port(await asyncio.start_server(app, "127.0.0.1", 0)) as port:
        client = await port.dial()
        client.writer.write(REQUEST)
        answer = await client.answer()
    assert answer.status == status
    assert answer.code == (None if status == 200 else "upstream-invalid")
