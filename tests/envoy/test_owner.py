"""A detour goes straight to the replica that /resolve names: the shipped filter on a real Envoy, with three
replicas of the proxy's data port, and one that has just gone."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.model import MeshScope
from tests.envoy.harness import Handler, Mesh, serving, sidecar_of_foo
from tests.envoy.real import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

CONTRACT = {"x-devroute": '{"foo": "alice"}'}
REQUESTS = 9


def replica(number: int) -> Handler:
    async def respond(request: web.Request) -> web.Response:
        return web.Response(text=str(number), headers={"x-devroute-result": "laptop"})

    return respond


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[tuple[Mesh, list[Endpoint]]]:
    async with AsyncExitStack() as stack:
        places = [await stack.enter_async_context(serving(replica(number))) for number in range(3)]
        gone = Endpoint("127.0.0.1", free_port())
        sidecar = sidecar_of_foo(folder, MeshScope(), replicas=places, gone=gone, port=free_port())
        mesh = await stack.enter_async_context(sidecar)
        yield mesh, [*places, gone]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Mesh, list[Endpoint]]]:
    async with running(tmp_path_factory.mktemp("three")) as found:
        yield found


async def responders(mesh: Mesh) -> list[str]:
    found = []
    for _ in range(REQUESTS):
        async with mesh.client.get(mesh.url, headers=CONTRACT) as response:
            assert response.headers["x-devroute-result"] == "laptop"
            found.append(await response.text())
    return found


@pytest.mark.parametrize("number", range(3))
async def test_every_request_reaches_the_replica_that_is_named(
    three: tuple[Mesh, list[Endpoint]], number: int
) -> None:
    mesh, places = three
    mesh.proxy.says("detour", service="foo", owner=f"{places[number].host}:{places[number].port}", ttl=0)
    assert await responders(mesh) == [str(number)] * REQUESTS


async def test_where_the_owner_has_gone_another_replica_gets_the_request(
    three: tuple[Mesh, list[Endpoint]],
) -> None:
    mesh, (*_, gone) = three
    mesh.proxy.says("detour", service="foo", owner=f"{gone.host}:{gone.port}", ttl=0)
    assert set(await responders(mesh)) <= {"0", "1", "2"}


@pytest.mark.parametrize("lines", [{}, {"owner": "192.0.2.9:8080"}], ids=["nobody", "not-a-host"])
async def test_without_a_known_replica_requests_are_balanced(
    three: tuple[Mesh, list[Endpoint]], lines: dict[str, str]
) -> None:
    mesh, _ = three
    mesh.proxy.says("detour", service="foo", ttl=0, **lines)
    assert set(await responders(mesh)) == {"0", "1", "2"}


async def test_a_mirrored_request_still_goes_to_the_service(three: tuple[Mesh, list[Endpoint]]) -> None:
    mesh, places = three
    mesh.proxy.says("mirror", service="foo", owner=f"{places[0].host}:{places[0].port}", ttl=0)
    async with mesh.client.get(mesh.url, headers=CONTRACT) as response:
        assert response.headers["x-devroute-result"] == "mirror"
        assert (await response.json())["who"] == "app"
