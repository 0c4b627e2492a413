"""What aiohttp serves is loaded for its first client; those that come meanwhile wait too."""

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from types import ModuleType

import pytest
from aiohttp import web

from devroute.pages.lazy_server import LazyProtocols
from devroute.proxy.control import http
from tests.support.eventually import PATIENCE_S, eventually, quiet

NAME = "devroute_test_people"
SOURCE = f"""
from {__name__} import GATE
from devroute.proxy.control.http import connections
if not GATE.wait(20):
    raise RuntimeError("the gate is closed")
"""
#: Open: the module can be imported to its end.
GATE = threading.Event()
REQUEST = b"GET /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


def make(module: ModuleType) -> web.AppRunner:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(text="late")

    app = web.Application()
    app.router.add_get("/a", respond)
    return http.create_runner(app)


class Port:
    def __init__(self, lazy: LazyProtocols, server: asyncio.Server) -> None:
        self.lazy = lazy
        self.address = server.sockets[0].getsockname()

    async def open(self, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        writer.write(first)
        await writer.drain()
        return reader, writer

    async def ask(self) -> bytes:
        """All that the connection says, b"" where it is reset."""
        reader, writer = await self.open(REQUEST)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        except ConnectionError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Port]:
    GATE.clear()
    (tmp_path / f"{NAME}.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    lazy = LazyProtocols(NAME, make, lambda module, runner: module.connections(runner))
    server = await asyncio.get_running_loop().create_server(lazy, "127.0.0.1", 0)
    yield Port(lazy, server)
    GATE.set()
    server.close()
    await lazy.close()
    sys.modules.pop(NAME, None)


def is_being_imported() -> bool:
    return NAME in sys.modules


async def test_nothing_is_imported_before_a_client_comes(port: Port) -> None:
    assert not is_being_imported()
    GATE.set()
    assert b"late" in await port.ask()
    assert is_being_imported()


async def test_clients_wait_with_what_they_have_sent_while_the_loop_goes_on(port: Port) -> None:
    reader, writer = await port.open(REQUEST[:20])
    await eventually(is_being_imported)
    others = [asyncio.ensure_future(port.ask()) for _ in range(3)]
    writer.write(REQUEST[20:])
    await quiet(lambda: [each.done() for each in others])
    assert not any(each.done() for each in others)
    GATE.set()
    async with asyncio.timeout(PATIENCE_S):
        assert b"late" in await reader.read()
        assert all(b"late" in said for said in await asyncio.gather(*others))
    assert b"late" in await port.ask()
    writer.close()


async def test_a_client_that_has_sent_nothing_yet_is_served_once_it_does(port: Port) -> None:
    reader, writer = await port.open(b"")
    GATE.set()
    assert b"late" in await port.ask()
    writer.write(REQUEST)
    async with asyncio.timeout(PATIENCE_S):
        assert b"late" in await reader.read()
    writer.close()


async def test_a_client_that_is_accepted_just_as_the_import_ends_is_served(port: Port) -> None:
    early = port.lazy()  # accepted; the loop calls connection_made later
    GATE.set()
    assert b"late" in await port.ask()
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    theirs.setblocking(False)
    await asyncio.get_running_loop().connect_accepted_socket(lambda: early, theirs)
    writer.write(REQUEST)
    async with asyncio.timeout(PATIENCE_S):
        assert b"late" in await reader.read()
    writer.close()


class Pausing(asyncio.Protocol):
    """Pauses at the first data."""

    def __init__(self, read: list[bytes]) -> None:
        self._read = read

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._read.append(data)
        self._transport.pause_reading()


async def test_a_protocol_that_pauses_at_what_was_read_before_it_gets_no_more(port: Port) -> None:
    read: list[bytes] = []
    lazy = LazyProtocols(NAME, make, lambda module, runner: lambda: Pausing(read))
    ours, theirs = socket.socketpair()
    _, writer = await asyncio.open_connection(sock=ours)
    theirs.setblocking(False)
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(lazy, theirs)
    transport.resume_reading()  # as uvloop does, and Python 3.11.2
    writer.write(b"one")
    await eventually(lambda: not transport.is_reading(), "the first read")
    GATE.set()
    await eventually(lambda: read)
    writer.write(b"two")
    await quiet(lambda: list(read))
    assert read == [b"one"]
    transport.abort()
    writer.close()
    await lazy.close()


async def test_a_client_that_has_left_meanwhile_disturbs_none(port: Port) -> None:
    _, writer = await port.open(REQUEST)
    await eventually(is_being_imported)
    writer.transport.abort()
    other = asyncio.ensure_future(port.ask())
    GATE.set()
    assert b"late" in await other


async def test_where_the_import_fails_its_clients_are_disconnected_and_the_next_one_has_it_tried_again(
    port: Port, tmp_path: Path
) -> None:
    (tmp_path / f"{NAME}.py").write_text("raise RuntimeError", encoding="utf-8")
    assert [await port.ask() for _ in range(2)] == [b"", b""]
    GATE.set()
    (tmp_path / f"{NAME}.py").write_text(SOURCE, encoding="utf-8")
    assert b"late" in await port.ask()


async def test_at_the_end_those_that_wait_are_disconnected(port: Port) -> None:
    asking = asyncio.ensure_future(port.ask())
    await eventually(is_being_imported)
    await port.lazy.close()
    assert await asking == b""
