"""`--shadow-share`: requests without a contract, of people who know nothing of devroute, are copied to laptops.
Through real Envoy and the real proxy."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from devroute import stage
from devroute.auth import new_token
from devroute.manifests import MeshScope, NamespaceScope, WorkloadScope
from devroute.sidecar import Endpoint

from .harness import PROXY, serving, sidecar_of_foo
from .real import Mesh, free_port, real_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

PATIENCE_S = 10.0
EXECUTIONS = "http.inbound_0.0.0.0_{port}.lua.executions"


def sharing(service: str, share: float) -> WorkloadScope:
    return WorkloadScope("default", service, shadow_share=share)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.02)


@dataclass
class Town:
    """Services that take part with different shares, and laptops that want copies of them."""

    mesh: Mesh
    urls: dict[str, str] = field(default_factory=dict)
    ups: dict[str, stage.Command] = field(default_factory=dict)
    copies: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    async def get(
        self, service: str, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.urls[service] + path
        async with self.mesh.client.request(method, url, headers=sent) as response:
            return response.status, await response.json(), dict(response.headers)

    async def verdict(self, person: str, path: str) -> dict[str, Any]:
        async with asyncio.timeout(PATIENCE_S):
            while True:
                for event in self.ups[person].events():
                    if event.get("event") == "shadow" and event["path"] == path:
                        return event
                await asyncio.sleep(0.02)

    def copied(self, path: str) -> list[tuple[str, str, dict[str, str]]]:
        return [each for each in self.copies if each[1].partition("?")[0] == path]

    async def executions(self, service: str) -> int:
        port = self.urls[service].rpartition(":")[2]
        return await self.mesh.envoys[service].counter(EXECUTIONS.format(port=port))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("share")
    laptops = {
        "alice": (("foo", "idle"), ["--shadow", "100%", "--ignore", "$.at"]),
        "bob": (("posts",), ["--shadow", "100%", "--shadow-methods", "GET,POST"]),
        "carol": (("some",), ["--shadow", "30%"]),
    }
    tokens = {name: new_token(name, created="2026-01-01") for name in laptops}
    policy = resources.files("devroute.demo_files").joinpath("policy.yaml").read_text(encoding="utf-8")
    policy += "\nshadow: [foo, posts, some, idle]\n"
    async with real_mesh(folder, *(record for _, record in tokens.values()), policy=policy) as mesh:
        found = Town(mesh)

        async def service(request: web.Request) -> web.Response:
            found.seen.append((request.path, dict(request.headers)))
            return web.json_response({"who": "service", "at": time.time()})

        async def laptop(request: web.Request) -> web.Response:
            found.copies.append((request.method, request.path_qs, dict(request.headers)))
            if request.path == "/hung":
                await asyncio.sleep(60)
            who = "laptop" if request.path == "/differs" else "service"
            return web.json_response({"who": who, "at": time.time()})

        app = await mesh.stack.enter_async_context(serving(laptop))
        real = await mesh.stack.enter_async_context(serving(service))
        shares = {"foo": [sharing("foo", 100)], "posts": [MeshScope(), sharing("posts", 100)]}
        shares |= {"some": [NamespaceScope("default"), sharing("some", 50)], "idle": [sharing("idle", 0)]}
        for name, scopes in shares.items():
            found.urls[name] = await mesh.sidecar(name, real, scopes=scopes)
        for name, (services, flags) in laptops.items():
            arguments = (*(f"{each}={app.port}" for each in services), "--output", "json", *flags)
            up = stage.laptop(folder, name, mesh.proxy.server, tokens[name][0], *arguments)
            found.ups[name] = await mesh.stack.enter_async_context(up)
        yield found


async def test_ordinary_requests_are_answered_by_the_service_and_compared(town: Town) -> None:
    status, body, headers = await town.get("foo", "/same")
    assert (status, body["who"]) == (200, "service")
    assert not any(name.startswith("x-devroute") for name in headers)
    assert (await town.verdict("alice", "/same"))["differences"] == []
    await town.get("foo", "/differs")
    (difference,) = (await town.verdict("alice", "/differs"))["differences"]
    assert difference == {"where": "body $.who", "left": '"service"', "right": '"laptop"'}
