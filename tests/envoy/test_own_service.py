"""Which service a sidecar stands for: its own cluster's, whatever name a caller dials by SNI."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from tests.envoy.certificates import MeshCa
from tests.envoy.harness import serving
from tests.envoy.real import real_mesh

pytestmark = pytest.mark.mesh

FOO, WEB = "spiffe://cluster.local/ns/default/sa/foo", "spiffe://cluster.local/ns/default/sa/web"


def answering(who: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"who": who})

    return answer


DIALLED = "outbound_.8080_._.{}.svc.cluster.local"
#: Services that the sidecar of foo is none of.
OTHERS = ("bar.default", "foo.other")


async def test_no_caller_has_a_sidecar_act_for_another_service(tmp_path: Path) -> None:
    ca = MeshCa(tmp_path)
    async with (
        real_mesh(tmp_path) as mesh,
        serving(answering("foo")) as foo,
        serving(answering("v2 of another")) as other,
        serving(answering("v2")) as version,
        serving(answering("laptop")) as laptop,
    ):
        clusters = {f"outbound|8080|v2|{name}.svc.cluster.local": other for name in OTHERS}
        clusters |= {"outbound|8080|v2|foo.default.svc.cluster.local": version}
        url = await mesh.sidecar("foo", foo, clusters=clusters, tls=ca.for_sidecar(FOO))

        async def get(dialled: str, target: str) -> tuple[str, str | None]:
            name = dialled.partition(".")[0]
            async with (
                aiohttp.ClientSession() as client,  # a new connection, which has the SNI
                client.get(
                    url.replace("http:", "https:"),
                    ssl=ca.for_caller(WEB),
                    server_hostname=DIALLED.format(dialled),
                    headers={"x-devroute": json.dumps({name: target, f"{dialled}": target})},
                ) as response,
            ):
                return (await response.json())["who"], response.headers.get("x-devroute-reason")

        address = f"{laptop.host}:{laptop.port}"
        assert (await get("foo.default", "version:v2"))[0] == "v2"
        assert (await get("foo.default", address))[0] == "laptop"
        for target in ("version:v2", address):
            who, reason = await get("bar.default", target)
            assert (who, "none of this sidecar's own services" in (reason or "")) == ("foo", True)
        who, reason = await get("foo.other", "version:v2")
        assert (who, reason) == ("foo", "version-missing: the sidecar knows no version 'v2' of service 'foo'")
