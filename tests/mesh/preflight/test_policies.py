"""Where `devroute manifests check` warns that requests with a contract pass by an EnvoyFilter."""

from typing import Any

import pytest

from devroute.mesh.istio.rules import RELEASES
from devroute.mesh.istio.sidecar import Document
from devroute.mesh.manifests.folder import install
from devroute.mesh.manifests.gateway_filter import edge_filter
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.patches import PRIORITY
from devroute.mesh.manifests.render import to_yaml
from devroute.mesh.preflight.check import check

ENVOYS = {each.envoy: (f"{each.envoy}.1", lambda _: None) for each in RELEASES}
LIMIT = "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit"
FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"
NAME = "envoy.filters.http.local_ratelimit"


def patch(apply_to: str, operation: str, value: Document, context: str = "SIDECAR_INBOUND") -> Document:
    return {
        "applyTo": apply_to,
        "match": {"context": context},
        "patch": {"operation": operation, "value": value},
    }


def warnings(*patches: Document, **spec: Any) -> list[tuple[str, str]]:
    document = {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": "team", "namespace": "shop"},
        "spec": {"configPatches": list(patches), **spec},
    }
    report = check(to_yaml(document), "own.yaml", ENVOYS)
    assert report.good, "they are warnings"
    place = "EnvoyFilter shop/team: configPatches[0]: "
    return [(each.place.removeprefix(place), each.problem) for each in report.findings]


def on_route(config: Document, context: str = "SIDECAR_INBOUND") -> Document:
    return patch("HTTP_ROUTE", "MERGE", {"typed_per_filter_config": {NAME: config}}, context)


@pytest.mark.parametrize("context", ["SIDECAR_INBOUND", "GATEWAY"])
def test_a_filter_that_a_route_turns_on_or_off(context: str) -> None:
    on: Document = {"@type": FILTER_CONFIG, "config": {"@type": LIMIT}}
    ((place, problem),) = warnings(on_route(on, context))
    assert place == f"patch.value.typed_per_filter_config.{NAME}"
    assert problem.startswith("turns the filter on for this route")
    assert warnings(on_route({"@type": LIMIT}, context)) == []
    ((_, problem),) = warnings(on_route(on | {"disabled": True}, context))
    assert problem.startswith("turns the filter off for this route: requests with a contract meet it")
    assert warnings(patch("VIRTUAL_HOST", "MERGE", {"typed_per_filter_config": {NAME: on}}, context)) == []


def test_what_a_detoured_request_does_not_get_of_a_route() -> None:
    value = {"request_headers_to_remove": ["x-secret"], "route": {"timeout": "5s", "cluster": "own"}}
    ((place, problem),) = warnings(patch("HTTP_ROUTE", "MERGE", value))
    assert place == "patch.value"
    assert problem.startswith("request_headers_to_remove, route.timeout: a detoured request has")
    assert warnings(patch("HTTP_ROUTE", "MERGE", value, "GATEWAY")) == [], "a contract changes no route there"
    assert warnings(patch("HTTP_ROUTE", "MERGE", {"route": {"rate_limits": []}})) == [], (
        "a filter reads these"
    )
    refusal = {"name": "team", "match": {"prefix": "/admin"}, "direct_response": {"status": 403}}
    ((_, problem),) = warnings(patch("HTTP_ROUTE", "INSERT_FIRST", refusal))
    assert problem.startswith("direct_response: ")


def test_a_filter_that_is_applied_after_devroute_s() -> None:
    value = {"name": NAME, "typed_config": {"@type": LIMIT, "stat_prefix": "x"}}
    inserted = patch("HTTP_FILTER", "INSERT_FIRST", value)
    ((place, problem),) = warnings(inserted, priority=PRIORITY)
    assert (place, "obeys devroute's route" in problem) == ("patch.operation", True)
    assert warnings(inserted, priority=PRIORITY - 1) == []
    assert warnings(inserted) == []


def test_devroute_s_own_filters_have_no_warning() -> None:
    for text in (install(Installation()), to_yaml(edge_filter())):
        assert check(text, "own.yaml", ENVOYS).findings == []
