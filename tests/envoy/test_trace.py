"""`devroute trace` through real sidecars: the chain, whose code answered, and where a contract was lost."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.auth.tokens import new_token
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SECRET, RECORD = new_token("alice")


async def answer(_: web.Request) -> web.Response:
    return web.Response(text="hello\n")


def calling(url: str, passed_on: list[str]) -> Any:
    """An app that calls the next one with some of its request's headers."""

    async def app(request: web.Request) -> web.Response:
        headers = {name: request.headers[name] for name in passed_on if name in request.headers}
        async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
            return web.Response(text=await response.text())

    return app


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with real_mesh(tmp_path_factory.mktemp("trace"), RECORD) as found:
        yield found


async def traced(mesh: Mesh, *arguments: str, output: str = "text") -> tuple[int | None, str, str]:
    """Exit code, standard output and standard error."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "trace", "--output", output, "--", *arguments),
        env={"HOME": str(mesh.folder), "PATH": "/usr/bin:/bin", "DEVROUTE_SERVER": mesh.proxy.server}
        | {"DEVROUTE_TOKEN": SECRET},
        cwd=mesh.folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output_, error = await process.communicate()
    return process.returncode, output_.decode(), error.decode()


@pytest.mark.parametrize("passed_on", [["baggage"], ["x-devroute"], ["x-devroute", "x-devroute-trace"]])
async def test_the_chain_and_whose_code_answered(mesh: Mesh, passed_on: list[str]) -> None:
    async with serving(answer) as leaf, serving(answer) as laptop:
        bar = await mesh.sidecar("bar", leaf)
        async with serving(calling(bar, passed_on)) as middle:
            foo = await mesh.sidecar("foo", middle)
            contract = json.dumps({"bar": f"{laptop.host}:{laptop.port}"})
            code, said, told = await traced(mesh, "curl", "-s", "-H", f"X-devroute: {contract}", foo)
    assert (code, said) == (0, "hello\n")
    head, first, second = told.splitlines()
    assert head.startswith("trace ")
    assert "2 hops" in head
    assert first.split()[2:] == ["foo", "service"]
    assert second.split()[2:6] == ["bar", "laptop", f"{laptop.host}:{laptop.port}", "answered"]


async def test_a_trace_shows_where_the_contract_was_lost(mesh: Mesh) -> None:
    async with serving(answer) as leaf:
        bar = await mesh.sidecar("bar", leaf)
        async with serving(calling(bar, ["accept"])) as middle:
            foo = await mesh.sidecar("foo", middle)
            contract = json.dumps({"foo": "nobody", "bar": "alice"})
            code, said, _ = await traced(
                mesh, "curl", "-sf", "-H", f"X-devroute: {contract}", foo, "-o", "/dev/null", output="json"
            )
    told = json.loads(said)
    assert (code, told["missed"]) == (0, ["bar"])
    (hop,) = told["hops"]
    assert (hop["service"], hop["result"]) == ("foo", "fallback")
    assert "nobody" in hop["reason"]


async def test_the_commands_own_failure_is_the_exit_code(mesh: Mesh, tmp_path: Path) -> None:
    code, _, told = await traced(mesh, "curl", "-s", f"file://{tmp_path}/nothing")
    assert code == 37
    assert "no sidecar saw a contract" in told
    code, _, told = await traced(mesh, "python", "-c", "1")
    assert code == 20
    assert "not a program that can be traced" in told
