"""The control port against malformed and slow requests: each gets a JSON error with its code, in time."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable

import pytest
from aiohttp import web

from devroute.auth.identity import Identity, PeerCertificate
from devroute.proxy.control import http
from devroute.proxy.control.api import errors_as_json
from devroute.proxy.control.http import connections, create_runner
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.ports.limits import MAX_BODY_BYTES, MAX_FIELD_BYTES, MAX_FIELDS, MAX_HTTP_HEAD
from devroute.routing.registry import Registry
from tests.support.eventually import PATIENCE_S

HEAD_SECONDS = 0.3


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def no_token(authorization: str, certificate: PeerCertificate | None) -> Identity:
    pytest.fail("no request here has a token")


class Port:
    """The real listener and connections, with a route that reads a body."""

    async def start(self) -> None:
        app = web.Application(middlewares=[errors_as_json], client_max_size=MAX_BODY_BYTES)
        app.router.add_post("/echo", echo)
        self.runner = create_runner(app)
        await self.runner.setup()
        tunnels = Tunnels(authenticate=no_token, registry=Registry(), permit=lambda *_: None)
        self.listener = ControlListener(http=connections(self.runner), tunnels=tunnels)
        self.server = await asyncio.get_running_loop().create_server(self.listener, "127.0.0.1", 0)

    async def says(self, *pieces: bytes, then: Callable[[], None] = lambda: None) -> list[tuple[int, bytes]]:
        """The responses to these requests, one after the other, up to the end of the connection. `then` is
        called after each."""
        reader, writer = await asyncio.open_connection(*self.server.sockets[0].getsockname())
        found = []
        try:
            left = list(pieces)
            async with asyncio.timeout(PATIENCE_S):
                while True:
                    if left:
                        writer.write(left.pop(0))
                    head = await reader.readuntil(b"\r\n\r\n")
                    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                    found.append((int(head[9:12]), await reader.readexactly(length)))
                    then()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
        return found

    async def code(self, *pieces: bytes) -> tuple[int, str]:
        """Status and code of the last response, which ends the connection."""
        status, body = (await self.says(*pieces))[-1]
        return status, json.loads(body)["code"]


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    port = Port()
    await port.start()
    yield port
    port.server.close()
    await port.runner.cleanup()


def echoing(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST /echo HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n%b\r\n%b" % (len(body), fields, body)


MALFORMED = (400, "request-malformed")
TOO_LARGE = (431, "head-too-large")

FIRST = {
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", MALFORMED),
    "no HTTP": (b"hello\r\n", MALFORMED),
    "a bare LF": (b"GET / HTTP/1.1\nhost: x\n\n", MALFORMED),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", MALFORMED),
    "a control character": (b"GET / HTTP/1.1\r\nhost: x\r\nx: \x00\r\n\r\n", MALFORMED),
    "two lengths": (
        b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nhi",
        MALFORMED,
    ),
    "two framings": (
        b"POST /echo HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        MALFORMED,
    ),
    "a head without end": (b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HTTP_HEAD + 1), TOO_LARGE),
    "a long field": (b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_FIELD_BYTES + 1) + b"\r\n\r\n", TOO_LARGE),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * (MAX_FIELDS + 1) + b"\r\n", MALFORMED),
    "a large body": (echoing(bytes(MAX_BODY_BYTES + 1)), (413, "body-too-large")),
    "another method": (
        b"DELETE /echo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n",
        (405, "method-not-allowed"),
    ),
    "no such path": (b"GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", (404, "not-found")),
}


@pytest.mark.parametrize("name", FIRST)
async def test_a_refusal_is_json_with_a_code(name: str, port: Port) -> None:
    request, expected = FIRST[name]
    assert await port.code(request) == expected


async def test_a_refusal_of_a_later_request_is_json_too(port: Port) -> None:
    good = echoing(b"hi")
    answers = await port.says(good, good, b"no HTTP at all\r\n\r\n")
    assert answers[:2] == [(200, b"hi")] * 2
    assert (answers[2][0], json.loads(answers[2][1])["code"]) == MALFORMED


@pytest.mark.parametrize("drip", [b"", b"GET", b"POST /echo HTTP/1.1\r\nhost: x\r\n"])
async def test_a_head_that_does_not_arrive_times_out(drip: bytes, port: Port) -> None:
    port.listener.head_seconds = HEAD_SECONDS
    assert await port.code(drip) == (408, "request-timeout")


@pytest.mark.parametrize("whole", [echoing(b"hi"), echoing(b"")])
@pytest.mark.parametrize("drip", [b"G", b"POST /echo HTTP/1.1\r\nhost: x\r\n"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_later_head_that_does_not_arrive_times_out(
    whole: bytes, drip: bytes, at_once: bool, port: Port, monkeypatch: pytest.MonkeyPatch
) -> None:
    if at_once:  # the time begins before the first response, and is over after it
        loop = asyncio.get_running_loop()
        time = loop.time
        late = lambda: monkeypatch.setattr(loop, "time", lambda: time() + http.HEAD_SECONDS)  # noqa: E731
        *_, last = answers = await port.says(whole + drip, then=late)
    else:
        monkeypatch.setattr(http, "HEAD_SECONDS", HEAD_SECONDS)
        *_, last = answers = await port.says(whole, drip)
    assert len(answers) == 2
    assert (last[0], json.loads(last[1])["code"]) == (408, "request-timeout")


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (b"GET / HTTP/1.1\nhost: x\n\n", MALFORMED),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_HTTP_HEAD + 1), TOO_LARGE),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * (MAX_FIELD_BYTES + 1) + b"\r\n\r\n", TOO_LARGE),
    ],
)
async def test_a_later_head_has_the_limits_of_the_first(
    later: bytes, expected: tuple[int, str], port: Port
) -> None:
    assert await port.code(echoing(b"hi"), later) == expected


async def test_requests_are_answered_however_they_are_cut(port: Port) -> None:
    requests = echoing(b"hi") + echoing(b"") + echoing(b"a\r\n\r\nb")
    chunked = b"POST /echo HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for size in (1, 7, 10_000):
        reader, writer = await asyncio.open_connection(*port.server.sockets[0].getsockname())
        for at in range(0, len(requests), size):
            writer.write(requests[at : at + size])
            await asyncio.sleep(0)
        for body in (b"hi", b"", b"a\r\n\r\nb"):
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(body)) == body
        writer.write(chunked)
        assert (await asyncio.wait_for(reader.read(), PATIENCE_S)).endswith(b"\r\n\r\nabc")
        writer.close()


async def test_a_body_that_does_not_arrive_times_out(port: Port, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("devroute.proxy.control.api.REQUEST_SECONDS", 0.2)
    monkeypatch.setitem(http.OPTIONS, "lingering_time", 0.1)
    assert await port.code(echoing(b"hi")[:-1]) == (408, "request-timeout")


async def test_nothing_is_decompressed(port: Port) -> None:
    bomb = gzip.compress(bytes(10_000_000))
    assert len(bomb) < MAX_BODY_BYTES
    fields = b"content-encoding: gzip\r\nconnection: close\r\n"
    assert await port.says(echoing(bomb, fields)) == [(200, bomb)]
