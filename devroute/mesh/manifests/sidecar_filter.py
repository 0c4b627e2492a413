"""The EnvoyFilter that puts the filters `decide`, `compare` and `shadow` (`lua/`) into the sidecars of a
scope. Pure."""

from devroute import headers
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import (
    Document,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
    metadata_of,
)
from devroute.mesh.manifests.patches import (
    LUA_ROUTE_TYPE,
    LUA_TYPE,
    disabled_filter,
    envoy_filter_of,
    patch,
    turned_on,
    undecided,
)

CONTEXT = "SIDECAR_INBOUND"
#: Name of the HTTP filter, and of the metadata in which it leaves its result.
FILTER = headers.METADATA
#: Name of the HTTP filter that puts the result on the response.
RESULT_FILTER = "devroute.result"
#: The entries of `lua/`, once in the filter's configuration for all routes that run them: on requests with a
#: contract, on responses to mirrored requests, and on requests of a workload that takes part in shadow
#: traffic.
DECIDE, COMPARE, SHADOW = "decide", "compare", "shadow"
#: Decisions that lead to the cluster, or send a copy to the one, that the Lua names. All others fall to the
#: service's own route.
ELSEWHERE = ("mirror", "version")
#: The denominator of a share: fine enough for any percentage.
MILLION = 1_000_000

MUTATION_TYPE = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
MUTATION_ROUTE_TYPE = f"{MUTATION_TYPE}PerRoute"


def envoy_filter(scope: Scope, proxy: ProxyService | None = None) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) that puts the filter into the sidecars of a scope."""
    proxy = proxy or ProxyService()
    entries, routes = [DECIDE, COMPARE], []
    settings = {
        "control": proxy.control_cluster,
        "data": proxy.data_cluster,
        "domain": proxy.domain,
        "proxy": proxy.principal,
    }
    name, selector = "devroute", None
    match scope:
        case MeshScope(namespace):
            pass
        case NamespaceScope(namespace):
            settings |= {"namespace": namespace}
        case WorkloadScope(namespace, service):
            name, selector = f"devroute-{service}", scope.selector
            settings |= {"namespace": namespace, "service": service}
            if scope.shadow_share is not None:
                entries.append(SHADOW)
                routes = [_shadow_route(scope.shadow_share, settings), _copied_route(proxy)]
    routes += [
        _ask_route("devroute-ask-baggage", _baggage_has_contract(), settings),
        _ask_route("devroute-ask", _carries_contract(), settings),
        _decided_route(proxy),
        _detour_route(proxy),
    ]
    # Each route is inserted before those above it.
    patches = [*_filters(entries), *(patch(CONTEXT, "HTTP_ROUTE", "INSERT_FIRST", each) for each in routes)]
    return envoy_filter_of(metadata_of(name, namespace), patches, selector)


def _filters(entries: list[str]) -> list[Document]:
    router = "envoy.filters.http.router"
    code = {"@type": LUA_TYPE, "source_codes": {each: _inline(each) for each in entries}}
    results = {"@type": MUTATION_TYPE, "mutations": {"response_mutations": _results()}}
    return [
        disabled_filter(CONTEXT, router, FILTER, code),
        disabled_filter(CONTEXT, router, RESULT_FILTER, results),
    ]


def _inline(entry: str) -> Document:
    return {"inline_string": lua.source(entry)}


def _run(entry: str) -> Document:
    """On a route: runs an entry."""
    return turned_on({"@type": LUA_ROUTE_TYPE, "name": entry})


def _result(value: Document, **options: bool) -> Document:
    return {"filter": FILTER, "path": [{"key": "result"}], "value": value, **options}


def _exactly(text: str) -> Document:
    return {"string_match": {"exact": text}}


def _match(carried: list[Document], result: Document, **options: bool) -> Document:
    return {"prefix": "/", "headers": carried, "dynamic_metadata": [_result(result, **options)]}


def _carries_contract() -> list[Document]:
    """Cheap to test, and false for all other requests."""
    return [{"name": headers.CONTRACT, "present_match": True}]


def _baggage_has_contract() -> list[Document]:
    """What an app with OpenTelemetry forwards; the Lua makes the header of it. Both tests have to succeed;
    the first is cheap and fails for others' baggage. The regex takes any byte; `.` would take UTF-8 only."""
    regex = rf"\C*{headers.BAGGAGE_CONTRACT}[ \t]*=\C*"
    tests = ({"contains": headers.BAGGAGE_CONTRACT}, {"safe_regex": {"regex": regex}})
    return [{"name": "baggage", "string_match": each} for each in tests]


def _ask_route(name: str, carried: list[Document], settings: Document) -> Document:
    """Carries a contract, no decision yet: the Lua runs, decides, and has the route chosen again.

    The route's own response appears only if the Lua dies without a decision.
    """
    return {
        "name": name,
        "match": _match(carried, {"present_match": True}, invert=True),
        "direct_response": _undecided(),
        "response_headers_to_add": [
            _header("content-type", "application/json", "OVERWRITE_IF_EXISTS_OR_ADD"),
            _header(headers.RESULT, "error", "ADD_IF_ABSENT"),
        ],
        "metadata": {"filter_metadata": {FILTER: settings}},
        "typed_per_filter_config": {
            FILTER: _run(DECIDE),
            RESULT_FILTER: turned_on({"@type": MUTATION_ROUTE_TYPE}),
        },
    }


def _shadow_route(share: float, settings: Document) -> Document:
    """A share of the requests without a contract: the Lua runs, and has some of them copied. All others pay
    for the draw alone. The routes for requests with a contract come first."""
    fraction = {"numerator": round(share * MILLION / 100), "denominator": "MILLION"}
    return {
        "name": "devroute-shadow",
        "match": {
            "prefix": "/",
            "runtime_fraction": {"default_value": fraction, "runtime_key": "devroute.shadow_share"},
            "dynamic_metadata": [_result({"present_match": True}, invert=True)],
        },
        "direct_response": _undecided(),
        "metadata": {"filter_metadata": {FILTER: {**settings, "share": f"{share:.6f}"}}},
        "typed_per_filter_config": {FILTER: _run(SHADOW)},
    }


def _copied_route(proxy: ProxyService) -> Document:
    """Copied without a contract. The header alone, which a client can send too, leads nowhere."""
    match = _match([{"name": headers.COPY, "present_match": True}], _exactly(lua.COPIED))
    return {"name": "devroute-copied", "match": match, **_elsewhere(proxy)}


def _detour_route(proxy: ProxyService) -> Document:
    """Decided: to the proxy, as a stream. Without timeouts, since a debugger may hold the laptop's app."""
    return {
        "name": "devroute-detour",
        "match": _match(_carries_contract(), _exactly(lua.SENT_TO_PROXY)),
        "route": {"cluster": proxy.data_cluster, "timeout": "0s", "idle_timeout": "0s"},
        "request_headers_to_remove": [headers.CLUSTER, headers.SHADOW],
    }


def _decided_route(proxy: ProxyService) -> Document:
    """Decided: to the cluster that the Lua wrote over whatever a client had sent; for a mirrored request to
    the service's own, with a copy to the proxy. Detours have a route that needs no such headers."""
    results = [_exactly(result) for result in ELSEWHERE]
    match = _match(_carries_contract(), {"or_match": {"value_matchers": results}})
    return {"name": "devroute-decided", "match": match, **_elsewhere(proxy)}


def _elsewhere(proxy: ProxyService) -> Document:
    """To the cluster that the Lua named, with a copy to the cluster that it named for copies, if any. The Lua
    reports the service's response where the laptop's owner wants a comparison."""
    return {
        "route": {
            "cluster_header": headers.CLUSTER,
            "timeout": "0s",
            "idle_timeout": "0s",
            "request_mirror_policies": [{"cluster_header": headers.SHADOW}],
        },
        # Envoy reads the mirror's header after this removal, so that one stays, and the service receives it.
        "request_headers_to_remove": [headers.CLUSTER],
        "metadata": {"filter_metadata": {FILTER: {"control": proxy.control_cluster}}},
        "typed_per_filter_config": {FILTER: _run(COMPARE)},
    }


def _undecided() -> Document:
    return undecided("the devroute filter made no decision", "see the log of the sidecar")


def _results() -> list[Document]:
    """From the decision's metadata; what the proxy set on a detoured response stays."""
    return [
        {"append": _header(headers.RESULT, _metadata("result"), "ADD_IF_ABSENT")},
        {"append": _header(headers.REASON, _metadata("reason"), "ADD_IF_ABSENT")},
    ]


def _metadata(key: str) -> str:
    return f"%DYNAMIC_METADATA({FILTER}:{key})%"


def _header(name: str, value: str, action: str) -> Document:
    return {"header": {"key": name, "value": value}, "append_action": action, "keep_empty_value": False}
