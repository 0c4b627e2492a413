"""The EnvoyFilter that puts `lua/devroute.lua` into the sidecars of a scope. Pure."""

from importlib import resources

from devroute import headers
from devroute.mesh.manifests.model import (
    Document,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
)

#: Name of the HTTP filter, and of the metadata in which it leaves its result.
FILTER = headers.METADATA
#: Name of the Lua in the filter's configuration; there once, for all routes that ask.
SOURCE = "decide"
#: And of the Lua that reads the real service's answers to copied requests along.
COMPARE_SOURCE = "compare"
#: And of the Lua that has requests without a contract copied, where a workload takes part in that.
SHADOW_SOURCE = "shadow"
#: Its result for those; no caller gets to see it.
COPIED = "copy"
#: The denominator of a share: fine enough for any percentage.
MILLION = 1_000_000
#: The result, as lua/devroute.lua gives it, of what goes to the proxy, whose answer says better.
DETOURED = "error"
#: Results that lead to the cluster, or to the copy, that the Lua names. All others fall to the service's own
#: route.
ELSEWHERE = ("mirror", "version")
#: Name of the HTTP filter that tells the caller what was decided.
RESULT_FILTER = "devroute.result"

LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
LUA_ROUTE_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute"
MUTATION_TYPE = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
#: The answer to a request that the Lua has left without a decision.
UNDECIDED = (
    '{"code": "internal", "message": "the devroute filter made no decision", '
    '"hint": "see the log of the sidecar", "service": null, "target": null, "request_id": null}\n'
)
#: Carries a filter's settings on a route, and switches on there what is off elsewhere.
ROUTE_FILTER_TYPE = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def lua_source(name: str = "devroute") -> str:
    """The filter, `lua/devroute.lua`, or another file of that folder."""
    return resources.files("devroute.lua").joinpath(f"{name}.lua").read_text(encoding="utf-8")


def envoy_filter(scope: Scope, proxy: ProxyService | None = None) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) that puts the filter into the sidecars of a scope."""
    proxy = proxy or ProxyService()
    metadata: Document
    spec: Document = {}
    sources = {SOURCE: "devroute", COMPARE_SOURCE: "compare"}
    copying: list[Document] = []
    settings = {"control": proxy.control_cluster, "data": proxy.data_cluster, "domain": proxy.domain}
    match scope:
        case MeshScope(root_namespace):
            metadata = {"name": "devroute", "namespace": root_namespace}
        case NamespaceScope(namespace):
            metadata = {"name": "devroute", "namespace": namespace}
            settings |= {"namespace": namespace}
        case WorkloadScope(namespace, service):
            metadata = {"name": f"devroute-{service}", "namespace": namespace}
            spec = {"workloadSelector": {"labels": scope.selector}}
            settings |= {"namespace": namespace, "service": service}
            if scope.shadow_share is not None:
                sources[SHADOW_SOURCE] = "shadow"
                copying = [_shadow_route(scope.shadow_share, settings), _copied_route(proxy)]
    metadata["labels"] = {"app.kubernetes.io/part-of": "devroute"}
    spec["configPatches"] = [
        _filter_patch(FILTER, {"@type": LUA_TYPE, "source_codes": _sources(sources)}),
        _filter_patch(
            RESULT_FILTER, {"@type": MUTATION_TYPE, "mutations": {"response_mutations": _results()}}
        ),
        *(_patch("HTTP_ROUTE", "INSERT_FIRST", route) for route in copying),
        _patch(
            "HTTP_ROUTE",
            "INSERT_FIRST",
            _ask_route("devroute-ask-baggage", _baggage_has_contract(), settings),
        ),
        _patch("HTTP_ROUTE", "INSERT_FIRST", _ask_route("devroute-ask", _carries_contract(), settings)),
        _patch("HTTP_ROUTE", "INSERT_FIRST", _decided_route(proxy)),
        _patch("HTTP_ROUTE", "INSERT_FIRST", _detour_route(proxy)),
    ]
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": metadata,
        "spec": spec,
    }


def _sources(sources: dict[str, str]) -> Document:
    return {name: {"inline_string": lua_source(file)} for name, file in sources.items()}


def _patch(apply_to: str, operation: str, value: Document) -> Document:
    return {
        "applyTo": apply_to,
        "match": {"context": "SIDECAR_INBOUND"},
        "patch": {"operation": operation, "value": value},
    }


def _filter_patch(name: str, config: Document) -> Document:
    """A filter that is off: Envoy builds it only for requests whose first route, the ask route, turns it on.

    Such a request keeps it when its route is chosen again; for all others it does not exist
    (bench/mesh_cost.md has what an idle filter in the chain would cost them).
    """
    router = {"name": "envoy.filters.http.router"}
    connection_manager = {"name": "envoy.filters.network.http_connection_manager", "subFilter": router}
    patch = _patch("HTTP_FILTER", "INSERT_BEFORE", {"name": name, "disabled": True, "typed_config": config})
    patch["match"]["listener"] = {"filterChain": {"filter": connection_manager}}
    return patch


def _result(value: Document, **options: bool) -> Document:
    return {"filter": FILTER, "path": [{"key": "result"}], "value": value, **options}


def _carries_contract() -> Document:
    """Cheap to test and false for everybody else."""
    return {"name": headers.CONTRACT, "present_match": True}


def _baggage_has_contract() -> Document:
    """What an app with OpenTelemetry passes on; the Lua makes the header of it."""
    return {"name": "baggage", "string_match": {"contains": f"{headers.BAGGAGE_CONTRACT}="}}


def _ask_route(name: str, header: Document, settings: Document) -> Document:
    """Carries a contract, no decision yet: the Lua runs, decides, and has the route chosen again.

    Its own answer is seen only if the Lua dies without a decision, which the Lua prevents as well as it can.
    """
    return {
        "name": name,
        "match": {
            "prefix": "/",
            "headers": [header],
            "dynamic_metadata": [_result({"present_match": True}, invert=True)],
        },
        "direct_response": {"status": 500, "body": {"inline_string": UNDECIDED}},
        "response_headers_to_add": [
            _header("content-type", "application/json", "OVERWRITE_IF_EXISTS_OR_ADD"),
            _header(headers.RESULT, "error", "ADD_IF_ABSENT"),
        ],
        "metadata": {"filter_metadata": {FILTER: settings}},
        "typed_per_filter_config": {
            FILTER: _turned_on({"@type": LUA_ROUTE_TYPE, "name": SOURCE}),
            RESULT_FILTER: _turned_on({}),
        },
    }


def _shadow_route(share: float, settings: Document) -> Document:
    """A share of the requests without a contract: the Lua runs, and has some of them copied. All others pay
    for the draw alone. It stands behind the routes of those that have a contract."""
    fraction = {"numerator": round(share * MILLION / 100), "denominator": "MILLION"}
    return {
        "name": "devroute-shadow",
        "match": {
            "prefix": "/",
            "runtime_fraction": {"default_value": fraction, "runtime_key": "devroute.shadow_share"},
            "dynamic_metadata": [_result({"present_match": True}, invert=True)],
        },
        "direct_response": {"status": 500, "body": {"inline_string": UNDECIDED}},
        "metadata": {"filter_metadata": {FILTER: {**settings, "share": f"{share:.6f}"}}},
        "typed_per_filter_config": {FILTER: _turned_on({"@type": LUA_ROUTE_TYPE, "name": SHADOW_SOURCE})},
    }


def _copied_route(proxy: ProxyService) -> Document:
    """Copied without a contract. The header alone, which a client can send as well, leads nowhere."""
    match = {
        "prefix": "/",
        "headers": [{"name": headers.COPY, "present_match": True}],
        "dynamic_metadata": [_result({"string_match": {"exact": COPIED}})],
    }
    return {"name": "devroute-copied", "match": match, **_elsewhere(proxy)}


def _detour_route(proxy: ProxyService) -> Document:
    """Decided: to the proxy, as a stream. Without timeouts, since a laptop may stand in a breakpoint."""
    return {
        "name": "devroute-detour",
        "match": {
            "prefix": "/",
            "headers": [_carries_contract()],
            "dynamic_metadata": [_result({"string_match": {"exact": DETOURED}})],
        },
        "route": {"cluster": proxy.data_cluster, "timeout": "0s", "idle_timeout": "0s"},
        "request_headers_to_remove": [headers.CLUSTER, headers.SHADOW],
    }


def _decided_route(proxy: ProxyService) -> Document:
    """Decided: to the cluster that the Lua wrote over whatever a client had sent; for a mirrored request to
    the service's own, with a copy to the proxy. Detours have a route that needs no such headers."""
    results = [{"string_match": {"exact": result}} for result in ELSEWHERE]
    match = {
        "prefix": "/",
        "headers": [_carries_contract()],
        "dynamic_metadata": [_result({"or_match": {"value_matchers": results}})],
    }
    return {"name": "devroute-decided", "match": match, **_elsewhere(proxy)}


def _elsewhere(proxy: ProxyService) -> Document:
    """To the cluster that the Lua named, with a copy to the one that it named for that, if any. Of copied
    requests whose laptop wants to compare, the answer is read along."""
    return {
        "route": {
            "cluster_header": headers.CLUSTER,
            "timeout": "0s",
            "idle_timeout": "0s",
            "request_mirror_policies": [{"cluster_header": headers.SHADOW}],
        },
        # The other one is read after the removal; the service gets to see it.
        "request_headers_to_remove": [headers.CLUSTER],
        "metadata": {"filter_metadata": {FILTER: {"control": proxy.control_cluster}}},
        "typed_per_filter_config": {
            FILTER: _turned_on({"@type": LUA_ROUTE_TYPE, "name": COMPARE_SOURCE}),
        },
    }


def _turned_on(config: Document) -> Document:
    return {"@type": ROUTE_FILTER_TYPE, "config": config}


def _results() -> list[Document]:
    """From the decision's metadata; what the proxy has set on a detoured response stays."""
    return [
        {"append": _header(headers.RESULT, _metadata("result"), "ADD_IF_ABSENT")},
        {"append": _header(headers.REASON, _metadata("reason"), "ADD_IF_ABSENT")},
    ]


def _metadata(key: str) -> str:
    return f"%DYNAMIC_METADATA({FILTER}:{key})%"


def _header(name: str, value: str, action: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": action, "keep_empty_value": False}
