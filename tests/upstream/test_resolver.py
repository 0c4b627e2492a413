"""Slow names delay no others, and literal addresses wait for nothing."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from devroute.upstream.dialer import Dialer, connect_first
from devroute.upstream.resolver import MAX_KNOWN, MAX_UNKNOWN, Resolved, Resolver
from tests.support.eventually import PATIENCE_S, eventually

REAL = socket.getaddrinfo


class Names:
    """The system's resolver: names that begin with `slow` wait until `answer` is set."""

    def __init__(self) -> None:
        self.answer = threading.Event()
        self.asked: list[str] = []

    def look_up(self, host: str, *arguments: Any, **options: Any) -> Any:
        if options.get("flags", 0) & socket.AI_NUMERICHOST:
            return REAL(host, *arguments, **options)
        self.asked.append(host)
        if host.startswith("slow"):
            self.answer.wait()
        if host.startswith("unknown"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return REAL("127.0.0.1", *arguments, **options)


def no_thread(thread: threading.Thread) -> None:
    """As with a limit of the container's processes."""
    raise RuntimeError("can't start new thread")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    names = Names()
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.answer.set()


async def test_slow_names_delay_no_others(names: Names) -> None:
    resolver = Resolver()
    assert (await resolver.look_up("works")).addresses == ["127.0.0.1"]
    slow = [asyncio.ensure_future(resolver.look_up(f"slow-{number}")) for number in range(MAX_UNKNOWN)]
    await eventually(lambda: len(names.asked) == 1 + MAX_UNKNOWN)
    with pytest.raises(OSError, match="other names are being looked up"):
        await resolver.look_up("slow-another")
    assert (await asyncio.wait_for(resolver.look_up("works"), PATIENCE_S)).addresses == ["127.0.0.1"]
    names.answer.set()
    assert [each.addresses for each in await asyncio.gather(*slow)] == [["127.0.0.1"]] * MAX_UNKNOWN
    assert (await resolver.look_up("slow-another")).addresses == ["127.0.0.1"]


async def test_a_name_is_looked_up_once_for_all_that_wait(names: Names) -> None:
    resolver = Resolver()
    first = asyncio.ensure_future(resolver.look_up("slow"))
    others = [asyncio.ensure_future(resolver.look_up("slow")) for _ in range(2 * MAX_KNOWN)]
    await eventually(lambda: names.asked)
    first.cancel()
    names.answer.set()
    assert [each.addresses for each in await asyncio.gather(*others)] == [["127.0.0.1"]] * len(others)
    assert names.asked == ["slow"]
    for _ in range(3):
        with pytest.raises(socket.gaierror):
            await resolver.look_up("unknown")
    assert names.asked.count("unknown") == 3


async def test_an_alias_has_the_name_that_it_leads_to(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, port: None, *, type: int, flags: int) -> Any:
        assert flags == socket.AI_CANONNAME
        name = "DB.Example.com." if host == "alias" else ""
        return [(2, type, 6, name, ("192.0.2.7", 0)), (2, type, 6, "", ("192.0.2.7", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert await Resolver().look_up("alias") == Resolved(["192.0.2.7"], "db.example.com")
    assert await Resolver().look_up("other") == Resolved(["192.0.2.7"], "")


async def test_without_a_thread_only_that_look_up_fails(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver = Resolver()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        for _ in range(2 * MAX_UNKNOWN):
            with pytest.raises(OSError, match="can't start new thread"):
                await asyncio.wait_for(resolver.look_up("works"), PATIENCE_S)
    assert (await asyncio.wait_for(resolver.look_up("works"), PATIENCE_S)).addresses == ["127.0.0.1"]


async def test_a_literal_address_waits_for_nothing(names: Names) -> None:
    loop = asyncio.get_running_loop()
    app = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = app.sockets[0].getsockname()[1]
    slow = [loop.run_in_executor(None, names.answer.wait) for _ in range(64)]  # all threads of the loop
    (await asyncio.wait_for(connect_first("127.0.0.1", port), PATIENCE_S)).close()
    dialer = Dialer("127.0.0.1", port, permit=lambda ip, port: None)
    await asyncio.wait_for(dialer.connect(asyncio.Protocol), PATIENCE_S)
    by_name = Dialer("app.example", port, permit=lambda ip, port: None)
    await asyncio.wait_for(by_name.connect(asyncio.Protocol), PATIENCE_S)
    names.answer.set()
    await asyncio.gather(*slow)
    app.close()
    assert names.asked == ["app.example"]
