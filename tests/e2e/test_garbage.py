"""Requests leave nothing to the collector of cyclic garbage, whose pauses delay other requests.

A whole proxy, a whole agent, an app and a client in one process, with the collector off.
"""

import asyncio
import gc
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from devroute.agent.app import Agent
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.auth.tokens import new_token
from devroute.contract.service_spec import ServiceSpec
from devroute.inspector.recorder import Recorder
from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.background_writer import BackgroundWriter
from tests.support.canned import BODY, MESSAGE, CannedApp, CannedClient, block
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Of each kind. What one of them leaves behind, all of them do.
REQUESTS: Final = 40

RULES: Final = [
    {"path": "/ruled/respond", "respond": {"status": 503, "body": "x"}},
    {"path": "/ruled/delay", "delay": 0.001},
    {"path": "/ruled/reset", "fail": "reset"},
    {"path": "/ruled/fail", "fail": 500},
]
MATCHED: Final = b"x-devroute-matched: foo\r\nx-request-id: 0c7d0b8e-41a3-4c1f-8b1e-6a1b5f6f7a11\r\n"
UPGRADE: Final = b"connection: upgrade\r\nupgrade: echo\r\n"
TRACE: Final = b"x-devroute-trace: abcdefgh12345678\r\n"


@dataclass
class World:
    proxy: Proxy
    recorder: Recorder
    seen: Counter[str]
    port: int
    clients: list[CannedClient] = field(default_factory=list)

    async def client(self, *, http2: bool = False) -> CannedClient:
        client = await CannedClient.dial(self.proxy.data_port, http2=http2)
        self.clients.append(client)
        return client

    def contract(self, way: str, options: str) -> bytes:
        to = {"direct": f"127.0.0.1:{self.port}", "tunnel": "alice"}.get(way, way)
        return f'{{"foo": {{"to": "{to}"{options and ", "}{options}}}}}'.encode()

    def garbage(self) -> Counter[str]:
        """What the collector finds, by type."""
        self.recorder.flush()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        gc.set_debug(0)
        found = Counter(type(each).__name__ for each in gc.garbage)
        gc.garbage.clear()
        gc.collect()  # for good
        return found

    async def close(self) -> None:
        """Close all connections of clients."""
        while self.clients:
            self.clients.pop().transport.abort()
        await eventually(lambda: not self.proxy.data.connections)


Send = Callable[[World, int, str], Awaitable[bytes]]


def http1(path: str, more: bytes = b"", body: bytes = b"", *, options: str = "", then: str = "wait") -> Send:
    """Requests on a connection that is kept, where it can be. `then`: "wait" for the response; "leave" once
    it is there; "cancel" once the app has the request."""
    method = "POST" if body else "GET"

    async def send(world: World, count: int, way: str) -> bytes:
        start = f"{method} {path} HTTP/1.1\r\nhost: foo\r\nx-devroute: ".encode()
        request = start + world.contract(way, options) + b"\r\n" + MATCHED + more + b"\r\n" + body
        client = await world.client()
        response = b""
        for _ in range(count):
            if client.transport.is_closing():
                client = await world.client()
            if then == "cancel":
                before = world.seen[path]
                client.transport.write(request)
                await eventually(lambda before=before: world.seen[path] > before)
            else:
                response = await client.exchange(request)
            if then != "wait":
                client.transport.abort()
        return response

    return send


def http2(path: str, *, grpc: bool = True, cancel: bool = False) -> Send:
    async def send(world: World, count: int, way: str) -> bytes:
        method, kind = (
            (b"POST", [(b"content-type", b"application/grpc"), (b"te", b"trailers")])
            if grpc
            else (b"GET", [])
        )
        start = [
            (b":method", method),
            (b":scheme", b"http"),
            (b":path", path.encode()),
            (b":authority", b"foo"),
        ]
        ours = [(b"x-devroute", world.contract(way, "")), (b"x-devroute-matched", b"foo")]
        head, body = block([*start, *kind, *ours]), MESSAGE if grpc else b""
        client = await world.client(http2=True)
        response = b""
        for _ in range(count):
            response = await client.call(head, body, cancel=cancel)
        return response

    return send


LENGTH: Final = b"content-length: 1024\r\n"
CHUNKED: Final = b"transfer-encoding: chunked\r\n"
LAST: Final = b"grpc-status\x010"

#: What is sent, what the response to it has, and whether each needs a connection of its own.
EITHER_WAY: Final[dict[str, tuple[Send, bytes]]] = {
    "get": (http1("/"), b" 200 "),
    "early hints": (http1("/early"), b" 103 "),
    "heads that differ": (http1("/varied"), b" 200 "),
    "post": (http1("/", LENGTH, BODY), b" 200 "),
    "chunked": (http1("/chunked", CHUNKED, b"400\r\n%b\r\n0\r\n\r\n" % BODY), b" 200 "),
    "the app closes": (http1("/close", LENGTH, BODY), b" 502 "),
    "the app breaks off": (http1("/broken"), b""),
    "cancelled": (http1("/hang", then="cancel"), b""),
    "upgrade": (http1("/upgrade", UPGRADE, then="leave"), b" 101 "),
    "delay": (http1("/", options='"delay": 0.001'), b" 200 "),
    "timeout": (http1("/", options='"timeout": 30'), b" 200 "),
    "timed out": (http1("/hang", options='"timeout": 0.001'), b" 504 "),
    "abort": (http1("/", options='"abort": 503'), b" 503 "),
    "mirror": (http1("/", LENGTH, BODY, options='"mirror": true'), b" 202 "),
    "http2": (http2("/", grpc=False), LAST),
    "grpc": (http2("/t/Unary"), LAST),
    "grpc cancelled": (http2("/hang", cancel=True), bytes(8)),
}  # fmt: skip
ONE_WAY: Final[dict[str, tuple[str, Send, bytes]]] = {
    "trace": ("tunnel", http1("/", TRACE), b" 200 "),
    "rule responds": ("tunnel", http1("/ruled/respond"), b" 503 "),
    "rule delays": ("tunnel", http1("/ruled/delay"), b" 200 "),
    "rule resets": ("tunnel", http1("/ruled/reset"), b" 502 "),
    "rule fails": ("tunnel", http1("/ruled/fail"), b" 500 "),
    "offline": ("bob", http1("/"), b" 503 "),
    "not permitted": ("10.0.0.1:80", http1("/"), b" 403 "),
    "invalid": ('"', http1("/"), b" 400 "),
    "grpc offline": ("bob", http2("/t/Unary"), b"grpc-status"),
}  # fmt: skip
CASES: Final = {
    **{f"{name}, {way}": (way, *case) for name, case in EITHER_WAY.items() for way in ("direct", "tunnel")},
    **ONE_WAY,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("garbage")
    secret, record = new_token("alice")
    (folder / "policy.yaml").write_text("direct: {networks: [127.0.0.0/8]}\n")
    (folder / "tokens.yaml").write_text(record.as_yaml())
    log = BackgroundWriter(len)
    proxy = Proxy(ProxySettings.model_validate(_proxy_settings(folder)), log)
    await proxy.start()
    seen: Counter[str] = Counter()
    listening = await asyncio.get_running_loop().create_server(lambda: CannedApp(seen), "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    settings = AgentSettings.model_validate({
        "token": secret,
        "server": f"http://127.0.0.1:{proxy.control_port}",
        "services": (ServiceSpec("foo", "127.0.0.1", port),),
        "inspector_memory_mb": 1,  # so that captures are dropped meanwhile
        "host_header": "rewrite",
        "rules": RULES,
    })  # fmt: skip
    with open(os.devnull, "w") as nowhere:  # noqa: ASYNC230
        agent = Agent(settings, FanOut(LineReporter("text", TerminalWriter(nowhere))))
        running = asyncio.ensure_future(agent.run())
        await eventually(proxy.registry.listing, task=running)
        assert agent.recorder is not None
        yield World(proxy, agent.recorder, seen, port)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    listening.close()
    await proxy.stop()
    log.close()
    gc.unfreeze()  # of the agent


def _proxy_settings(folder: Path) -> dict[str, Any]:
    listeners = ("data", "control", "admin")
    return {
        **{f"{each}_host": "127.0.0.1" for each in listeners},
        **{f"{each}_port": 0 for each in listeners},
        "policy": folder / "policy.yaml",
        "tokens": folder / "tokens.yaml",
    }


def without_transports(found: Counter[str]) -> Counter[str]:
    """asyncio leaves each transport that has ended, with what it owns; uvloop does not."""
    rest = Counter(found)
    closed = rest.pop("_SelectorSocketTransport", 0)
    for name in ("dict", "TransportSocket", "socket", "method"):
        rest[name] -= closed
    rest["tuple"] -= 2 * closed
    return +rest


async def run(world: World, send: Send, count: int, way: str) -> tuple[bytes, Counter[str]]:
    """A response, and the garbage that so many requests left."""
    await send(world, 3, way)  # caches and connections
    world.garbage()
    gc.disable()
    try:
        response = await send(world, count, way)
        return response, without_transports(world.garbage())
    finally:
        gc.enable()
        await world.close()


@pytest.mark.parametrize("case", CASES)
async def test_requests_leave_nothing_to_the_garbage_collector(case: str, world: World) -> None:
    way, send, expected = CASES[case]
    response, found = await run(world, send, REQUESTS, way)
    assert expected in response if expected else response == b""
    assert found.total() < REQUESTS / 10, found  # so that one more of anything each would be seen


@pytest.mark.slow  # 5 s of CPU time
async def test_10_000_requests_leave_nothing_to_the_garbage_collector(world: World) -> None:
    response, found = await run(world, http1("/varied"), 10_000, "tunnel")
    assert b" 200 " in response
    assert not found
