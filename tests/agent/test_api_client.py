"""Failures of the API's client in words, from real connections."""

import aiohttp
import pytest

from devroute.agent.api_client import failure_in_words
from tests.support.eventually import PATIENCE_S
from tests.support.shell import listening


async def failure(url: str) -> str:
    async with aiohttp.ClientSession() as session:
        with pytest.raises((aiohttp.ClientError, OSError)) as caught:
            async with session.get(url, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as response:
                await response.read()
    return failure_in_words(caught.value)


async def test_no_failure_shows_the_text_of_an_exception(unused_tcp_port: int) -> None:
    assert await failure(f"http://127.0.0.1:{unused_tcp_port}") == "Connection refused"
    assert await failure("http://no-such-host.invalid/") == "the name 'no-such-host.invalid' does not resolve"
    async with listening() as port:
        closed = await failure(f"http://127.0.0.1:{port}")
    assert closed == "it closed the connection without a response"
    async with listening(b"SSH-2.0-x\r\n\r\n") as port:
        assert await failure(f"http://127.0.0.1:{port}") == "it does not speak HTTP"
        assert await failure(f"https://127.0.0.1:{port}") == "TLS failed: is it https or http?"
    async with listening(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf") as port:
        assert await failure(f"http://127.0.0.1:{port}") == "its response broke off"
    assert failure_in_words(TimeoutError()) == "no response in time"
    assert failure_in_words(aiohttp.InvalidURL("x")) == "it cannot be asked"
