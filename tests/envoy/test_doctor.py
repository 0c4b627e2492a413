"""`devroute doctor URL`: the round trip through a real sidecar with the shipped filter."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from devroute.auth.tokens import new_token
from tests.envoy.harness import serving
from tests.envoy.real import real_mesh
from tests.support.shell import devroute, listening

pytestmark = pytest.mark.mesh

SECRET, RECORD = new_token("alice")


async def from_app(_: web.Request) -> web.Response:
    return web.Response(text="the mesh's own foo")


async def test_the_round_trip_passes_the_mesh_or_reports_where_it_ended(tmp_path: Path) -> None:
    async with real_mesh(tmp_path, RECORD) as mesh, serving(from_app) as app, listening() as port:
        url = await mesh.sidecar("foo", app)
        plain = f"http://{app.host}:{app.port}/"  # requests there pass no sidecar
        known = {"DEVROUTE_SERVER": mesh.proxy.server, "DEVROUTE_TOKEN": SECRET}

        async def examined(url: str, service: str) -> tuple[int, dict[str, Any]]:
            line = ("doctor", "--output", "json", url, "--service", f"{service}=127.0.0.1:{port}")
            code, out, _ = await devroute(tmp_path, *line, **known)
            return code, {found["check"]: found for found in map(json.loads, out.splitlines())}

        (code, found), (around_code, around), (other_code, other) = await asyncio.gather(
            examined(url, "foo"), examined(plain, "foo"), examined(url, "bar")
        )
    assert (code, found["mesh"]["result"]) == (0, "ok"), found
    assert "a request for foo reached this laptop and returned" in found["mesh"]["text"]

    assert (around_code, around["mesh"]["result"]) == (1, "fail")
    assert "no sidecar has seen the contract" in around["mesh"]["text"]
    assert "devroute trace" in around["mesh"]["remedy"]

    assert (other_code, other["mesh"]["result"]) == (1, "fail")
    assert "did not reach this laptop (service" in other["mesh"]["text"]
