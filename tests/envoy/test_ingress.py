"""The tunnel passes an ordinary WebSocket ingress: an Envoy configured for WebSocket only, and nginx."""

import asyncio
import json
import shutil
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import running, stop
from devroute.mesh.istio.sidecar import ANY_PORT, HCM, HCM_TYPE, Document, Endpoint
from tests.envoy import app as laptop_app
from tests.envoy.test_main_job import app_process
from tests.support.eventually import eventually
from tests.support.ports import free_port

pytestmark = pytest.mark.mesh

BULK = 64 * laptop_app.PIECE

NGINX = """\
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/nginx.log;
events {{}}
http {{
  access_log off;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen unix:{folder}/unused;
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://{upstream};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $http_connection;
    }}
  }}
}}
"""


def ingress(upstream: Endpoint) -> Document:
    """Without Istio's and devroute's filters."""
    address = {"socket_address": {"address": upstream.host, "port_value": upstream.port}}
    any_port = {"socket_address": {"address": ANY_PORT.host, "port_value": ANY_PORT.port}}
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager = {
        "@type": HCM_TYPE,
        "stat_prefix": "ingress",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "control"}}],
                }
            ]
        },
    }
    filters = [{"name": HCM, "typed_config": manager}]
    endpoint = {"endpoint": {"address": address}}
    return {
        "admin": {"address": any_port},
        "static_resources": {
            "listeners": [{"name": "in", "address": any_port, "filter_chains": [{"filters": filters}]}],
            "clusters": [
                {
                    "name": "control",
                    "load_assignment": {
                        "cluster_name": "control",
                        "endpoints": [{"lb_endpoints": [endpoint]}],
                    },
                }
            ],
        },
    }


@asynccontextmanager
async def through_envoy(folder: Path, control: Endpoint) -> AsyncIterator[Endpoint]:
    async with running(ingress(control), folder, "ingress", {}) as envoy:
        yield envoy.listeners["in"]


@asynccontextmanager
async def through_nginx(folder: Path, control: Endpoint) -> AsyncIterator[Endpoint]:
    binary = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin")
    if binary is None:
        pytest.skip("nginx is not installed (apt-get install nginx-light)")
    port = free_port()
    configuration = folder / "nginx.conf"
    upstream = f"{control.host}:{control.port}"
    configuration.write_text(NGINX.format(folder=folder, port=port, upstream=upstream))
    process = await asyncio.create_subprocess_exec(binary, "-c", configuration, "-p", folder)
    try:

        async def accepts() -> bool:
            assert process.returncode is None, (folder / "nginx.log").read_text()
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionRefusedError:
                return False
            writer.close()
            return True

        await eventually(accepts, "nginx listens")
        yield Endpoint("127.0.0.1", port)
    finally:
        await stop(process)


@pytest.mark.parametrize("way", [through_envoy, through_nginx])
async def test_the_tunnel_passes_an_ordinary_ingress(tmp_path: Path, way: object) -> None:
    assert callable(way)
    secret, record = new_token("alice")
    async with (
        testbed.proxy(tmp_path, [record]) as proxy,
        way(tmp_path, proxy.control) as ingress,
        app_process("alice") as (_, app),
        testbed.laptop(
            tmp_path, "alice", f"http://{ingress.host}:{ingress.port}", secret, f"foo={app.host}:{app.port}"
        ),
        aiohttp.ClientSession(f"http://{proxy.data.host}:{proxy.data.port}") as client,
    ):
        headers = {"x-devroute": json.dumps({"foo": "alice"}), "x-devroute-matched": "foo"}
        body = b"".join(laptop_app.pieces(BULK))
        async with client.post("/upload", headers=headers, data=body) as response:
            assert (await response.json())["check"] == zlib.crc32(body)
        async with client.get(f"/download?size={BULK}", headers=headers) as response:
            assert await response.read() == body
        async with asyncio.TaskGroup() as group:
            for number in range(50):
                group.create_task(answered(client, headers, number))


async def answered(client: aiohttp.ClientSession, headers: dict[str, str], number: int) -> None:
    async with client.get(f"/?id={number}", headers=headers) as response:
        assert (await response.json())["id"] == str(number)
