"""What `doctor` says about the app of a service, with real listeners."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from devroute.agent.doctor import apps
from devroute.agent.doctor.apps import examine_app
from devroute.contract.service_spec import ServiceSpec
from tests.support.ports import free_port
from tests.upstream.test_http1_pool import closing_port, two_addresses


@asynccontextmanager
async def app(host: str, port: int, response: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(response)
        writer.close()

    server = await asyncio.start_server(serve, host, port)
    yield server.sockets[0].getsockname()[1]
    server.close()


OK = b"HTTP/1.1 200 OK\r\nserver: one\r\ncontent-length: 0\r\n\r\n"
OTHER = b"HTTP/1.1 404 Not Found\r\nServer: \x1btwo\r\ncontent-length: 0\r\n\r\n"


async def test_an_app_that_listens_passes() -> None:
    async with app("127.0.0.1", 0, OK) as port:
        found = await examine_app(ServiceSpec("foo", "127.0.0.1", port))
    assert (found.check, found.result, found.text) == ("app foo", "ok", f"127.0.0.1:{port} listens")


async def test_a_port_that_closes_each_connection_is_not_one_that_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apps, "WATCH_SECONDS", 20.0)  # the end of the connection ends it
    async with closing_port() as port:
        found = await examine_app(ServiceSpec("foo", "127.0.0.1", port))
    assert (found.result, found.text) == (
        "fail",
        f"127.0.0.1:{port} accepts connections and closes them at once",
    )
    assert "still starting" in found.remedy
    found = await examine_app(ServiceSpec("foo", "127.0.0.1", free_port()))
    assert (found.result, found.remedy) == ("fail", "start the app of 'foo'")


@pytest.mark.parametrize(("second", "result"), [(OK, "ok"), (OTHER, "warn")])
async def test_two_apps_on_localhost_are_both_named(
    second: bytes, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_addresses(monkeypatch)
    async with app("127.0.0.1", free_port(), OK) as port, app("::1", port, second):
        found = await examine_app(ServiceSpec("foo", "localhost", port))
    assert found.result == result
    if result == "warn":
        assert "127.0.0.1 (200 OK, server: one)" in found.text
        assert "::1 (404 Not Found, server: " in found.text
        assert "\x1b" not in found.text
        assert "--service foo=" in found.remedy
