"""Every response of the table, from an app behind a real data port; h11 parses what the client receives."""

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator

import h11
import pytest

from tests.conformance.port import OK, Port, data_port
from tests.conformance.requests import MESH
from tests.conformance.responses import CASES, POISON, After, Case
from tests.support.eventually import PATIENCE_S

FIELDS = [(b"host", b"foo"), (b"x-devroute", b'{"foo":"alice"}'), (b"x-devroute-matched", b"foo")]
NEXT = b"GET /next HTTP/1.1\r\nhost: foo\r\n" + MESH + b"\r\n"


class App:
    """Responds to /case with the bytes of its case, and to anything else with a valid response."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.served: list[tuple[int, bytes]] = []  # connection and target of each request
        self.connections = 0
        self.lost: list[asyncio.Event] = []
        self.writers: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = self.connections
        self.connections += 1
        self.lost.append(asyncio.Event())
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                target = head.split(b" ")[1]
                self.served.append((number, target))
                if target != b"/case":
                    writer.write(OK + b"%d:" % number)
                    continue
                writer.write(self.case.raw)
                if self.case.after is After.CLOSES:
                    return
                if self.case.after is After.RESETS:
                    await writer.drain()
                    sock: socket.socket = writer.get_extra_info("socket")
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    writer.transport.abort()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            self.lost[number].set()
        finally:
            writer.close()


@pytest.fixture
async def app(request: pytest.FixtureRequest) -> App:
    return App(getattr(request, "param", CASES[0]))


@pytest.fixture
async def port(app: App) -> AsyncIterator[Port]:
    listener = await asyncio.start_server(app, "127.0.0.1", 0)
    async with data_port(listener) as port:
        yield port
        for writer in app.writers:
            writer.transport.abort()


class Seen:
    """A response as h11 reads it; `complete` if it found the end."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: dict[bytes, bytes] = {}
        self.body = b""
        self.complete = False

    @property
    def outcome(self) -> tuple[int, str | bytes] | None:
        if not self.complete:
            return None
        if self.fields.get(b"x-devroute-result") == b"error":
            return self.status, str(json.loads(self.body)["code"])
        return self.status, self.body


async def ask(port: Port, method: bytes) -> Seen:
    client = await port.dial()
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=256 * 1024)
    client.writer.write(http.send(h11.Request(method=method, target=b"/case", headers=FIELDS)) or b"")
    http.send(h11.EndOfMessage())
    seen = Seen()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            try:
                data = await asyncio.wait_for(client.reader.read(65536), PATIENCE_S)
                http.receive_data(data)  # b"" is the end, which h11 accepts only where a body may end with it
            except ConnectionError:
                return seen
        elif isinstance(event, h11.Response):
            seen.status = event.status_code
            seen.fields = dict(event.headers)
        elif isinstance(event, h11.Data):
            seen.body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            seen.complete = True
            return seen


def test_the_table_is_large_and_its_names_are_unique() -> None:
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)


@pytest.mark.parametrize("app", CASES, ids=lambda case: case.name, indirect=True)
async def test_a_response_is_forwarded_refused_or_cut_off_and_never_poisons_the_next(
    app: App, port: Port
) -> None:
    case = app.case
    seen = await ask(port, case.method)
    assert seen.outcome == case.sees

    client = await port.dial()
    client.writer.write(NEXT)
    answer = await client.answer()
    assert (answer.status, answer.fields[b"x-devroute-result"]) == (200, b"laptop")
    assert answer.body == (b"0:" if case.kept else b"1:")
    assert app.served == [(0, b"/case"), (0 if case.kept else 1, b"/next")]
    assert port.upstream.in_flight == 0


KEPT = next(case for case in CASES if case.kept)


@pytest.mark.parametrize("app", [KEPT], indirect=True)
async def test_bytes_on_an_idle_connection_are_no_response(app: App, port: Port) -> None:
    assert (await ask(port, b"GET")).complete
    app.writers[0].write(POISON)
    await asyncio.wait_for(app.lost[0].wait(), PATIENCE_S)
    client = await port.dial()
    client.writer.write(NEXT)
    assert (await client.answer()).body == b"1:"


async def test_a_server_that_speaks_first_is_no_app() -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    async with data_port(await asyncio.start_server(greet, "127.0.0.1", 0)) as port:
        assert (await ask(port, b"GET")).outcome == (502, "upstream-invalid")


@pytest.mark.parametrize(
    "app",
    [
        KEPT._replace(
            raw=b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nConnection: x-hop\r\nx-hop: 1\r\nKeep-Alive: 5\r\n"
            b"Upgrade: h2c\r\nProxy-Connection: x\r\nX-Devroute-Result: service\r\nSet-Cookie: a\r\n"
            b"Set-Cookie: b\r\n\r\nhi"
        )
    ],
    indirect=True,
)
async def test_hop_by_hop_fields_and_the_apps_own_x_devroute_fields_are_not_forwarded(
    app: App, port: Port
) -> None:
    client = await port.dial()
    client.writer.write(NEXT.replace(b"/next", b"/case"))
    head = await asyncio.wait_for(client.reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    assert head.split(b"\r\n")[1:-2] == [
        b"content-length: 2",
        b"Set-Cookie: a",
        b"Set-Cookie: b",
        b"x-devroute-result: laptop",
        b"x-devroute-reason: foo answered by alice (tunnel)",
        b"cache-control: no-store",
    ]
