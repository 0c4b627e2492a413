"""A data port as in the proxy (Listener and ContractRouter) and an app behind it that parses with h11, as a
second opinion."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import h11

from devroute.downstream.context import CompletedExchange, Timeouts
from devroute.downstream.listener import Listener
from devroute.errors import LaptopOffline
from devroute.policy.policy import Policy
from devroute.routing.decision import LaptopService
from devroute.routing.router import ContractRouter
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.interface import Upstream
from devroute.upstream.pools import Pools
from tests.support.eventually import PATIENCE_S

TIMEOUTS = Timeouts(head=60, body=60, first_byte=60, idle=60, keep_alive=60, total=1000)

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Answer(NamedTuple):
    status: int
    fields: dict[bytes, bytes]
    body: bytes

    @property
    def code(self) -> str | None:
        """The code of an error of devroute."""
        if self.fields.get(b"x-devroute-result") != b"error":
            return None
        return str(json.loads(self.body)["code"])


class Client:
    """Sends raw bytes to the data port and reads whole responses."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self, *, bodiless: bool = False) -> Answer:
        """The next final response; interim ones are skipped. Raises IncompleteReadError if there is none."""
        while True:
            head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
            start, *lines = head[:-4].split(b"\r\n")
            assert start.startswith(b"HTTP/1.1 "), start
            assert re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", b"".join((start, *lines))) is None, head
            status = int(start.split(b" ")[1])
            if status >= 200 or status == 101:
                break
        fields = {}
        for line in lines:
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        if bodiless or status in (101, 204, 304):
            return Answer(status, fields, b"")
        length = int(fields[b"content-length"])
        body = await asyncio.wait_for(self.reader.readexactly(length), PATIENCE_S)
        return Answer(status, fields, body)

    async def rest(self) -> bytes:
        """Everything up to the end of the connection; a reset is an end."""
        received = b""
        try:
            while data := await asyncio.wait_for(self.reader.read(65536), PATIENCE_S):
                received += data
        except ConnectionError:
            pass
        return received


class Received(NamedTuple):
    """A whole request, as h11 read it."""

    line: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes


@dataclass(slots=True, eq=False)
class App(asyncio.Protocol):
    """One connection of the app, which responds with 200 to each request once it is complete."""

    received: list[Received]
    problems: list[str]
    transport: asyncio.Transport = field(init=False)
    http: h11.Connection = field(init=False)
    request: h11.Request | None = None
    body: bytes = b""

    def __post_init__(self) -> None:
        self.http = h11.Connection(h11.SERVER, max_incomplete_event_size=256 * 1024)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self.http.receive_data(data)
            self.events()
        except h11.RemoteProtocolError as error:
            self.problems.append(f"h11 refuses what the app got: {error}")
            self.transport.abort()

    def events(self) -> None:
        while True:
            event = self.http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                if self.http.they_are_waiting_for_100_continue:
                    going_on = h11.InformationalResponse(status_code=100, headers=[])
                    self.transport.write(self.http.send(going_on) or b"")
                return
            if isinstance(event, h11.Request):
                self.request, self.body = event, b""
            elif isinstance(event, h11.Data):
                self.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.answer()

    def answer(self) -> None:
        request = self.request
        assert request is not None
        self.received.append(
            Received(request.method + b" " + request.target, list(request.headers), self.body)
        )
        response = h11.Response(status_code=200, headers=[(b"content-length", b"2")], reason=b"OK")
        out = self.http.send(response) or b""
        if request.method != b"HEAD":
            out += self.http.send(h11.Data(data=b"ok")) or b""
        out += self.http.send(h11.EndOfMessage()) or b""
        self.transport.write(out)
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        else:
            self.transport.close()


class _Directory:
    """alice is online."""

    def __init__(self, upstream: Upstream) -> None:
        self._alice = LaptopService(upstream, None)

    def lookup(self, name: str, service: str) -> LaptopService:
        if name != "alice":
            raise LaptopOffline(f"laptop '{name}' is not online")
        return self._alice


class Port:
    """The data port; `received` and `problems` are the requests and the errors of the app's parser."""

    def __init__(self) -> None:
        self.received: list[Received] = []
        self.problems: list[str] = []
        self.exchanges: list[CompletedExchange] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def dial(self) -> Client:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number, limit=1 << 20)
        self._writers.append(writer)
        return Client(reader, writer)

    @property
    def app_port(self) -> int:
        port: int = self.app.sockets[0].getsockname()[1]
        return port

    async def start(self, app: asyncio.Server | None = None) -> None:
        loop = asyncio.get_running_loop()
        self.app = app or await loop.create_server(lambda: App(self.received, self.problems), "127.0.0.1", 0)
        self.upstream = Http1Pool(Dialer("127.0.0.1", self.app_port))
        policy = Policy()
        pools = Pools(lambda: policy, connect_timeout=PATIENCE_S, max_in_flight=100)
        router = ContractRouter(_Directory(self.upstream), lambda: policy, pools)
        self.server = Listener(router, TIMEOUTS, self.exchanges.append, loop.time())
        self.listener = await loop.create_server(self.server.accept, "127.0.0.1", 0)
        self.number = self.listener.sockets[0].getsockname()[1]

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self.listener.close()
        self.app.close()
        await self.upstream.close()


@asynccontextmanager
async def data_port(app: asyncio.Server | None = None) -> AsyncIterator[Port]:
    port = Port()
    await port.start(app)
    try:
        yield port
    finally:
        await port.close()
