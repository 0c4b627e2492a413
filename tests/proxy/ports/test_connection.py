"""The server of HTTP/1.1 of the control port and the admin port, on a real socket."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from devroute.errors import NotFound
from devroute.http.aio.connection import LINGER_SECONDS
from devroute.proxy.ports.connection import MAX_PIPELINED_BYTES, Port
from devroute.proxy.ports.limits import (
    HEAD_SECONDS,
    KEEP_ALIVE_SECONDS,
    MAX_BODY_BYTES,
    MAX_FIELD_BYTES,
    MAX_FIELDS,
    MAX_HTTP_HEAD,
    REQUEST_SECONDS,
)
from devroute.proxy.ports.message import Request, Response, json_response, no_content
from devroute.proxy.ports.routes import Outcome, Routes
from tests.proxy.ports.client import Client
from tests.support.authority import Authority
from tests.support.eventually import eventually, quiet

#: Bytes of a response: more than the kernel buffers.
LARGE = 16_000_000
HOST = b"host: proxy\r\n"
GET = b"GET /now HTTP/1.1\r\n%b\r\n" % HOST


def post(body: bytes, fields: bytes = b"") -> bytes:
    return b"POST /echo HTTP/1.1\r\n%bcontent-length: %d\r\n%b\r\n%b" % (HOST, len(body), fields, body)


@dataclass
class Server:
    """`served`: the requests that reached a handler. `/slow` responds once `go` is set."""

    served: list[Request] = field(default_factory=list)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: int = 0
    port: Port = field(init=False)
    number: int = 0

    def routes(self) -> Routes:
        routes = Routes("the port of this test")
        routes.get("/now", self.now)
        routes.get("/slow", self.slow)
        routes.get("/large", self.large)
        routes.get("/fails", self.fails)
        routes.get("/fails-later", self.fails_later)
        routes.get("/missing", self.missing)
        routes.post("/echo", self.echo)
        routes.post("/quiet", lambda request: no_content())
        return routes

    def now(self, request: Request) -> Response:
        self.served.append(request)
        return json_response(request.fields())

    async def slow(self, request: Request) -> Response:
        self.served.append(request)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return json_response("slow")

    def large(self, request: Request) -> Response:
        self.served.append(request)
        return Response(200, {}, bytes(LARGE))

    def fails(self, request: Request) -> Outcome:
        raise RuntimeError("a bug with a secret in its text")

    async def fails_later(self, request: Request) -> Response:
        raise RuntimeError("a bug with a secret in its text")

    async def missing(self, request: Request) -> Response:
        raise NotFound("it is gone")

    def echo(self, request: Request) -> Response:
        self.served.append(request)
        return Response(200, {}, request.body)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        try:
            yield Client(reader, writer)
        finally:
            writer.close()

    def pass_time(self, seconds: float) -> None:
        self.port.tick(self.port.now + seconds)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    made.port = Port(made.routes())
    listening = await asyncio.get_running_loop().create_server(made.port.accept, "127.0.0.1", 0)
    made.number = listening.sockets[0].getsockname()[1]
    yield made
    listening.close()
    await made.port.close()


# --- requests and responses ---------------------------------------------------------------------------------


async def test_requests_are_served_one_after_the_other_however_they_are_cut(server: Server) -> None:
    requests = post(b"hi") + GET + post(b"") + post(b"a\r\n\r\nb")
    for size in (1, 7, 10_000):
        async with server.client() as client:
            for at in range(0, len(requests), size):
                client.writer.write(requests[at : at + size])
                await client.writer.drain()
            assert (await client.response()).body == b"hi"
            assert json.loads((await client.response()).body) == {"host": "proxy"}
            assert [(await client.response()).body for _ in range(2)] == [b"", b"a\r\n\r\nb"]


async def test_many_requests_at_once_are_all_served(server: Server) -> None:
    async with server.client() as client:
        client.writer.write(b"\r\n" + b"".join(post(b"%d" % number) for number in range(500)))
        assert [int((await client.response()).body) for _ in range(500)] == list(range(500))


async def test_a_request_is_given_to_its_handler_as_it_was_sent(server: Server) -> None:
    async with server.client() as client:
        fields = b"X-Twice: a\r\nx-twice:  b \r\nx-text: \xc3\xa4\xff\r\n"
        await client.ask(b"GET /now?a=%20b HTTP/1.1\r\n" + HOST + fields + b"\r\n")
    (request,) = server.served
    assert (request.method, request.path, request.body, request.over_tls) == ("GET", "/now", b"", False)
    assert (request.values("x-twice"), request.value("x-twice")) == (["a", "b"], "a")
    assert (request.values("x-other"), request.value("x-other")) == ([], "")
    assert request.value("x-text").encode("utf-8", "surrogateescape") == b"\xc3\xa4\xff"
    assert request.fields()["x-twice"] == "b"
    assert request.peer == "127.0.0.1"


async def test_a_response_to_head_has_no_body_and_one_without_content_no_length(server: Server) -> None:
    async with server.client() as client:
        client.writer.write(b"HEAD /now HTTP/1.1\r\n%b\r\n" % HOST)
        head = await client.response(body=False)
        assert (head.status, int(head.fields["content-length"]) > 0) == (200, True)
        quiet = await client.ask(b"POST /quiet HTTP/1.1\r\n%b\r\n" % HOST)
        assert (quiet.status, "content-length" in quiet.fields) == (204, False)
        assert quiet.fields["date"].endswith(" GMT")
        assert (await client.ask(GET)).status == 200


async def test_a_body_is_asked_for_where_its_sender_waits(server: Server) -> None:
    async with server.client() as client:
        whole = post(b"hi", b"expect: 100-continue\r\n")
        client.writer.write(whole[:-2])
        assert (await client.response()).status == 100
        assert (await client.ask(b"hi")).body == b"hi"
        assert (await client.ask(whole)).body == b"hi"  # it has not waited


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /now HTTP/1.1\r\n%bconnection: close\r\n\r\n" % HOST,
        b"GET /now HTTP/1.0\r\n\r\n",
        b"GET /now HTTP/1.0\r\nconnection: keep-alive\r\n\r\n",
    ],
)
async def test_a_connection_ends_with_the_response_where_the_client_wants_it(
    request_: bytes, server: Server
) -> None:
    async with server.client() as client:
        response = await client.ask(request_ + GET)
        assert (response.status, response.fields["connection"]) == (200, "close")
        assert await client.rest() == b""
    assert len(server.served) == 1


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        (b"GET /nothing HTTP/1.1\r\n%b\r\n", 404, "not-found"),
        (b"OPTIONS * HTTP/1.1\r\n%b\r\n", 404, "not-found"),
        (b"GET /missing HTTP/1.1\r\n%b\r\n", 404, "not-found"),
        (b"DELETE /now HTTP/1.1\r\n%b\r\n", 405, "method-not-allowed"),
        (b"GET /fails HTTP/1.1\r\n%b\r\n", 500, "internal"),
        (b"GET /fails-later HTTP/1.1\r\n%b\r\n", 500, "internal"),
    ],
)
async def test_an_error_is_json_with_a_code_and_the_next_request_is_served(
    request_: bytes, status: int, code: str, server: Server
) -> None:
    async with server.client() as client:
        response = await client.ask(request_ % HOST)
        assert (response.status, response.code, b"secret" in response.body) == (status, code, False)
        assert response.fields.get("allow") == ("GET, HEAD" if status == 405 else None)
        assert (await client.ask(GET)).status == 200


# --- hostile requests ---------------------------------------------------------------------------------------

MALFORMED = (400, "request-malformed")
TOO_LARGE = (431, "head-too-large")
SMUGGLED = b"GET /now HTTP/1.1\r\nhost: smuggled\r\n\r\n"

HOSTILE = {
    "length and coding": (b"content-length: 4\r\ntransfer-encoding: chunked\r\n", MALFORMED),
    "coding and length": (b"transfer-encoding: chunked\r\ncontent-length: 4\r\n", MALFORMED),
    "two lengths": (b"content-length: 0\r\ncontent-length: %d\r\n" % len(SMUGGLED), MALFORMED),
    "a length twice": (b"content-length: 0\r\ncontent-length: 0\r\n", MALFORMED),
    "a list of lengths": (b"content-length: 0, 0\r\n", MALFORMED),
    "a signed length": (b"content-length: +0\r\n", MALFORMED),
    "a negative length": (b"content-length: -1\r\n", MALFORMED),
    "a length in hexadecimal": (b"content-length: 0x0\r\n", MALFORMED),
    "a length of nothing": (b"content-length:\r\n", MALFORMED),
    "a coding that no one knows": (b"transfer-encoding: xchunked\r\n", MALFORMED),
    "a coding after chunked": (b"transfer-encoding: chunked, identity\r\n", MALFORMED),
    "a coding before chunked": (b"transfer-encoding: gzip, chunked\r\n", MALFORMED),
    "chunked twice": (b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", MALFORMED),
    "chunked, which is not read here": (b"transfer-encoding: chunked\r\n", MALFORMED),
    "white space before the colon": (b"content-length : 0\r\n", MALFORMED),
    "a folded line": (b"x: a\r\n content-length: 4\r\n", MALFORMED),
    "a folded first line": (b" x: a\r\n", MALFORMED),
    "a bare LF": (b"x: a\ncontent-length: 4\r\n", MALFORMED),
    "a bare CR": (b"x: a\rcontent-length: 4\r\n", MALFORMED),
    "a NUL": (b"x: \x00\r\n", MALFORMED),
    "a name with a space": (b"x y: a\r\n", MALFORMED),
    "no colon": (b"content-length\r\n", MALFORMED),
    "two hosts": (b"host: other\r\n", MALFORMED),
    "many fields": (b"x: y\r\n" * MAX_FIELDS, MALFORMED),
    "a long field": (b"x: " + b"y" * MAX_FIELD_BYTES + b"\r\n", TOO_LARGE),
    "a long head": (b"x: %b\r\n" % (b"y" * 60_000) * 3, TOO_LARGE),
    "a large body": (b"content-length: %d\r\n" % (MAX_BODY_BYTES + 1), (413, "body-too-large")),
    "a body without end": (b"content-length: 999999999999999\r\n", (413, "body-too-large")),
}
OTHER_LINES = {
    "no HTTP": b"hello\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/0.9": b"GET /now\r\n\r\n",
    "another version": b"GET /now HTTP/1.2\r\n%b\r\n" % HOST,
    "two spaces": b"GET  /now HTTP/1.1\r\n%b\r\n" % HOST,
    "a tab": b"GET\t/now HTTP/1.1\r\n%b\r\n" % HOST,
    "a bare LF": b"GET /now HTTP/1.1\n%b\r\n" % HOST,
    "no host": b"GET /now HTTP/1.1\r\n\r\n",
    "another host in the target": b"GET http://other/now HTTP/1.1\r\n%b\r\n" % HOST,
    "a method that no one knows": b"STEAL /now HTTP/1.1\r\n%b\r\n" % HOST,
    "a method in small letters": b"get /now HTTP/1.1\r\n%b\r\n" % HOST,
    "CONNECT": b"CONNECT /now HTTP/1.1\r\n%b\r\n" % HOST,
    "white space first": b" GET /now HTTP/1.1\r\n%b\r\n" % HOST,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_could_hide_a_request_is_refused_with_all_that_follows(name: str, server: Server) -> None:
    fields, expected = HOSTILE[name]
    head = b"POST /echo HTTP/1.1\r\n" + HOST + fields + b"\r\n"
    async with server.client() as client:
        response = await client.ask(GET + head + SMUGGLED)
        assert response.status == 200
        refused = await client.response()
        assert (refused.status, refused.code, refused.fields["connection"]) == (*expected, "close")
        assert await client.rest() == b""
    assert [request.value("host") for request in server.served] == ["proxy"]


@pytest.mark.parametrize("name", OTHER_LINES)
async def test_what_is_no_request_is_refused(name: str, server: Server) -> None:
    async with server.client() as client:
        refused = await client.ask(OTHER_LINES[name] + SMUGGLED)
        assert (refused.status, refused.code) == MALFORMED
        assert await client.rest() == b""
    assert server.served == []


async def test_the_largest_head_and_body_are_served(server: Server) -> None:
    start = b"POST /echo HTTP/1.1\r\n" + HOST + b"content-length: %d\r\n" % MAX_BODY_BYTES
    wide = b"x: " + b"y" * (MAX_FIELD_BYTES - 3) + b"\r\n"
    narrow = b"z: " + b"y" * (MAX_HTTP_HEAD - len(start) - len(wide) - 7) + b"\r\n"
    head = start + wide + narrow + b"\r\n"
    assert len(head) == MAX_HTTP_HEAD
    async with server.client() as client:
        assert (await client.ask(head + bytes(MAX_BODY_BYTES))).body == bytes(MAX_BODY_BYTES)


async def test_an_upgrade_is_ignored(server: Server) -> None:
    async with server.client() as client:
        fields = b"connection: upgrade\r\nupgrade: h2c\r\n"
        assert (await client.ask(b"GET /now HTTP/1.1\r\n" + HOST + fields + b"\r\n")).status == 200
        assert (await client.ask(GET)).status == 200


# --- time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("begun", "seconds"), [(GET[:-3], HEAD_SECONDS), (post(b"hello")[:-3], REQUEST_SECONDS)]
)
async def test_a_head_or_a_body_that_does_not_arrive_times_out(
    begun: bytes, seconds: float, server: Server
) -> None:
    async with server.client() as client:
        assert (await client.ask(GET + begun)).status == 200
        server.pass_time(seconds - 1)
        client.writer.write(b"\r")  # a byte now and then does not help
        responding = asyncio.ensure_future(client.response())
        await quiet(responding.done)
        assert not responding.done()
        server.pass_time(2)
        late = await responding
        assert (late.status, late.code) == (408, "request-timeout")
        assert await client.rest() == b""
    assert len(server.served) == 1


async def test_a_handler_that_does_not_end_times_out_and_is_cancelled(server: Server) -> None:
    async with server.client() as client:
        client.writer.write(b"GET /slow HTTP/1.1\r\n%b\r\n" % HOST)
        await eventually(lambda: len(server.served) == 1)
        server.pass_time(REQUEST_SECONDS - 1)
        await quiet(lambda: server.cancelled)
        assert server.cancelled == 0
        server.pass_time(2)
        late = await client.response()
        assert (late.status, late.code) == (408, "request-timeout")
        assert await client.rest() == b""
    assert server.cancelled == 1


async def test_a_connection_may_be_idle_for_as_long_as_envoy_keeps_it(server: Server) -> None:
    async with server.client() as client:
        await client.ask(GET)
        server.pass_time(KEEP_ALIVE_SECONDS - 1)
        assert (await client.ask(GET)).status == 200
        server.pass_time(KEEP_ALIVE_SECONDS + 1)
        assert await client.rest() == b""


async def test_a_client_that_keeps_a_refused_connection_open_is_closed(server: Server) -> None:
    async with server.client() as client:
        assert (await client.ask(b"no HTTP at all\r\n\r\n")).status == 400
        client.writer.write(bytes(100_000))  # discarded
        await client.writer.drain()
        assert len(server.port.connections) == 1
        server.pass_time(LINGER_SECONDS + 1)
        await eventually(lambda: not server.port.connections)


async def test_a_client_of_tls_that_keeps_a_refused_connection_open_costs_the_port_nothing_else(
    server: Server, tmp_path: Path
) -> None:
    """Its connection cannot be half closed: it is closed, and waits for the client's close_notify."""
    authority = Authority(tmp_path)
    pair = authority.server()
    ours = pair.context()
    theirs = ssl.create_default_context(cafile=str(authority.file))
    loop = asyncio.get_running_loop()
    async with await loop.create_server(server.port.accept, "127.0.0.1", 0, ssl=ours) as listening:
        number = listening.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("localhost", number, ssl=theirs)
        writer.transport.pause_reading()
        writer.write(b"no HTTP at all\r\n\r\n")
        await eventually(lambda: any(each.transport.is_closing() for each in server.port.connections))
        for _ in range(4):
            server.pass_time(LINGER_SECONDS + 1)
        writer.transport.abort()
        await eventually(lambda: not server.port.connections)


# --- flow control -------------------------------------------------------------------------------------------


async def test_a_pipelined_request_waits_for_the_one_before(server: Server) -> None:
    async with server.client() as client:
        client.writer.write(b"GET /slow HTTP/1.1\r\n%b\r\n" % HOST + GET)
        await eventually(lambda: len(server.served) == 1)
        client.writer.write(post(b"third"))
        await client.writer.drain()
        assert len(server.served) == 1
        server.go.set()
        assert [(await client.response()).status for _ in range(3)] == [200] * 3
        assert [request.path for request in server.served] == ["/slow", "/now", "/echo"]


async def until_blocked(send: Callable[[], int], turn: Callable[[], Awaitable[None]]) -> int:
    """Bytes that a socket that does not block has taken until it took none for a while."""
    sent = refused = 0
    while refused < 50:
        try:
            sent += send()
            refused = 0
        except BlockingIOError:
            refused += 1
        await turn()
    return sent


async def test_what_is_pipelined_meanwhile_is_bounded(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.number)) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        client.setblocking(False)
        client.send(b"GET /slow HTTP/1.1\r\n%b\r\n" % HOST)
        await eventually(lambda: len(server.served) == 1)
        many = GET * 1000
        sent = await until_blocked(lambda: client.send(many), lambda: asyncio.sleep(0))
        assert MAX_PIPELINED_BYTES < sent < 16_000_000  # the rest is in the kernel's buffers
        server.go.set()


def connect_slowly(server: Server) -> socket.socket:
    """A client for which the kernel buffers little."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    client.connect(("127.0.0.1", server.number))
    return client


async def test_no_further_request_is_served_to_a_client_that_does_not_read(server: Server) -> None:
    with connect_slowly(server) as sending:
        sending.send(b"GET /large HTTP/1.1\r\n%b\r\n" % HOST * 3 + GET)
        await quiet(lambda: len(server.served))
        assert len(server.served) == 1
        sending.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sending)
        client = Client(reader, writer)
        assert [len((await client.response()).body) for _ in range(3)] == [LARGE] * 3
        assert (await client.response()).status == 200
        writer.close()


async def test_a_client_that_never_reads_is_disconnected(server: Server) -> None:
    with connect_slowly(server) as client:
        client.send(b"GET /large HTTP/1.1\r\n%b\r\n" % HOST)
        await quiet(lambda: len(server.served))
        server.pass_time(REQUEST_SECONDS - 1)
        await quiet(lambda: len(server.port.connections))
        assert len(server.port.connections) == 1
        server.pass_time(2)
        await eventually(lambda: not server.port.connections)


# --- the end ------------------------------------------------------------------------------------------------


async def test_a_client_that_leaves_costs_nothing_but_the_request_that_it_sent(server: Server) -> None:
    async with server.client() as client:
        client.writer.write(b"GET /slow HTTP/1.1\r\n%b\r\n" % HOST)
        await eventually(lambda: len(server.served) == 1)
    await eventually(lambda: not server.port.connections)
    server.go.set()
    await eventually(lambda: not server.port.tasks.active)
    async with server.client() as client:
        assert (await client.ask(GET)).status == 200
    assert server.cancelled == 0


async def test_the_end_of_the_port_ends_connections_and_handlers(server: Server) -> None:
    async with server.client() as idle, server.client() as busy:
        await idle.ask(GET)
        busy.writer.write(b"GET /slow HTTP/1.1\r\n%b\r\n" % HOST)
        await eventually(lambda: len(server.served) == 2)
        await server.port.close()
        assert (await idle.rest(), await busy.rest()) == (b"", b"")
    assert server.cancelled == 1
