"""The EnvoyFilter that puts the filters `front`, `decide`, `compare`, `shadow` and `outbound` (`lua/`) into
the sidecars of a scope. Pure.

A request with a contract meets the same policy as one without: the first filter of the chain has its route
chosen again before any other one looks at it, and the last one before the router decides, when rate limits,
authentication and authorization, merged onto routes or not, have had their say. Both are turned on by the
request's first route (sidecar_routes.py); for all other requests they do not exist. Where Envoy can do what
the first one does, two filters of its own stand there instead (docs/decisions/0070).
"""

from devroute import headers
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import (
    Carriers,
    Document,
    MeshScope,
    NamespaceScope,
    ProxyService,
    Scope,
    WorkloadScope,
    metadata_of,
)
from devroute.mesh.manifests.patches import (
    FILTER_STATE_TYPE,
    LUA_TYPE,
    METADATA_TYPE,
    MUTATION_TYPE,
    PRIORITY,
    STRUCT_TYPE,
    disabled_filter,
    disabled_filter_instead,
    discovered_filter,
    envoy_filter_of,
    of_releases,
    patch,
)
from devroute.mesh.manifests.sidecar_routes import (
    COMPARE,
    FILTER,
    Names,
    contract_routes,
    copied_route,
    header,
    shadow_route,
)

#: What a filter's Lua finds in SETTINGS, by name.
Settings = dict[str, lua.Constant]

CONTEXT = "SIDECAR_INBOUND"
#: Of requests that the workload itself sends.
SENT = "SIDECAR_OUTBOUND"
ROUTER = "envoy.filters.http.router"
#: The releases whose Envoy, 1.38 or newer, has a filter of its own that can have a route chosen again. Others
#: would refuse its settings, so whatever does not say that it is one of them gets the Lua.
CHOOSES_AGAIN_SINCE = r"^1\.[3-9]\d"


def envoy_filter(
    scope: Scope, proxy: ProxyService | None = None, carriers: Carriers | None = None
) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3) that puts the filter into the sidecars of a scope."""
    proxy, carriers = proxy or ProxyService(), carriers or Carriers()
    settings: Settings = {
        "control": proxy.control_cluster,
        "data": proxy.data_cluster,
        "domain": proxy.domain,
        "proxy": proxy.principal,
        **carriers.settings,
    }
    name, selector = "devroute", None
    share: float | None = None
    names = Names(FILTER)
    match scope:
        case MeshScope(namespace):
            pass
        case NamespaceScope(namespace):
            settings |= {"namespace": namespace}
            names = Names(f"{FILTER}.{namespace}")
        case WorkloadScope(namespace, service):
            name, selector, share = f"devroute-{service}", scope.selector, scope.shadow_share
            settings |= {"namespace": namespace, "service": service}
            if scope.trace_folder is not None:
                settings |= {"folder": scope.trace_folder}
            names = Names(f"{FILTER}.{namespace}.{service}")
    filters, routes = _filters(names, settings), []
    if "folder" in settings:
        filters += discovered_filter(SENT, names.outbound, _outbound(settings), ROUTER, disabled=False)
    if share is not None:
        code = _code("shadow", {**settings, "share": f"{share:.6f}"})
        filters += discovered_filter(CONTEXT, names.shadow, code, before=ROUTER)
        routes = [shadow_route(share, names), copied_route(names)]
    routes += contract_routes(names, proxy, carriers)
    # Each route is inserted before those above it.
    patches = [*filters, *(patch(CONTEXT, "HTTP_ROUTE", "INSERT_FIRST", each) for each in routes)]
    return envoy_filter_of(metadata_of(name, namespace), patches, selector, PRIORITY)


def _filters(names: Names, settings: Settings) -> list[Document]:
    """`result` has the route chosen, if no other filter has, on which `services` relies."""
    return [
        *_front(names),
        disabled_filter(CONTEXT, names.result, _results(), before=ROUTER),
        disabled_filter(CONTEXT, names.services, _own_services(), before=ROUTER),
        *discovered_filter(CONTEXT, names.decide, _code("decide", settings), before=ROUTER),
    ]


def _outbound(settings: Settings) -> Document:
    """Runs for all requests that the workload sends, and leaves their routes as they are."""
    code = lua.source("outbound", SETTINGS={key: settings[key] for key in ("carriers", "folder")})
    return {"@type": LUA_TYPE, "clear_route_cache": False, "default_source_code": {"inline_string": code}}


def _own_services() -> Document:
    """Leaves the services of the request's own cluster, as istiod lists them in its metadata, in a filter
    state: JSON, or "-". The name by which a caller dials is the caller's own word."""
    services = {"text_format_source": {"inline_string": "%CLUSTER_METADATA(istio:services)%"}}
    state = {"object_key": lua.OWN_SERVICES, "factory_key": "envoy.string", "format_string": services}
    return {"@type": FILTER_STATE_TYPE, "on_request_headers": [state]}


def _front(names: Names) -> list[Document]:
    """The first filter: has the route chosen again, wherever it is turned on. Where Envoy has them, two of
    its own do the same for less: one sets the metadata that `lua/front.lua` sets, the other takes the place
    of the Lua."""
    code = {"@type": LUA_TYPE, "default_source_code": {"inline_string": lua.source("front")}}
    again = {"@type": STRUCT_TYPE, "type_url": FILTER_STATE_TYPE, "value": {"clear_route_cache": True}}
    metadata = {"metadata_namespace": FILTER, "value": {"result": ""}}
    undecided = {"@type": METADATA_TYPE, "metadata": [metadata]}
    own = [
        disabled_filter_instead(CONTEXT, names.front, names.again, again),
        disabled_filter(CONTEXT, names.undecided, undecided),
    ]
    return [
        disabled_filter(CONTEXT, names.front, code),
        *(of_releases(CHOOSES_AGAIN_SINCE, each) for each in own),
    ]


def _code(entry: str, settings: Settings) -> Document:
    """A filter that runs an entry of `lua/` wherever it is turned on, or `compare` where a route names it."""
    compare = lua.source(COMPARE, SETTINGS={"control": settings["control"]})
    code = lua.source(entry, SETTINGS=settings)
    return {
        "@type": LUA_TYPE,
        # The route that the others obeyed is the one that counts, unless the Lua has another one chosen.
        "clear_route_cache": False,
        "default_source_code": {"inline_string": code},
        "source_codes": {COMPARE: {"inline_string": compare}},
    }


def _results() -> Document:
    """From the decision's metadata; what the proxy set on a detoured response stays."""
    mutations = [
        {"append": header(headers.RESULT, _metadata("result"), "ADD_IF_ABSENT")},
        {"append": header(headers.REASON, _metadata("reason"), "ADD_IF_ABSENT")},
    ]
    return {"@type": MUTATION_TYPE, "mutations": {"response_mutations": mutations}}


def _metadata(key: str) -> str:
    return f"%DYNAMIC_METADATA({FILTER}:{key})%"
