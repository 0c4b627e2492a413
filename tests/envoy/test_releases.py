"""The manifests on the Envoys of each Istio release: all start with them and carry traffic, oldest and newest
whatever there is.

`make envoys` fetches the older ones; without it, their tests are skipped. `pytest tests/envoy --envoy PATH`
runs all other tests on one of them.
"""

import asyncio
import json
import os
import re
import sys
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import ClientSession, web

from devroute.contract.trace_id import ID_PREFIX
from devroute.headers import UNSENT
from devroute.mesh import envoy
from devroute.mesh.envoy import envoy_binary, running, validate, version_of
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.gateway import LISTENER, Gateway
from devroute.mesh.istio.gateway import bootstrap as gateway_bootstrap
from devroute.mesh.istio.rules import RELEASES, Release
from devroute.mesh.istio.sidecar import INBOUND, Sidecar, bootstrap
from devroute.mesh.manifests.access import own_sidecar
from devroute.mesh.manifests.folder import files
from devroute.mesh.manifests.gateway_filter import edge_filter
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import MeshScope, NamespaceScope, WorkloadScope
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from devroute.mesh.preflight.check import check
from tests.envoy import harness
from tests.envoy.harness import ENVIRONMENT, PROXY, FakeProxy, from_app, serving, sidecar_of_foo
from tests.envoy.real import at_its_port
from tests.envoy.teams import team
from tests.support.paths import ROOT
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.releases]


ENVOYS = Path(sys.prefix, "envoys")
MADE = re.search(r"^ENVOYS := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
VERSIONS = MADE[1].split() if MADE else []
CONTRACT = {"x-devroute": '{"foo": "192.0.2.1:8001"}'}
PARENT = f"00-{ID_PREFIX}{'0' * 23}1-{'0' * 15}1-01"


def binary_of(release: Release) -> Path:
    """The Envoy of a release, or the test is skipped."""
    if release == RELEASES[-1]:
        return envoy_binary()
    (version,) = (each for each in VERSIONS if each.startswith(f"{release.envoy}."))
    binary = ENVOYS / version / "envoy" / "_bin" / "envoy"
    if not os.access(binary, os.X_OK):
        pytest.skip(f"Envoy {version} is not there: make envoys")
    return binary


@pytest.fixture(params=RELEASES, ids=lambda release: f"istio-{release.istio}")
def release(request: pytest.FixtureRequest) -> Release:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=[RELEASES[0], RELEASES[-1]], ids=["oldest", "newest"])
def extreme(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every Envoy that the test starts is of this release."""
    binary = binary_of(request.param)
    monkeypatch.setattr(envoy, "envoy_binary", lambda: binary)


@pytest.fixture
def running_release(release: Release, monkeypatch: pytest.MonkeyPatch) -> Release:
    """Every Envoy that the test starts is of this release."""
    binary = binary_of(release)
    monkeypatch.setattr(envoy, "envoy_binary", lambda: binary)
    return release


def test_there_is_an_envoy_for_each_release() -> None:
    assert [version.rpartition(".")[0] for version in VERSIONS] == [each.envoy for each in RELEASES[:-1]]
    assert version_of(envoy_binary()).rpartition(".")[0] == RELEASES[-1].envoy


# --- all of them would start --------------------------------------------------------------------------------


def test_every_release_accepts_everything_in_the_folder(release: Release) -> None:
    binary = binary_of(release)
    assert version_of(binary).startswith(release.envoy)
    texts = [text for path, text in files(Installation()).items() if "ambient" not in path]
    scopes = [NamespaceScope("shop"), WorkloadScope("shop", "foo", shadow_share=12.5)]
    more = yaml.safe_dump_all([envoy_filter(scope) for scope in scopes])
    report = check("---\n".join([*texts, more]), "folder", _asking(release, binary), [release.istio])
    assert report.findings == []
    assert [each.outcome for each in report.results] == ["suits"]
    assert [each.split()[0] for each in report.looked_at].count("EnvoyFilter") == 5


def test_the_ambient_example_suits_where_there_are_extensions(release: Release) -> None:
    binary = binary_of(release)
    text = files(Installation())["examples/ambient.yaml"]
    report = check(text, "ambient", _asking(release, binary), [release.istio])
    since = [each.istio for each in RELEASES].index("1.30")
    assert report.good == (RELEASES.index(release) >= since)
    assert not any("Envoy reports" in each.problem for each in report.findings)


def test_what_envoy_refuses_is_reported_with_its_place(release: Release) -> None:
    document = envoy_filter(MeshScope())
    text = json.dumps(document).replace("function envoy_on_request(", "function envoy_on_request((")
    report = check(text, "own", _asking(release, binary_of(release)), [release.istio])
    # The patches of two filters that bring Lua, with the place of each.
    places = {finding.place for finding in report.findings}
    assert len(places) == len(report.findings) == 2
    assert all("configPatches[" in each for each in places)
    assert all("expected near '('" in finding.problem for finding in report.findings)


def _asking(release: Release, binary: Path) -> dict[str, Any]:
    return {release.envoy: (version_of(binary), partial(validate, binary=binary))}


# --- all of them carry traffic ------------------------------------------------------------------------------


@pytest.mark.usefixtures("running_release")
async def test_a_sidecar_detours_and_falls_back_and_leaves_other_requests_alone(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, MeshScope()) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=1000)
        body = os.urandom(1 << 20)
        async with mesh.client.post(f"{mesh.url}/stream", headers=CONTRACT, data=body) as response:
            assert await response.read() == body
            assert response.headers["x-devroute-result"] == "laptop"
        mesh.proxy.says("fallback", reason="laptop alice is offline", ttl=1000)
        other = {"x-devroute": '{"foo": "alice"}'}
        async with mesh.client.post(mesh.url, headers=other, data=body) as response:
            assert (await response.json())["size"] == len(body)
            verdict = [response.headers[f"x-devroute-{each}"] for each in ("result", "reason")]
            assert verdict == ["fallback", "laptop alice is offline"]
        async with mesh.client.get(mesh.url) as response:
            assert (await response.json())["who"] == "app"
            assert not [key for key in response.headers if key.lower().startswith("x-devroute")]
    assert "[error]" not in mesh.envoy.log.read_text(), "the Lua failed"  # a small file


async def test_the_first_filter_is_envoy_s_own_where_envoy_has_it(
    running_release: Release, tmp_path: Path
) -> None:
    """The proxy is not asked about what policy refuses: the first filter leaves devroute's route."""
    policies = {"all": {"permissions": [{"any": True}], "principals": [{"any": True}]}}
    kind = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC"
    rules = {"rules": {"action": "DENY", "policies": policies}}
    refusing = team("rbac", {"@type": kind}, {"@type": f"{kind}PerRoute", "rbac": rules})
    async with sidecar_of_foo(tmp_path, MeshScope(), teams=[refusing]) as mesh:
        mesh.proxy.says("detour", service="foo", ttl=1000)
        statuses = []
        for headers in ({}, CONTRACT, {"x-devroute": "{}"}, {"traceparent": PARENT}):
            async with mesh.client.get(mesh.url, headers=headers) as response:
                statuses.append(response.status)
        assert (statuses, mesh.proxy.asked) == ([403] * 4, [])
        own = running_release in RELEASES[2:]
        assert await mesh.envoy.lua("executions") == (0 if own else 3) or not harness.lua_is_counted()


# --- oldest and newest carry whatever there is --------------------------------------------------------------


@pytest.mark.usefixtures("extreme")
async def test_ordinary_requests_are_copied_where_a_workload_has_a_share(tmp_path: Path) -> None:
    answer = f"devroute 1\ndecision copy\nttl 1000\nservice foo\ncopy {'a' * 32} 100 GET\n"
    copied = asyncio.Event()

    async def control(request: web.Request) -> web.Response:
        return web.Response(text=answer)

    async def laptop(request: web.Request) -> web.Response:
        assert request.headers["x-devroute-copy"] == "a" * 32
        copied.set()
        return web.Response(status=500)

    async with serving(from_app) as app, serving(control) as asked, serving(laptop) as data:
        clusters = {PROXY.control_cluster: asked, PROXY.data_cluster: data}
        described = Sidecar("foo", app, labels={"app": "foo"}, port=free_port(), clusters=clusters)
        filters = map(envoy_filter, (MeshScope(), WorkloadScope("default", "foo", shadow_share=100)))
        configuration = apply(filters, described, bootstrap(described), harness.release())
        configuration = at_its_port(described, configuration)
        async with running(configuration, tmp_path, "foo", ENVIRONMENT) as started, ClientSession() as client:
            async with client.get("http://{}:{}/".format(*started.listeners[INBOUND])) as response:
                assert (response.status, (await response.json())["who"]) == (200, "app")
            async with asyncio.timeout(20):
                await copied.wait()


@pytest.mark.usefixtures("extreme")
@pytest.mark.parametrize("with_own", [True, False])
async def test_the_proxys_own_sidecar_requests_no_decision(tmp_path: Path, with_own: bool) -> None:
    proxy, installation = FakeProxy(), Installation()
    proxy.says("service", ttl=0)
    async with serving(from_app) as app, serving(proxy.resolve) as control, ClientSession() as client:
        description = Sidecar(
            PROXY.name,
            app,
            namespace=PROXY.namespace,
            labels=installation.selector,
            port=PROXY.control_port,
            clusters={PROXY.control_cluster: control},
        )
        filters = [envoy_filter(MeshScope()), *([own_sidecar(installation)] if with_own else [])]
        configuration = apply(filters, description, bootstrap(description), harness.release())
        environment = {**ENVIRONMENT, "ISTIO_META_WORKLOAD_NAME": PROXY.name}
        async with running(configuration, tmp_path, "own", environment) as started:
            url = "http://{}:{}/resolve".format(*started.listeners[INBOUND])
            contract = {"x-devroute": f'{{"{PROXY.name}": "alice"}}'}
            async with client.get(url, headers=contract) as response:
                assert (await response.json())["who"] == "app"
                assert ("x-devroute-result" in response.headers) == (not with_own)
    assert len(proxy.asked) == (0 if with_own else 1), "without its own routes, it would ask itself"


@pytest.mark.usefixtures("extreme")
async def test_the_proxys_own_sidecar_says_that_a_request_has_not_reached_the_proxy(tmp_path: Path) -> None:
    """And no laptop can say so."""

    async def respond(request: web.Request) -> web.Response:
        return web.Response(text="a laptop's", headers={UNSENT: "its own word"})

    installation = Installation()
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(AsyncExitStack())
        app = await proxy.enter_async_context(serving(respond))
        labels = installation.selector
        own = Sidecar(PROXY.name, app, namespace=PROXY.namespace, labels=labels, port=PROXY.data_port)
        configuration = apply([own_sidecar(installation)], own, bootstrap(own))
        envoy = await stack.enter_async_context(running(configuration, tmp_path, "own", ENVIRONMENT))
        client = await stack.enter_async_context(ClientSession())
        url = "http://{}:{}/".format(*envoy.listeners[INBOUND])
        async with client.get(url) as response:
            assert (response.status, UNSENT in response.headers) == (200, False)
        await proxy.aclose()
        async with client.get(url) as response:
            assert (response.status, "refused" in response.headers[UNSENT]) == (503, True)


@pytest.mark.usefixtures("extreme")
async def test_the_edge_removes_what_comes_from_outside(tmp_path: Path) -> None:
    async with serving(from_app) as app, ClientSession() as client:
        description = Gateway({"shop.example": app})
        configuration = apply([edge_filter()], description, gateway_bootstrap(description))
        async with running(configuration, tmp_path, "gateway", {}) as started:
            url = "http://{}:{}/".format(*started.listeners[LISTENER])
            sent = {**CONTRACT, "host": "shop.example", "x-devroute-matched": "foo", "x-own": "kept"}
            async with client.get(url, headers=sent) as response:
                seen = {key.lower() for key, _ in (await response.json())["headers"]}
    assert "x-own" in seen
    assert not [key for key in seen if key.startswith("x-devroute")]
