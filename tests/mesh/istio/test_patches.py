"""Each kind of patch, on an Istio-shaped sidecar."""

from typing import Any

import pytest

from devroute.errors import ConfigInvalid
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.patches import supported
from devroute.mesh.istio.rules import APPLY_TO, OPERATIONS
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
    ("apply_to", "match"),
    [
        ("CLUSTER", {"cluster": {"service": "foo"}}),
        ("HTTP_FILTER", {"listener": {"filterChain": {"sni": "foo"}}}),
        ("HTTP_ROUTE", {"routeConfiguration": {"vhost": {"route": {"action": "ANY"}}}}),
        ("VIRTUAL_HOST", {"proxy": {"metadata": {"a": "b"}}}),
    ],
)
def test_an_unknown_match_is_an_error(apply_to: str, match: Document) -> None:
    with pytest.raises(ConfigInvalid, match=r"configPatches\[0\]: a match by \w+ is not supported"):
        patched(apply_to, "MERGE", NEW, **match)


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
