"""A detour goes straight to the replica that /resolve names: the shipped filter on a real Envoy, with three
replicas of the proxy's data port; and what happens where some of the replicas are not there."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.model import MeshScope
from tests.envoy.harness import FakeProxy, Handler, Mesh, serving, sidecar_of_foo
from tests.support.ports import free_port

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


# --- some replicas are not there ----------------------------------------------------------------------------

UNSENT = {"x-devroute-unsent": "delayed connect error: Connection refused"}


class OneOfThree:
    """The replica that is there: counts the requests that reach it, by path and body. `elsewhere`: those that
    reach the pod of another one, whose sidecar is there, and finds the proxy's port closed."""

    def __init__(self) -> None:
        self.seen = Counter[tuple[str, bytes]]()
        self.elsewhere = 0

    async def respond(self, request: web.Request) -> web.Response:
        self.seen[request.path, await request.read()] += 1
        if request.path == "/closes":
            assert request.transport is not None
            request.transport.close()
        status = 503 if request.path == "/fails" else 200
        return web.Response(status=status, headers={"x-devroute-result": "laptop"})

    async def refuse(self, request: web.Request) -> web.Response:
        self.elsewhere += 1
        return web.Response(status=503, headers=UNSENT)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def one_of_three(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Mesh, OneOfThree, list[Endpoint]]]:
    """The places: of the one that is there, of a pod without a proxy, of nothing."""
    found = OneOfThree()
    async with serving(found.respond) as there, serving(found.refuse) as pod:
        places = [there, pod, Endpoint("127.0.0.1", free_port())]
        folder = tmp_path_factory.mktemp("one")
        async with sidecar_of_foo(folder, MeshScope(), replicas=places, port=free_port()) as mesh:
            yield mesh, found, places


@pytest.mark.parametrize("owner", [0, 1, 2], ids=["there", "pod-without-proxy", "gone"])
@pytest.mark.parametrize("body", [b"", b"x" * 100_000], ids=["GET", "POST"])
async def test_a_request_that_has_reached_no_replica_is_sent_to_another(
    one_of_three: tuple[Mesh, OneOfThree, list[Endpoint]], owner: int, body: bytes
) -> None:
    mesh, found, places = one_of_three
    found.seen.clear()
    mesh.proxy.says("detour", service="foo", owner=f"{places[owner].host}:{places[owner].port}", ttl=0)
    for _ in range(REQUESTS):
        method = "POST" if body else "GET"
        async with mesh.client.request(method, mesh.url + "/", data=body, headers=CONTRACT) as response:
            assert (response.status, response.headers["x-devroute-result"]) == (200, "laptop")
            assert not UNSENT.keys() & response.headers.keys()
    assert found.seen == {("/", body): REQUESTS}, "each of them once"


@pytest.mark.parametrize("path", ["/fails", "/closes"])
async def test_a_request_that_has_reached_a_replica_is_sent_once(
    one_of_three: tuple[Mesh, OneOfThree, list[Endpoint]], path: str
) -> None:
    mesh, found, places = one_of_three
    found.seen.clear()
    mesh.proxy.says("detour", service="foo", owner=f"{places[0].host}:{places[0].port}", ttl=0)
    elsewhere = found.elsewhere
    async with mesh.client.get(mesh.url + path, headers=CONTRACT) as response:
        assert response.status == 503
    assert found.seen == {(path, b""): 1}
    assert found.elsewhere == elsewhere


async def test_a_question_that_one_replica_does_not_answer_is_put_to_another(tmp_path: Path) -> None:
    """One is gone, and one frozen: its system accepts connections still."""
    proxy, frozen = FakeProxy(), asyncio.Event()

    async def freeze(request: web.Request) -> web.Response:
        await frozen.wait()
        return web.Response(status=500)

    proxy.says("detour", service="foo", ttl=0)
    async with serving(proxy.resolve) as there, serving(freeze) as silent:
        controls = [silent, Endpoint("127.0.0.1", free_port()), there]
        async with sidecar_of_foo(tmp_path, MeshScope(), controls=controls, wait_ms=3000) as mesh:
            for _ in range(4):
                async with mesh.client.get(mesh.url, headers=CONTRACT) as response:
                    assert response.headers["x-devroute-result"] == "laptop"
        frozen.set()
    assert not {"x-envoy-retry-on", "x-envoy-max-retries"} & {key.lower() for key in proxy.asked[0].headers}
