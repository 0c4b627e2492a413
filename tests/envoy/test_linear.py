"""What 60 KB of a hostile header cost a real Envoy with the shipped filters, compared with another header."""

import asyncio
from pathlib import Path

import pytest

from devroute.mesh.manifests.model import WorkloadScope
from tests.envoy.harness import Mesh, sidecar_of_foo
from tests.lua.test_linear import EVERY_SHAPE

pytestmark = pytest.mark.mesh

#: How often the CPU time of a harmless request one may take; with a quadratic pattern it is a thousand times.
ALLOWED = 40


def cpu_ns(pid: int) -> int:
    """Nanoseconds that all threads of a process have run."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


async def cost(mesh: Mesh, *lines: str, path: str = "/") -> int:
    """Nanoseconds of CPU time that a request takes."""
    host, _, port = mesh.address.rpartition(":")
    before = cpu_ns(mesh.envoy.process.pid)
    reader, writer = await asyncio.open_connection(host, int(port))
    head = "\r\n".join([f"GET {path} HTTP/1.1", "host: foo", "connection: close", *lines, "", ""])
    writer.write(head.encode())
    # Not to the end of the connection, which Envoy keeps for a second after a response of its own.
    status = (await reader.readuntil(b"\r\n\r\n")).split(b" ", 2)[1]
    writer.close()
    assert status in (b"200", b"400"), (status, head[:200])
    return cpu_ns(mesh.envoy.process.pid) - before


@pytest.mark.parametrize("place", ["baggage", "x-devroute", "x-devroute-via", ":path", "plain"])
async def test_no_header_holds_a_worker(tmp_path: Path, place: str) -> None:
    scope = WorkloadScope("default", "foo", shadow_share=100)
    contract = 'x-devroute: {"foo": "x"}'
    async with sidecar_of_foo(tmp_path, scope) as mesh:
        mesh.proxy.says("detour", service="foo", path="/", ttl=0, callers="qa/*,*/*a*a*a*a*b")
        usual = max([await cost(mesh, contract, "x-own: " + "a" * 59_000) for _ in range(10)])
        failed = {}
        for shape, whole in EVERY_SHAPE.items():
            for size in (59_000, 16_000):
                text = whole[: size - 20] + whole[-20:]
                text = text.replace("\n", " ")
                if place == ":path":
                    taken = await cost(mesh, contract, path=f"/{text}".replace(" ", "+").replace("\t", "+"))
                elif place == "x-devroute":
                    taken = await cost(mesh, f"x-devroute: {text.removeprefix('devroute=')}")
                elif place == "plain":
                    taken = await cost(mesh, f"baggage: {text}")
                else:
                    taken = await cost(mesh, contract, f"{place}: {text}")
                if taken > ALLOWED * usual:
                    failed[shape, size] = f"{taken / 1e6:.0f} ms of {ALLOWED * usual / 1e6:.0f}"
        assert failed == {}
