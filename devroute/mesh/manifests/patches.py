"""What the EnvoyFilters of sidecars and gateways consist of: the document, its patches, filters that are off.
Pure."""

from collections.abc import Iterable, Mapping

from devroute.errors import DevrouteError
from devroute.http.error_response import error_body
from devroute.mesh.manifests.model import Document, manifest

LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
LUA_ROUTE_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute"
#: On a route: a filter's settings, and what turns on a filter that is off elsewhere.
ROUTE_FILTER_TYPE = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def envoy_filter_of(
    metadata: Document, patches: Iterable[Document], selector: Mapping[str, str] | None = None
) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3); without a selector it is for the whole namespace."""
    workloads = {} if selector is None else {"workloadSelector": {"labels": dict(selector)}}
    spec = {**workloads, "configPatches": list(patches)}
    return manifest("networking.istio.io/v1alpha3", "EnvoyFilter", metadata, spec)


def patch(context: str, apply_to: str, operation: str, value: Document) -> Document:
    return {
        "applyTo": apply_to,
        "match": {"context": context},
        "patch": {"operation": operation, "value": value},
    }


def disabled_filter(context: str, before: str, name: str, config: Document) -> Document:
    """A filter that is off, before another one: Envoy builds it only for requests whose first route turns it
    on.

    Such a request keeps it when its route is chosen again; for all others it does not exist
    (bench/mesh_cost.md has what an idle filter in the chain would cost them).
    """
    manager = {"name": "envoy.filters.network.http_connection_manager", "subFilter": {"name": before}}
    inserted = patch(
        context, "HTTP_FILTER", "INSERT_BEFORE", {"name": name, "disabled": True, "typed_config": config}
    )
    inserted["match"]["listener"] = {"filterChain": {"filter": manager}}
    return inserted


def turned_on(config: Document) -> Document:
    """On a route: turns on a filter that is off elsewhere.

    `config` has a type even where it says nothing more, since Istio's webhook refuses an Any without one.
    """
    return {"@type": ROUTE_FILTER_TYPE, "config": config}


def undecided(message: str, hint: str) -> Document:
    """The response of a route whose Lua died before it could have another route chosen."""
    body = error_body(DevrouteError(message, hint=hint)).decode()
    return {"status": 500, "body": {"inline_string": body}}
