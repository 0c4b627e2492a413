"""A new version of the filter's code cuts no connection: Envoy discovers it apart from the listener."""

import json
import os
from pathlib import Path

import pytest

from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import Document, MeshScope, Scope, WorkloadScope
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from tests.envoy.harness import Mesh, sidecar_of_foo
from tests.support.eventually import PATIENCE_S, eventually

pytestmark = pytest.mark.mesh


def version(name: str) -> str:
    """A filter that states its version in the response's reason."""
    return f"""
function envoy_on_request(handle)
  local metadata = handle:streamInfo():dynamicMetadata()
  metadata:set("devroute", "result", "service")
  metadata:set("devroute", "reason", "{name}")
end
"""


async def reason(mesh: Mesh) -> str | None:
    async with mesh.client.get(mesh.url, headers={"x-devroute": "{}"}) as response:
        return response.headers.get("x-devroute-reason")


async def test_a_new_version_takes_effect_while_connections_stay_open(tmp_path: Path) -> None:
    async with (
        sidecar_of_foo(tmp_path, MeshScope(), code=version("old")) as mesh,
        mesh.client.ws_connect(mesh.url + "/socket") as plain,
        mesh.client.ws_connect(mesh.url + "/socket", headers={"x-devroute": "{}"}) as with_contract,
    ):
        assert await reason(mesh) == "old"
        file = tmp_path / "foo.discovered" / "extension-devroute.json"
        new = file.read_text().replace(json.dumps(version("old")), json.dumps(version("new")))
        (file.parent / "new").write_text(new)
        os.replace(file.parent / "new", file)

        async def is_new() -> bool:
            return await reason(mesh) == "new"

        await eventually(is_new)
        for socket in (plain, with_contract):
            await socket.send_str("still here")
            assert await socket.receive_str(timeout=PATIENCE_S) == "app received still here"
        assert await mesh.envoy.counter("listener_manager.listener_modified") == 0
        assert await mesh.envoy.counter("listener_manager.total_listeners_draining") == 0


@pytest.mark.parametrize("scope", [MeshScope(), WorkloadScope("shop", "foo", shadow_share=25.0)])
def test_a_new_version_changes_no_listener_and_no_route(
    scope: Scope, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rest() -> list[Document]:
        patches: list[Document] = envoy_filter(scope)["spec"]["configPatches"]
        return [each for each in patches if each["applyTo"] != "EXTENSION_CONFIG"]

    before, source = rest(), lua.source

    def changed(entry: str, **constants: lua.Constant) -> str:
        text = source(entry, **constants)
        return text if entry == "front" else text + "-- a new version\n"

    monkeypatch.setattr(lua, "source", changed)
    assert rest() == before
