"""Sleep, Wi-Fi and VPN: a real `devroute up` in a network namespace of its own, whose network fails.

The laptop's end of a pair of virtual interfaces is the laptop's Wi-Fi; the proxy runs at the other end. Where
no namespace can be made (no root, no iproute2), these tests are skipped, with the reason.
"""

import asyncio
import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from devroute.agent.network import Network, is_local_address, source_address
from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.tunnel.proxy_link import FRESH_SECONDS
from tests.support import host_network
from tests.support.eventually import eventually
from tests.support.ports import free_port
from tests.support.relay import relay
from tests.support.remote_host import RemoteHost, run

SECRET, RECORD = new_token("alice")

#: Seconds after which a laptop is back at the latest: 2 where the machine has nothing else to do.
BACK_S = 10.0
#: An app that says who it is, in the laptop's namespace.
APP = """
import http.server, sys
class App(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "6"); self.end_headers()
        self.wfile.write(b"laptop")
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), App).serve_forever()
"""


@dataclass
class Mesh:
    """A proxy, and a laptop that is online at it."""

    control: str
    data: str
    session: aiohttp.ClientSession
    laptop: testbed.Command | None = None
    said: list[str] = field(default_factory=list)

    async def decision(self) -> tuple[str, str]:
        """The decision that a sidecar receives, and its reason."""
        headers = {"x-devroute": '{"foo": "alice"}', "x-devroute-candidates": "foo"}
        async with self.session.get(f"{self.control}/resolve", headers=headers) as answer:
            lines = dict(line.partition(" ")[::2] for line in (await answer.text()).splitlines())
        return lines["decision"], lines.get("reason", "")

    async def ask(self) -> str:
        """The body of a detoured request, as a sidecar sends it."""
        headers = {"x-devroute": '{"foo": "alice"}', "x-devroute-matched": "foo"}
        timeout = aiohttp.ClientTimeout(total=2)
        async with self.session.get(self.data, headers=headers, timeout=timeout) as answer:
            return await answer.text()

    async def eventually(self, decision: str) -> str:
        """Wait for this decision; its reason."""

        async def decided() -> tuple[str, str] | None:
            found = await self.decision()
            return found if found[0] == decision else None

        return (await eventually(decided, f"the decision {decision}"))[1]

    async def back(self) -> float:
        """Seconds until requests reach the laptop."""
        started = time.monotonic()

        async def reached() -> bool:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                return (await self.decision())[0] == "detour" and await self.ask() == "laptop"
            return False

        await eventually(reached, "the laptop is reached again")
        return time.monotonic() - started

    def events(self, kind: str) -> list[dict[str, object]]:
        assert self.laptop is not None
        return [event for event in self.laptop.events() if event.get("event") == kind]


@contextlib.asynccontextmanager
async def proxy(folder: Path, host: str, *more: str) -> AsyncIterator[Mesh]:
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240
    (folder / "tokens.yaml").write_text(RECORD.as_yaml())
    (folder / "policy.yaml").write_text("services: ['*']\n")
    ports = ("--data-port", "0", "--admin-port", "0", *(more or ("--control-port", "0")))
    arguments = ("proxy", "--host", host, "--policy", "policy.yaml", "--tokens", "tokens.yaml", *ports)
    async with testbed.command(folder, "proxy", arguments, {}) as running, aiohttp.ClientSession() as session:
        (found,) = await eventually(
            lambda: [each for each in running.events() if each.get("event") == "proxy.ready"],
            "the proxy is ready",
            process=running,
        )
        yield Mesh(f"http://{host}:{found['control_port']}", f"http://{host}:{found['data_port']}/", session)


@contextlib.asynccontextmanager
async def laptop(folder: Path, mesh: Mesh, inside: tuple[str, ...], server: str = "") -> AsyncIterator[None]:
    """The app and `devroute up` in the namespace, online."""
    port = 8001 if inside else free_port()
    app = await asyncio.create_subprocess_exec(*inside, sys.executable, "-c", APP, str(port))
    log = folder / "up.log"
    try:
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(*inside, sys.executable, "-m", "devroute", "up", f"foo=127.0.0.1:{port}"),
                *("--output", "json", "--server", server or mesh.control),
                env={
                    "HOME": str(folder),
                    "DEVROUTE_TOKEN": SECRET,
                    "DEVROUTE_INSECURE_PLAIN_HTTP": "true",
                    "PYTHONUNBUFFERED": "1",
                    "PATH": os.environ["PATH"],
                },
                stdout=output,
                stderr=output,
            )
        mesh.laptop = testbed.Command(process, log)
        try:
            await mesh.back()
            yield
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
                process.terminate()
            await process.wait()
    finally:
        app.kill()
        await app.wait()


@contextlib.asynccontextmanager
async def a_laptop_on(remote_host: RemoteHost, folder: Path) -> AsyncIterator[Mesh]:
    async with proxy(folder, remote_host.proxy) as mesh, laptop(folder, mesh, remote_host.inside):
        yield mesh


async def test_without_a_network_requests_fall_back_until_it_returns(
    remote_host: RemoteHost, tmp_path: Path
) -> None:
    async with a_laptop_on(remote_host, tmp_path) as mesh:
        remote_host.ip("link", "set", "wifi", "down")
        reason = await mesh.eventually("fallback")
        assert "laptop" in reason
        await eventually(lambda: mesh.events("offline"), "the agent notices")
        assert mesh.events("network")[0]["now"] is None
        remote_host.ip("link", "set", "wifi", "up")
        took = await mesh.back()
        print(f"back {took:.2f} s after the network")
        assert took < BACK_S
        assert len(mesh.events("online")) == 1  # the same process, and nothing was restarted


async def test_a_new_address_is_noticed_at_once(remote_host: RemoteHost, tmp_path: Path) -> None:
    async with a_laptop_on(remote_host, tmp_path) as mesh:
        remote_host.ip("addr", "add", f"{remote_host.net}.3/24", "dev", "wifi")
        remote_host.ip("addr", "del", f"{remote_host.net}.2/24", "dev", "wifi")
        with contextlib.suppress(OSError):  # deleting the first address takes the second along
            remote_host.ip("addr", "add", f"{remote_host.net}.3/24", "dev", "wifi")
        await eventually(lambda: mesh.events("back"), "a tunnel from the new address")
        assert await mesh.back() < BACK_S
        assert mesh.events("network")[-1]["now"] == f"{remote_host.net}.3"
        (offline,) = mesh.events("offline")
        assert offline["reason"] == "the network has changed"
        between = float(str(mesh.events("back")[0]["time"])) - float(str(offline["time"]))
        print(f"back {between:.2f} s after the change")
        assert between < BACK_S


@contextlib.asynccontextmanager
async def delay_line(to: str) -> AsyncIterator[tuple[str, list[float]]]:
    """A network in front of a server, as its URL, whose delay can be set (tc's netem is not everywhere)."""
    seconds = [0.0]
    host, port = to.removeprefix("http://").split(":")

    async def late(data: bytes) -> bytes:
        await asyncio.sleep(seconds[0])
        return data

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, (host, int(port)), late)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seconds
        server.close()


async def test_a_slow_network_keeps_its_tunnel(tmp_path: Path) -> None:
    async with (
        proxy(tmp_path, "127.0.0.1") as mesh,
        delay_line(mesh.control) as (server, delay),
        laptop(tmp_path, mesh, (), server),
    ):
        delay[0] = 0.25
        for _ in range(3):  # the first time the proxy does not know yet that it is slow
            await mesh.eventually("detour")
            await mesh.back()
            await asyncio.sleep(FRESH_SECONDS)  # a silence, so that it is asked again
        assert not mesh.events("offline")


async def test_a_server_whose_address_changes_is_found_by_name(
    remote_host: RemoteHost, tmp_path: Path
) -> None:
    with host_network.changes():
        run("ip", "addr", "add", f"{remote_host.net}.9/24", "dev", f"{remote_host.name}h")
    etc = remote_host.etc
    hosts = etc / "hosts"
    try:
        hosts.write_text(f"{remote_host.proxy} proxy.test\n")
        async with contextlib.AsyncExitStack() as first:
            old = await first.enter_async_context(proxy(tmp_path / "old", remote_host.proxy))
            port = old.control.rpartition(":")[2]
            async with contextlib.AsyncExitStack() as stack:
                server = f"http://proxy.test:{port}"
                await stack.enter_async_context(laptop(tmp_path, old, remote_host.inside, server))
                hosts.write_text(f"{remote_host.net}.9 proxy.test\n")
                new = await stack.enter_async_context(
                    proxy(tmp_path / "new", f"{remote_host.net}.9", "--control-port", port)
                )
                await first.aclose()
                new.laptop = old.laptop
                assert await new.back() < BACK_S
    finally:
        hosts.unlink()


async def test_while_a_laptop_sleeps_requests_fall_back_with_a_reason(tmp_path: Path) -> None:
    async with proxy(tmp_path, "127.0.0.1") as mesh:
        app = await asyncio.start_server(_answer, "127.0.0.1", 0)
        port = app.sockets[0].getsockname()[1]
        async with (
            app,
            testbed.laptop(tmp_path, "alice", mesh.control, SECRET, f"foo=127.0.0.1:{port}") as up,
        ):
            mesh.laptop = up
            await mesh.back()
            up.process.send_signal(signal.SIGSTOP)
            reason = await mesh.eventually("fallback")
            assert "has not responded" in reason
            up.process.send_signal(signal.SIGCONT)
            await mesh.back()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\nconnection: close\r\n\r\nlaptop")
        await writer.drain()
    writer.close()


# --- the system's routes ------------------------------------------------------------------------------------


def test_the_source_address_is_that_of_the_route_to_a_peer() -> None:
    assert source_address(("127.0.0.1", 9)) == "127.0.0.1"
    assert source_address(("255.255.255.255", 9)) is None  # a broadcast is not permitted
    assert is_local_address("127.0.0.1")
    assert not is_local_address("192.0.2.1")  # TEST-NET-1 (RFC 5737)


def test_a_change_is_reported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[tuple[str | None, str | None]] = []
    way: list[str | None] = ["10.0.0.1"]
    monkeypatch.setattr("devroute.agent.network.source_address", lambda peer: way[0])
    network = Network(lambda before, now: changes.append((before, now)), lambda: None)
    assert not network.check()
    network.follow(("10.0.0.9", 1))
    assert not network.check()
    way[0] = None
    assert network.check()
    assert not network.check()
    way[0] = "10.0.0.2"
    network.check()
    assert changes == [("10.0.0.1", None), (None, "10.0.0.2")]


def test_without_a_file_descriptor_nothing_is_taken_for_a_change(monkeypatch: pytest.MonkeyPatch) -> None:
    changes: list[tuple[str | None, str | None]] = []
    network = Network(lambda before, now: changes.append((before, now)), lambda: None)
    network.follow(("127.0.0.1", 9))

    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("devroute.agent.network._udp_socket", no_descriptor)
    assert not network.check()
    network.follow(("127.0.0.1", 9))
    assert is_local_address("192.0.2.1")
    assert changes == []
