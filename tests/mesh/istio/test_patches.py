"""Each kind of patch, on an Istio-shaped sidecar."""

from typing import Any

import pytest

from devroute.errors import ConfigInvalid
from devroute.mesh.istio import extension_configs
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.patches import supported
from devroute.mesh.istio.rules import APPLY_TO, OPERATIONS, RELEASES
from devroute.mesh.istio.rules import patch as rules_of_a_patch
from devroute.mesh.istio.sidecar import HCM, Document, Endpoint, Sidecar, bootstrap

NOWHERE = Endpoint("127.0.0.1", 1)
SIDECAR = Sidecar("foo", NOWHERE, services={"bar": NOWHERE})
NEW = {"name": "new"}


def patched(apply_to: str, operation: str, value: Any = None, **match: Any) -> Document:
    patch = {
        "applyTo": apply_to,
        "match": {"context": "SIDECAR_INBOUND", **match},
        "patch": {"operation": operation, "value": value},
    }
    document = {"metadata": {"name": "own", "namespace": "default"}, "spec": {"configPatches": [patch]}}
    return apply([document], SIDECAR, bootstrap(SIDECAR))


def manager(configuration: Document) -> Any:
    return configuration["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def before(name: str, **listener: object) -> dict[str, Any]:
    return {**listener, "filterChain": {"filter": {"name": HCM, "subFilter": {"name": name}}}}


def filters(configuration: Document) -> list[str]:
    return [
        each["name"].removeprefix("envoy.filters.http.") for each in manager(configuration)["http_filters"]
    ]


def routes(configuration: Document) -> list[str]:
    return [each.get("name") for each in manager(configuration)["route_config"]["virtual_hosts"][0]["routes"]]


CORS = "envoy.filters.http.cors"
ALL = ["grpc_stats", "fault", "cors", "router"]


@pytest.mark.parametrize(
    ("operation", "anchor", "expected"),
    [
        ("INSERT_BEFORE", CORS, ["grpc_stats", "fault", "new", "cors", "router"]),
        ("INSERT_AFTER", CORS, ["grpc_stats", "fault", "cors", "new", "router"]),
        ("INSERT_FIRST", CORS, ["new", *ALL]),
        ("ADD", CORS, [*ALL, "new"]),
        ("REPLACE", CORS, ["grpc_stats", "fault", "new", "router"]),
        ("REMOVE", CORS, ["grpc_stats", "fault", "router"]),
        ("INSERT_BEFORE", "nobody", ALL),
        ("INSERT_AFTER", "nobody", ALL),
        ("REMOVE", "nobody", ALL),
    ],
)
def test_http_filters(operation: str, anchor: str, expected: list[str]) -> None:
    assert filters(patched("HTTP_FILTER", operation, NEW, listener=before(anchor))) == expected


@pytest.mark.parametrize(
    ("operation", "expected"),
    [("INSERT_BEFORE", ["new", *ALL]), ("INSERT_AFTER", [*ALL, "new"]), ("REMOVE", ALL), ("REPLACE", ALL)],
)
def test_http_filters_without_a_name_in_the_match(operation: str, expected: list[str]) -> None:
    assert filters(patched("HTTP_FILTER", operation, NEW)) == expected


def test_a_filters_settings_are_merged() -> None:
    value = {"name": CORS, "typed_config": {"extra": 1}}
    _, _, cors, _ = manager(patched("HTTP_FILTER", "MERGE", value, listener=before(CORS)))["http_filters"]
    assert (cors["typed_config"]["extra"], "@type" in cors["typed_config"]) == (1, True)


@pytest.mark.parametrize(("port", "found"), [(8080, True), (9090, False)])
def test_a_listener_is_found_by_its_port(port: int, found: bool) -> None:
    for match in ({"listener": before(CORS, portNumber=port)},):
        assert ("new" in filters(patched("HTTP_FILTER", "INSERT_BEFORE", NEW, **match))) == found
    match = {"routeConfiguration": {"portNumber": port}}
    assert ("new" in routes(patched("HTTP_ROUTE", "INSERT_FIRST", NEW, **match))) == found


@pytest.mark.parametrize(
    ("operation", "vhost", "expected"),
    [
        ("INSERT_FIRST", {}, ["new", "default"]),
        ("ADD", {}, ["default", "new"]),
        ("INSERT_BEFORE", {"route": {"name": "default"}}, ["new", "default"]),
        ("INSERT_AFTER", {"route": {"name": "default"}}, ["default", "new"]),
        ("INSERT_AFTER", {"route": {"name": "nobody"}}, ["default"]),
        ("INSERT_FIRST", {"route": {"name": "nobody"}}, ["default"]),
        ("INSERT_FIRST", {"route": {"action": "ANY"}}, ["new", "default"]),
        ("MERGE", {"route": {"action": "ROUTE"}}, ["new"]),
        ("MERGE", {"route": {"action": "DIRECT_RESPONSE"}}, ["default"]),
        ("REMOVE", {"route": {"name": "default"}}, []),
        ("MERGE", {"name": "inbound|http|8080"}, ["new"]),
        ("MERGE", {"name": "inbound|http|9090"}, ["default"]),
    ],
)
def test_routes(operation: str, vhost: Document, expected: list[str]) -> None:
    found = patched("HTTP_ROUTE", operation, NEW, routeConfiguration={"vhost": vhost})
    assert routes(found) == expected


def test_virtual_hosts_route_configurations_and_connection_managers() -> None:
    host = {"routeConfiguration": {"vhost": {"name": "inbound|http|8080"}}}
    config = manager(patched("VIRTUAL_HOST", "MERGE", {"domains": ["own"]}, **host))["route_config"]
    assert config["virtual_hosts"][0]["domains"] == ["*", "own"]
    assert manager(patched("VIRTUAL_HOST", "REMOVE", None, **host))["route_config"]["virtual_hosts"] == []
    assert len(manager(patched("VIRTUAL_HOST", "ADD", NEW))["route_config"]["virtual_hosts"]) == 2
    config = manager(patched("ROUTE_CONFIGURATION", "MERGE", {"max_direct_response_body_size_bytes": 1}))
    assert config["route_config"]["max_direct_response_body_size_bytes"] == 1
    value = {"name": HCM, "typed_config": {"server_name": "own"}}
    assert manager(patched("NETWORK_FILTER", "MERGE", value))["server_name"] == "own"


def test_clusters() -> None:
    def names(configuration: Document) -> list[str]:
        return [each["name"] for each in configuration["static_resources"]["clusters"]]

    own, other = "inbound|8080||", "outbound|8080||bar.default.svc.cluster.local"
    assert names(patched("CLUSTER", "ADD", NEW)) == [own, other, "new"]
    assert names(patched("CLUSTER", "REMOVE", None, cluster={"name": other})) == [own]
    merged = patched("CLUSTER", "MERGE", {"connect_timeout": "1s"}, cluster={"name": own})
    assert [each["connect_timeout"] for each in merged["static_resources"]["clusters"]] == ["1s", "10s"]


@pytest.mark.parametrize(
    ("match", "changed"),
    [
        ({}, [True, True]),
        ({"service": "bar.default.svc.cluster.local"}, [False, True]),
        ({"service": "bar.default.svc.cluster.local", "portNumber": 8080}, [False, True]),
        ({"service": "bar.default.svc.cluster.local", "portNumber": 80}, [False, False]),
        ({"portNumber": 8080}, [True, True]),
        ({"subset": "v1"}, [False, False]),
    ],
)
def test_clusters_are_found_by_the_parts_of_their_names(match: Document, changed: list[bool]) -> None:
    found = patched("CLUSTER", "MERGE", {"connect_timeout": "1s"}, cluster=match)
    timeouts = [each["connect_timeout"] for each in found["static_resources"]["clusters"]]
    assert timeouts == ["1s" if each else "10s" for each in changed]


def own(*patches: Document, name: str = "own", namespace: str = "default", **spec: int) -> Document:
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"configPatches": [*patches], **spec}}


def inbound(apply_to: str, operation: str, value: Document, **match: Any) -> Document:
    match = {"context": "SIDECAR_INBOUND", **match}
    return {"applyTo": apply_to, "match": match, "patch": {"operation": operation, "value": value}}


def test_what_is_merged_onto_routes_does_not_reach_those_that_are_inserted() -> None:
    """Whatever the order of the patches and the EnvoyFilters: istiod merges first."""
    inserted = own(inbound("HTTP_ROUTE", "INSERT_FIRST", NEW), namespace="istio-system")
    merged = own(inbound("HTTP_ROUTE", "MERGE", {"metadata": {"own": 1}}))
    found = manager(apply([inserted, merged], SIDECAR, bootstrap(SIDECAR)))["route_config"]
    assert ["metadata" in each for each in found["virtual_hosts"][0]["routes"]] == [False, True]


def test_what_is_merged_onto_a_filter_reaches_those_that_are_inserted_unless_they_are_discovered() -> None:
    merged = own(inbound("HTTP_FILTER", "MERGE", {"typed_config": {"own": 1}}, listener=before("new")))
    static = own(inbound("HTTP_FILTER", "INSERT_FIRST", {"name": "new", "typed_config": {}}))
    discovered = own(inbound("HTTP_FILTER", "INSERT_FIRST", {"name": "new", "config_discovery": {}}))
    for inserted, expected in ((static, {"own": 1}), (discovered, None)):
        found = manager(apply([merged, inserted], SIDECAR, bootstrap(SIDECAR)))["http_filters"][0]
        assert found.get("typed_config") == expected


def test_a_higher_priority_is_applied_later_then_the_workloads_namespace() -> None:
    def first(name: str, **more: Any) -> Document:
        return own(inbound("HTTP_ROUTE", "INSERT_FIRST", {"name": name}), name=name, **more)

    filters = [
        first("late", priority=1000, namespace="istio-system"),
        first("latest", priority=1000),
        first("early", priority=-1),
        first("root", namespace="istio-system"),
        first("usual"),
    ]
    for given in (filters, filters[::-1]):
        found = routes(apply(given, SIDECAR, bootstrap(SIDECAR)))
        assert found == ["latest", "late", "usual", "root", "early", "default"]


def test_of_a_map_whole_values_are_replaced() -> None:
    value = {"typed_per_filter_config": {"a": {"one": 1}}}
    more = {"typed_per_filter_config": {"a": {"two": 2}, "b": {}}}
    both = own(inbound("HTTP_ROUTE", "MERGE", value), inbound("HTTP_ROUTE", "MERGE", more))
    (host,) = manager(apply([both], SIDECAR, bootstrap(SIDECAR)))["route_config"]["virtual_hosts"]
    assert host["routes"][0]["typed_per_filter_config"] == {"a": {"two": 2}, "b": {}}


def test_settings_that_are_discovered_stand_in_the_listener_or_in_files() -> None:
    """For `envoy --mode validate`, and for an Envoy that runs."""
    config = {"name": "new", "typed_config": {"@type": "own"}}
    discovered = {"name": "new", "config_discovery": {"type_urls": ["own"]}}
    both = own(inbound("EXTENSION_CONFIG", "ADD", config), inbound("HTTP_FILTER", "INSERT_FIRST", discovered))
    found = apply([both], SIDECAR, bootstrap(SIDECAR))
    inline = extension_configs.inline(found)
    assert manager(inline)["http_filters"][0] == config
    on_files, files = extension_configs.on_files(found, "/folder")
    (name,) = files
    assert files[name]["resources"][0]["typed_config"] == {"@type": "own"}
    source = manager(on_files)["http_filters"][0]["config_discovery"]["config_source"]
    assert source["path_config_source"]["path"] == f"/folder/{name}"
    assert inline.keys() == on_files.keys() == bootstrap(SIDECAR).keys(), "nothing that Envoy does not know"


@pytest.mark.parametrize(
    ("apply_to", "match"),
    [
        ("CLUSTER", {"cluster": {"own": "foo"}}),
        ("HTTP_FILTER", {"listener": {"filterChain": {"sni": "foo"}}}),
        ("HTTP_ROUTE", {"routeConfiguration": {"vhost": {"route": {"own": "ANY"}}}}),
        ("VIRTUAL_HOST", {"proxy": {"metadata": {"a": "b"}}}),
    ],
)
def test_an_unknown_match_is_an_error(apply_to: str, match: Document) -> None:
    with pytest.raises(ConfigInvalid, match=r"configPatches\[0\]: a match by \w+ is not supported"):
        patched(apply_to, "MERGE", NEW, **match)


@pytest.mark.parametrize("version", [r"^1\.28", r"^1\.32"])
def test_a_patch_is_applied_to_the_releases_that_it_is_for(version: str) -> None:
    match = {"context": "SIDECAR_INBOUND", "proxy": {"proxyVersion": version}}
    one = {"applyTo": "ROUTE_CONFIGURATION", "match": match, "patch": {"operation": "MERGE", "value": NEW}}
    document = {"metadata": {"name": "own", "namespace": "default"}, "spec": {"configPatches": [one]}}
    for release in RELEASES:
        found = manager(apply([document], SIDECAR, bootstrap(SIDECAR), release))["route_config"]["name"]
        assert (found == "new") is (release.istio == version[1:].replace("\\", ""))


@pytest.mark.parametrize("hosts", ["x", {"a": 1}, [1], None])
def test_values_of_different_kinds_are_not_merged(hosts: object) -> None:
    with pytest.raises(ConfigInvalid, match="virtual_hosts cannot be merged"):
        patched("ROUTE_CONFIGURATION", "MERGE", {"virtual_hosts": hosts})


@pytest.mark.parametrize("apply_to", APPLY_TO)
def test_only_what_istio_would_do_is_supported(apply_to: str) -> None:
    for operation in OPERATIONS:
        patch = {"applyTo": apply_to, "patch": {"operation": operation, "value": NEW}}
        istio_ignores = any(finding.severity == "error" for finding in rules_of_a_patch(patch))
        assert not (istio_ignores and supported(apply_to, operation)), operation
