"""Building blocks of the EnvoyFilters for sidecars and gateways: the document, its patches, filters that are
off. Pure.
"""

from collections.abc import Iterable, Mapping

from devroute.errors import DevrouteError
from devroute.http.error_response import error_body
from devroute.mesh.manifests.model import Document, manifest

#: Applied after all other EnvoyFilters (0 unless they say otherwise): the first and the last filter of the
#: chain have to stay that, and the routes come before all others.
PRIORITY = 1000

LUA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"
LUA_ROUTE_TYPE = "type.googleapis.com/envoy.extensions.filters.http.lua.v3.LuaPerRoute"
MUTATION_TYPE = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
MUTATION_ROUTE_TYPE = (
    "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
)
FILTER_STATE_TYPE = "type.googleapis.com/envoy.extensions.filters.http.set_filter_state.v3.Config"
METADATA_TYPE = "type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config"
#: Settings of a type that istiod need not know as well as Envoy does: of a type that it knows, it drops the
#: fields that it does not.
STRUCT_TYPE = "type.googleapis.com/udpa.type.v1.TypedStruct"
#: On a route: a filter's settings, and what turns on a filter that is off elsewhere.
ROUTE_FILTER_TYPE = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def envoy_filter_of(
    metadata: Document,
    patches: Iterable[Document],
    selector: Mapping[str, str] | None = None,
    priority: int | None = None,
) -> Document:
    """The EnvoyFilter (networking.istio.io/v1alpha3); without a selector it is for the whole namespace. Of a
    higher `priority` (Istio's default is 0): applied later."""
    order = {} if priority is None else {"priority": priority}
    workloads = {} if selector is None else {"workloadSelector": {"labels": dict(selector)}}
    spec = {**order, **workloads, "configPatches": list(patches)}
    return manifest("networking.istio.io/v1alpha3", "EnvoyFilter", metadata, spec)


def patch(context: str, apply_to: str, operation: str, value: Document) -> Document:
    return {
        "applyTo": apply_to,
        "match": {"context": context},
        "patch": {"operation": operation, "value": value},
    }


def of_releases(versions: str, found: Document) -> Document:
    """The same patch, for those proxies alone whose release of Istio matches a regular expression."""
    return {**found, "match": {**found["match"], "proxy": {"proxyVersion": versions}}}


def disabled_filter(context: str, name: str, config: Document, before: str | None = None) -> Document:
    """A filter that is off, before another one or before all: Envoy builds it only for requests whose first
    route turns it on.

    Such a request keeps it when its route is chosen again; for all others it does not exist
    (bench/mesh_cost.md has what an idle filter in the chain would cost them).
    """
    return _insert_filter(context, _disabled(name, config), before)


def disabled_filter_instead(context: str, of: str, name: str, config: Document) -> Document:
    """The same in the place of another filter, which an earlier patch of the same EnvoyFilter inserted."""
    return _filter_patch(context, "REPLACE", _disabled(name, config), of)


def _disabled(name: str, config: Document) -> Document:
    return {"name": name, "disabled": True, "typed_config": config}


def discovered_filter(
    context: str, name: str, config: Document, before: str | None = None, disabled: bool = True
) -> tuple[Document, Document]:
    """The same, or one that is on, with settings that istiod sends apart from the listener: new ones take
    effect at once, and drain no connection. The name has to be unique among all filters of a proxy."""
    extension = patch(context, "EXTENSION_CONFIG", "ADD", {"name": name, "typed_config": config})
    # Without a timeout Envoy would start with no settings, and close the connections of such requests.
    source = {"ads": {}, "initial_fetch_timeout": "0s", "resource_api_version": "V3"}
    discovery = {"config_source": source, "type_urls": [config["@type"]]}
    value = {"name": name, "disabled": disabled, "config_discovery": discovery}
    return extension, _insert_filter(context, value, before)


def _insert_filter(context: str, value: Document, before: str | None) -> Document:
    return _filter_patch(context, "INSERT_FIRST" if before is None else "INSERT_BEFORE", value, before)


def _filter_patch(context: str, operation: str, value: Document, other: str | None) -> Document:
    manager: Document = {"name": "envoy.filters.network.http_connection_manager"}
    if other is not None:
        manager["subFilter"] = {"name": other}
    found = patch(context, "HTTP_FILTER", operation, value)
    found["match"]["listener"] = {"filterChain": {"filter": manager}}
    return found


def turned_on(config: Document) -> Document:
    """On a route: turns on a filter that is off elsewhere.

    `config` has a type even where it says nothing more, since Istio's webhook refuses an Any without one.
    """
    return {"@type": ROUTE_FILTER_TYPE, "config": config}


def undecided(message: str, hint: str) -> Document:
    """The response of a route whose Lua died before it could have another route chosen."""
    body = error_body(DevrouteError(message, hint=hint)).decode()
    return {"status": 500, "body": {"inline_string": body}}
