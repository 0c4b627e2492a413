"""The limits of request heads, as set: at the data port, over HTTP/1.1 and HTTP/2."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from h2.settings import SettingCodes

from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from tests.support.eventually import PATIENCE_S
from tests.support.h2_peer import dial

START = b"GET / HTTP/1.1\r\nhost: foo\r\n"
HTTP2_START = ((b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"foo"))
#: The response to a request without a contract, once its head is accepted.
ACCEPTED = (400, "contract-missing")


@asynccontextmanager
async def proxy(**settings: int) -> AsyncIterator[int]:
    """Its data port."""
    local = {f"{listener}_host": "127.0.0.1" for listener in ("data", "control", "admin")}
    ports = {f"{listener}_port": 0 for listener in ("data", "control", "admin")}
    running = Proxy(ProxySettings.model_validate({**local, **ports, **settings}))
    try:
        await running.start()
        yield running.data_port
    finally:
        await running.stop()


async def http1(port: int, head: bytes) -> tuple[int, str]:
    """Status and code of the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    async with asyncio.timeout(PATIENCE_S):
        start = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in start.lower().split(b"\r\n")[1:-2])
        body = json.loads(await reader.readexactly(int(fields[b"content-length"])))
    writer.close()
    return int(start.split()[1]), body["code"]


async def http2(port: int, *fields: tuple[bytes, bytes]) -> tuple[int, str]:
    peer = await dial(port)
    try:
        number = peer.wire.get_next_available_stream_id()
        peer.wire.send_headers(number, [*HTTP2_START, *fields], end_stream=True)
        peer.flush()
        head, body, _, _ = await peer.whole(number)
    finally:
        peer.close()
    return int(head[b":status"]), json.loads(body)["code"]


def padded(size: int) -> bytes:
    """A head of so many bytes."""
    return START + b"x-a: " + b"a" * (size - len(START) - 9) + b"\r\n\r\n"


async def test_a_head_is_refused_from_the_size_that_the_settings_say() -> None:
    for size in (2000, 90_000):  # below the default, and above it
        async with proxy(max_head_bytes=size) as port:
            assert await http1(port, padded(size)) == ACCEPTED
            assert await http1(port, padded(size + 1)) == (431, "head-too-large")
            assert await http1(port, padded(size + 1)[:-4] + b"a" * 10) == (
                431,
                "head-too-large",
            )  # no end yet
            assert await http2(port, (b"x-a", b"a" * (size - 500))) == ACCEPTED
            assert await http2(port, (b"x-a", b"a" * size)) == (431, "head-too-large")


async def test_an_http2_client_receives_the_limit_of_heads() -> None:
    async with proxy(max_head_bytes=2000) as port:
        peer = await dial(port)
        await peer.whole(peer.request())
        assert peer.wire.remote_settings[SettingCodes.MAX_HEADER_LIST_SIZE] == 2000
        peer.close()


async def test_more_fields_than_the_settings_say_are_refused() -> None:
    for count in (16, 300):  # below the default, and above it
        async with proxy(max_header_fields=count) as port:
            for more, answer in ((0, ACCEPTED), (1, (400, "request-malformed"))):
                lines = b"x-a: a\r\n" * (count - 1 + more)
                assert await http1(port, START + lines + b"\r\n") == answer
                assert await http2(port, *[(b"x-a", b"a")] * (count - 1 + more)) == answer


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_head_bytes", 96 * 1024 + 1), ("max_head_bytes", 100), ("max_header_fields", 1)],
)
def test_limits_that_could_not_be_enforced_are_refused(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        ProxySettings.model_validate({name: value})
