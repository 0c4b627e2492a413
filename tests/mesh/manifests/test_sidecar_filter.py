"""The manifests that people apply, and the way they are applied here."""

import re
import tomllib

import pytest
import yaml

from devroute.errors import ConfigInvalid
from devroute.http.carriers import DEFAULT
from devroute.mesh.istio.envoy_filter import apply, selects
from devroute.mesh.istio.patches import merge
from devroute.mesh.istio.rules import RELEASES, Release
from devroute.mesh.istio.sidecar import Endpoint, Sidecar, bootstrap
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import (
    Document,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
)
from devroute.mesh.manifests.render import to_yaml
from devroute.mesh.manifests.sidecar_filter import CHOOSES_AGAIN_SINCE, envoy_filter
from tests.support.paths import ROOT

APP = Endpoint("127.0.0.1", 9000)


def values(document: Document, apply_to: str) -> dict[str, Document]:
    """What the document's patches of a kind insert, by name."""
    patches = [each for each in document["spec"]["configPatches"] if each["applyTo"] == apply_to]
    return {each["patch"]["value"]["name"]: each["patch"]["value"] for each in patches}


def settings_of(document: Document) -> str:
    """The settings in the Lua that decides."""
    (code,) = values(document, "EXTENSION_CONFIG").values()
    source: str = code["typed_config"]["default_source_code"]["inline_string"]
    return next(line for line in source.split("\n") if line.startswith("local SETTINGS = "))


FIRST = (".front", ".undecided", ".again")
CLUSTERS = {
    "control": "outbound|8081||devroute-proxy.devroute.svc.cluster.local",
    "data": "outbound|8080||devroute-proxy.devroute.svc.cluster.local",
    "domain": "cluster.local",
    "proxy": "devroute/devroute-proxy",
    "carriers": ("baggage", "tracestate"),
    "parent": "00",
}


def test_every_package_is_listed_for_installation() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {
        ".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "devroute").rglob("__init__.py")
    }
    elsewhere = {"devroute.lua", "devroute.demo_files"}
    assert set(project["tool"]["setuptools"]["packages"]) == packages | elsewhere


def test_the_filter_is_shipped_byte_for_byte() -> None:
    shipped = yaml.safe_load(to_yaml(envoy_filter(MeshScope())))
    config = values(shipped, "EXTENSION_CONFIG")["devroute"]["typed_config"]
    assert config["default_source_code"]["inline_string"] == lua.source("decide", SETTINGS=CLUSTERS)
    sources = {name: code["inline_string"] for name, code in config["source_codes"].items()}
    assert sources == {"compare": lua.source("compare", SETTINGS={"control": CLUSTERS["control"]})}
    front = values(shipped, "HTTP_FILTER")["devroute.front"]["typed_config"]
    assert front["default_source_code"]["inline_string"] == lua.source("front")
    assert "source_codes" not in front


@pytest.mark.parametrize("scope", [MeshScope(), NamespaceScope("shop"), WorkloadScope("shop", "foo")])
def test_the_yaml_equals_the_model(scope: Scope) -> None:
    assert yaml.safe_load(to_yaml(envoy_filter(scope))) == envoy_filter(scope)


def test_a_mesh_wide_filter_selects_every_sidecar_and_gives_no_name() -> None:
    document = envoy_filter(MeshScope())
    assert document["metadata"]["namespace"] == "istio-system"
    assert "workloadSelector" not in document["spec"]
    assert "service" not in settings_of(document)
    assert "namespace" not in settings_of(document)
    assert selects(document, Sidecar("foo", APP, namespace="anywhere"))


def test_a_namespace_filter_selects_its_namespace_only() -> None:
    document = envoy_filter(NamespaceScope("shop"))
    assert selects(document, Sidecar("foo", APP, namespace="shop"))
    assert not selects(document, Sidecar("foo", APP, namespace="default"))


def test_a_workload_filter_gives_the_name_and_selects_by_labels() -> None:
    document = envoy_filter(WorkloadScope("shop", "foo", {"tier": "front"}))
    assert 'namespace = "shop", service = "foo"' in settings_of(document)
    assert selects(document, Sidecar("foo", APP, namespace="shop", labels={"tier": "front", "app": "foo"}))
    assert not selects(document, Sidecar("foo", APP, namespace="shop", labels={"tier": "back"}))


def test_the_proxys_name_namespace_and_ports_can_be_chosen() -> None:
    document = envoy_filter(MeshScope("mesh"), ProxyService("proxy", "tools", 80, 81, "corp.example"))
    assert settings_of(document) == (
        'local SETTINGS = { control = "outbound|81||proxy.tools.svc.corp.example", '
        'data = "outbound|80||proxy.tools.svc.corp.example", domain = "corp.example", proxy = "tools/proxy", '
        'carriers = { "baggage", "tracestate" }, parent = "00" }'
    )


def test_patches_reach_the_inbound_side_only() -> None:
    sidecar = Sidecar("foo", APP, services={"bar": Endpoint("127.0.0.1", 9001)})
    before = bootstrap(sidecar)
    after = apply([envoy_filter(MeshScope())], sidecar, before)
    inbound, outbound = after["static_resources"]["listeners"]
    assert outbound == before["static_resources"]["listeners"][1]
    manager = inbound["filter_chains"][0]["filters"][0]["typed_config"]
    filters = [(each["name"], each.get("disabled")) for each in manager["http_filters"]]
    assert filters[:2] == [("devroute.undecided", True), ("devroute.again", True)]
    assert filters[-4:] == [
        ("devroute.result", True),
        ("devroute.services", True),
        ("devroute", True),
        ("envoy.filters.http.router", None),
    ]
    (host,) = manager["route_config"]["virtual_hosts"]
    assert [route["name"] for route in host["routes"]] == [
        "devroute-detour",
        "devroute-decided",
        "devroute-ask-trace",
        "devroute-ask",
        *(f"devroute-ask-{carrier}" for carrier in reversed(DEFAULT)),
        "default",
    ]
    assert before == bootstrap(sidecar), "the given configuration is left alone"


def test_of_two_filters_the_workloads_own_comes_first() -> None:
    sidecar = Sidecar("foo", APP, namespace="shop", labels={"app": "foo"})
    filters = [envoy_filter(WorkloadScope("shop", "foo")), envoy_filter(MeshScope())]
    after = apply(filters, sidecar, bootstrap(sidecar))
    manager = after["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    asks = [r for r in manager["route_config"]["virtual_hosts"][0]["routes"] if r["name"] == "devroute-ask"]
    assert [[*each["typed_per_filter_config"]] for each in asks] == [
        [f"devroute.shop.foo{part}" for part in (*FIRST, ".services", "", ".result")],
        [f"devroute{part}" for part in (*FIRST, ".services", "", ".result")],
    ]


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.istio)
@pytest.mark.parametrize("scope", [MeshScope(), WorkloadScope("default", "foo", shadow_share=1.0)])
def test_the_first_filter_is_the_one_that_the_release_has(scope: Scope, release: Release) -> None:
    """And each has a route that turns on all of it."""
    sidecar = Sidecar("foo", APP, labels={"app": "foo"})
    after = apply([envoy_filter(scope)], sidecar, bootstrap(sidecar), release)
    manager = after["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    names = [each["name"].rpartition(".")[2] for each in manager["http_filters"] if each.get("disabled")]
    own = tuple(map(int, release.envoy.split("."))) >= (1, 38)
    assert names[: -3 if scope == MeshScope() else -4] == (["undecided", "again"] if own else ["front"])
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        if "direct_response" in route:
            turned_on = {name.rpartition(".")[2] for name in route["typed_per_filter_config"]}
            assert turned_on >= {"undecided", "again", "front"}, route["name"]


@pytest.mark.parametrize(
    "version", ["", "unknown", "1.29.9", "1.3.0", "2.0.0", "1.30", "1.31.0-dev", "1.40.2-x"]
)
def test_whatever_does_not_say_that_it_has_envoy_s_own_gets_the_lua(version: str) -> None:
    """Others would refuse what they do not know, and the sidecar would keep the listener that it has."""
    assert (re.search(CHOOSES_AGAIN_SINCE, version) is not None) is version.startswith(
        ("1.30", "1.31", "1.40")
    )


@pytest.mark.parametrize(
    ("patch", "said"),
    [
        ({"applyTo": "BOOTSTRAP", "patch": {"operation": "MERGE"}}, "BOOTSTRAP MERGE is not supported"),
        (
            {"applyTo": "HTTP_ROUTE", "patch": {"operation": "INSERT_FIRST", "value": {}}},
            "match.context has to be one of SIDECAR_INBOUND, SIDECAR_OUTBOUND",
        ),
        (
            {
                "applyTo": "HTTP_ROUTE",
                "match": {"context": "SIDECAR_INBOUND", "proxy": {"metadata": {"a": "b"}}},
                "patch": {"operation": "INSERT_FIRST", "value": {}},
            },
            "a match by proxy is not supported",
        ),
        (
            {
                "applyTo": "HTTP_FILTER",
                "match": {
                    "context": "SIDECAR_INBOUND",
                    "listener": {"filterChain": {"filter": {"name": "envoy.filters.network.tcp_proxy"}}},
                },
                "patch": {"operation": "INSERT_BEFORE", "value": {}},
            },
            "the only network filter that is supported is envoy",
        ),
    ],
)
def test_a_patch_that_cannot_be_applied_is_an_error_that_names_it(patch: Document, said: str) -> None:
    document = {"metadata": {"name": "own", "namespace": "default"}, "spec": {"configPatches": [patch]}}
    sidecar = Sidecar("foo", APP)
    with pytest.raises(ConfigInvalid, match=r"EnvoyFilter own: configPatches\[0\]: .*" + said):
        apply([document], sidecar, bootstrap(sidecar))


def test_merge_is_that_of_protobuf() -> None:
    into = {"a": {"b": 1, "c": [1]}, "d": 2}
    merge(into, {"a": {"b": 3, "c": [2]}, "e": {"f": 4}})
    assert into == {"a": {"b": 3, "c": [1, 2]}, "d": 2, "e": {"f": 4}}
