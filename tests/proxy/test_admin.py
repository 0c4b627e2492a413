"""The admin port's paths, by its own server."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from devroute.proxy.admin import admin_routes
from devroute.proxy.ports.connection import Port


class Admin:
    def __init__(self) -> None:
        self.details: dict[str, object] = {"ready": True, "problem": None}
        self.accepted: list[str] = []
        self.url = ""

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        self.accepted.append(accept)
        await asyncio.sleep(0)
        return b"up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def get(self, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, headers=headers) as response,
        ):
            fields = {name.lower(): value for name, value in response.headers.items()}
            return response.status, await response.text(), fields


@pytest.fixture
async def admin() -> AsyncIterator[Admin]:
    made = Admin()
    port = Port(admin_routes(made.metrics, lambda: made.details))
    server = await asyncio.get_running_loop().create_server(port.accept, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield made
    server.close()
    await port.close()


async def test_it_is_alive_whether_or_not_it_is_ready(admin: Admin) -> None:
    for ready, status in ((True, 200), (False, 503)):
        admin.details["ready"] = ready
        assert (await admin.get("/healthz"))[:2] == (200, '{"alive": true}')
        found, text, fields = await admin.get("/readyz")
        assert (found, json.loads(text)) == (status, admin.details)
        assert fields["content-type"] == "application/json; charset=utf-8"


async def test_metrics_have_the_format_that_is_asked_for(admin: Admin) -> None:
    status, text, fields = await admin.get("/metrics", accept="application/openmetrics-text, */*")
    assert (status, text, fields["content-type"]) == (
        200,
        "up 1\n",
        "text/plain; version=0.0.4; charset=utf-8",
    )
    assert admin.accepted == ["application/openmetrics-text, */*"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/healthz", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 404),
        ("GET", "/healthz/", 404),
        ("GET", "/resolve", 404),
        ("POST", "/healthz", 405),
    ],
)
async def test_other_paths_and_methods_are_errors_in_json(
    method: str, path: str, status: int, admin: Admin
) -> None:
    found, text, fields = await admin.get(path, method)
    assert (found, fields["content-type"].partition(";")[0]) == (
        status,
        "text/plain" if path == "/metrics" else "application/json",
    )
    if status != 200:
        assert json.loads(text)["hint"] == ("this is devroute's admin port" if status == 404 else "")
