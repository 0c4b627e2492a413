"""DNS rebinding: a name whose addresses change between the check and the connection. Runs a real name server,
and a real proxy whose mount namespace has a resolv.conf that points to it.
"""

import asyncio
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
import pytest_asyncio

from devroute.mesh.envoy import stop
from tests.support.eventually import PATIENCE_S

#: Loopback addresses that nothing else uses, not even another worker that runs this module.
NET = f"127.{random.randint(16, 250)}.{random.randint(1, 250)}"
SERVER, PERMITTED, FORBIDDEN = f"{NET}.1", f"{NET}.2", f"{NET}.3"
#: Replaces the resolver's files for one process, by bind mounts.
OWN_NAMES = """
mount --bind "$0" /etc/resolv.conf || exit
[ ! -e /etc/nsswitch.conf ] || mount --bind "$1" /etc/nsswitch.conf || exit
shift
exec "$@"
"""


def why_not() -> str | None:
    """Why these tests cannot run here, or None. In CI a skipped test is a failure (conftest.py)."""
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None:
        return "needs Linux and unshare(1)"
    if os.geteuid() != 0:
        return "needs root, for port 53 and a mount namespace"
    tried = subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True)
    return None if tried.returncode == 0 else "this container may not make a mount namespace"


pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]


@dataclass
class Names(asyncio.DatagramProtocol):
    """A name server that returns the next of `answers` as A records for each query, whatever the name."""

    answers: Iterator[list[str]] = field(default_factory=lambda: itertools.repeat([]))
    ipv6: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        query = dns.message.from_wire(data)
        question = query.question[0]
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        found = list(self.ipv6) if question.rdtype == dns.rdatatype.AAAA else []
        if question.rdtype == dns.rdatatype.A:
            self.asked.append(question.name.to_text())
            found = next(self.answers)
        if found:
            kind = dns.rdatatype.to_text(question.rdtype)
            response.answer.append(dns.rrset.from_text(question.name, 0, "IN", kind, *found))
        self.transport.sendto(response.to_wire(), addr)


@dataclass
class App:
    """Responds with its own name, one request for each connection."""

    name: str
    connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            await reader.readuntil(b"\r\n\r\n")
            body = self.name.encode()
            head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            writer.write(head + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class World:
    names: Names
    permitted: App
    forbidden: App
    target: str
    data: str
    control: str
    client: aiohttp.ClientSession

    def means(self, *answers: list[str], ipv6: list[str] | None = None) -> None:
        """The addresses of the name, query after query; the last ones stay."""
        self.names.answers = itertools.chain(answers, itertools.repeat(answers[-1]))
        self.names.ipv6 = ipv6 or []
        self.names.asked.clear()
        self.permitted.connections = self.forbidden.connections = 0

    async def get(self) -> tuple[int, str]:
        """A detoured request, as a sidecar sends it."""
        headers = {"x-devroute": json.dumps({"foo": self.target}), "x-devroute-matched": "foo"}
        async with self.client.get(self.data, headers=headers) as response:
            return response.status, await response.text()

    async def resolve(self) -> str:
        headers = {"x-devroute": json.dumps({"foo": self.target}), "x-devroute-candidates": "foo"}
        async with self.client.get(self.control + "/resolve", headers=headers) as response:
            return await response.text()


@asynccontextmanager
async def proxy(folder: Path) -> AsyncIterator[dict[str, Any]]:
    """A `devroute proxy` that uses our name server; returns its event `proxy.ready`."""
    (folder / "resolv.conf").write_text(f"nameserver {SERVER}\noptions timeout:30 attempts:1\n")
    (folder / "nsswitch.conf").write_text("hosts: dns\n")
    (folder / "policy.yaml").write_text(f"direct: {{networks: [{PERMITTED}/32]}}\n")
    own = ("unshare", "--mount", "--propagation", "private", "sh", "-c", OWN_NAMES)
    ports = ("--data-port", "0", "--control-port", "0", "--admin-port", "0", "--host", "127.0.0.1")
    started = await asyncio.create_subprocess_exec(
        *(*own, str(folder / "resolv.conf"), str(folder / "nsswitch.conf")),
        *(sys.executable, "-m", "devroute", "proxy", "--policy", "policy.yaml", *ports),
        cwd=folder,
        env=os.environ | {"DEVROUTE_PROBE_TIMEOUT": "30", "DEVROUTE_CONNECT_TIMEOUT": "60"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert started.stdout is not None
        said = b""
        async with asyncio.timeout(PATIENCE_S):
            while line := await started.stdout.readline():
                said += line
                if b'"proxy.ready"' in line:
                    break
            else:
                pytest.fail(said.decode())
        reading = asyncio.ensure_future(started.stdout.read())  # a full pipe would block the proxy
        yield json.loads(line)
        reading.cancel()
    finally:
        await stop(started)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    loop = asyncio.get_running_loop()
    permitted, forbidden = App("permitted"), App("forbidden")
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(await asyncio.start_server(permitted.serve, PERMITTED, 0))
        port = first.sockets[0].getsockname()[1]
        await stack.enter_async_context(await asyncio.start_server(forbidden.serve, FORBIDDEN, port))
        transport, names = await loop.create_datagram_endpoint(Names, (SERVER, 53))
        stack.callback(transport.close)
        ready = await stack.enter_async_context(proxy(tmp_path_factory.mktemp("rebinding")))
        client = await stack.enter_async_context(aiohttp.ClientSession())
        data, control = (f"http://127.0.0.1:{ready[f'{name}_port']}" for name in ("data", "control"))
        yield World(names, permitted, forbidden, f"laptop.example:{port}", data, control, client)


async def test_a_name_that_changes_after_its_check_is_not_resolved_again(world: World) -> None:
    world.means([PERMITTED], [FORBIDDEN])
    assert await world.get() == (200, "permitted")
    assert len(world.names.asked) == 1, (
        "the proxy connects to the address that it checked, without a second query"
    )
    status, body = await world.get()
    assert (status, json.loads(body)["code"]) == (403, "target-denied")
    assert FORBIDDEN in json.loads(body)["message"]
    assert (world.permitted.connections, world.forbidden.connections) == (1, 0)


async def test_a_name_permitted_in_resolve_is_checked_again_for_the_request(
    world: World,
) -> None:
    world.means([PERMITTED], [FORBIDDEN])
    assert "decision detour" in await world.resolve()
    seen = [await world.get() for _ in range(2)]
    assert seen[0] == (200, "permitted"), "on the connection that /resolve opened"
    assert seen[1][0] == 403
    answered = await world.resolve()
    assert "decision fallback" in answered
    assert f"{FORBIDDEN} is in" in answered
    assert world.forbidden.connections == 0


async def test_a_name_that_keeps_changing_never_reaches_a_denied_address(world: World) -> None:
    world.means([PERMITTED])
    world.names.answers = itertools.cycle([[PERMITTED], [FORBIDDEN], [FORBIDDEN], [PERMITTED], [FORBIDDEN]])
    seen = {
        (status, body if status == 200 else "") for status, body in [await world.get() for _ in range(20)]
    }
    assert seen == {(200, "permitted"), (403, "")}
    assert world.forbidden.connections == 0


@pytest.mark.parametrize("order", [[PERMITTED, FORBIDDEN], [FORBIDDEN, PERMITTED]])
async def test_every_address_of_a_name_has_to_be_permitted(world: World, order: list[str]) -> None:
    world.means(order)
    assert (await world.get())[0] == 403
    assert (world.permitted.connections, world.forbidden.connections) == (0, 0)


# The ids of tests must not contain the addresses, which differ between workers.
@pytest.mark.parametrize(
    "ipv6",
    ["::1", f"::ffff:{FORBIDDEN}", f"64:ff9b::{FORBIDDEN}", f"::{FORBIDDEN}"],
    ids=["loopback", "mapped", "NAT64", "compatible"],
)
async def test_the_ipv6_addresses_of_a_name_are_checked_too(world: World, ipv6: str) -> None:
    world.means([PERMITTED], ipv6=[ipv6])
    assert (await world.get())[0] == 403
    world.means([], ipv6=[ipv6])
    assert (await world.get())[0] == 403
    assert (world.permitted.connections, world.forbidden.connections) == (0, 0)


async def test_a_name_that_does_not_resolve_is_reported_as_such(world: World) -> None:
    world.means([])
    status, body = await world.get()
    assert (status, json.loads(body)["code"]) == (502, "target-unreachable")
    assert "is a name that does not resolve" in body
