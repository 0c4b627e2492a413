"""Warnings about EnvoyFilters whose settings requests with a contract bypass. Pure.

Filters between devroute's two, and what istiod or patches configure for them on the service's own routes,
hold for every request (docs/decisions/0035 and 0038). Two things do not: filters that a route turns on or
off, since the first route fixes a request's filters, and what Envoy's router takes from the route of a
detoured request.
"""

from collections.abc import Iterator, Mapping

from devroute.mesh.istio.rules import ManifestFinding, value_at
from devroute.mesh.manifests.model import Document
from devroute.mesh.manifests.patches import PRIORITY, ROUTE_FILTER_TYPE

#: What the router takes from a route. Of `route`, all but where the request goes.
_OF_THE_ROUTER = (
    *("direct_response", "redirect", "request_headers_to_add", "request_headers_to_remove"),
    *("response_headers_to_add", "response_headers_to_remove"),
)
_OF_THE_ROUTE = ("timeout", "retry_policy", "request_mirror_policies", "hash_policy", "max_stream_duration")
_OURS = "devroute"


def passed_by(patch: Document, priority: object) -> Iterator[ManifestFinding]:
    """Warnings about one of an EnvoyFilter's patches that can be applied; `priority` is the filter's."""
    apply_to, operation = patch.get("applyTo"), value_at(patch, "patch", "operation")
    value, context = value_at(patch, "patch", "value"), value_at(patch, "match", "context") or "ANY"
    if operation == "REMOVE" or not isinstance(value, Mapping) or str(value.get("name")).startswith(_OURS):
        return
    if context not in ("ANY", "GATEWAY", "SIDECAR_INBOUND"):
        return
    if apply_to == "HTTP_FILTER" and str(operation).startswith("INSERT"):
        yield from _filter(priority)
    elif apply_to == "HTTP_ROUTE":
        yield from _turned_on(value)
        if context != "GATEWAY":  # where a contract changes no route
            yield from _router(value)


def _filter(priority: object) -> Iterator[ManifestFinding]:
    if isinstance(priority, int) and priority >= PRIORITY:
        yield ManifestFinding(
            "warning",
            "patch.operation",
            f"is applied after devroute's filters (priority {PRIORITY}): at the start or end of the chain, "
            "this filter obeys devroute's route and not the service's for requests with a contract",
            f"write a spec.priority below {PRIORITY}",
        )


def _turned_on(route: Mapping[object, object]) -> Iterator[ManifestFinding]:
    configured = route.get("typed_per_filter_config")
    for name, config in configured.items() if isinstance(configured, Mapping) else ():
        place = f"patch.value.typed_per_filter_config.{name}"
        if value_at(config, "@type") != ROUTE_FILTER_TYPE:
            continue
        if value_at(config, "disabled") is True:
            yield ManifestFinding(
                "warning",
                place,
                "turns the filter off for this route: requests with a contract meet it all the same, since "
                "the first route fixes the filters of a request, and theirs is devroute's",
                "use the filter's own settings of a route, or turn it off by a patch of VIRTUAL_HOST",
            )
        else:
            yield ManifestFinding(
                "warning",
                place,
                "turns the filter on for this route: requests with a contract do not pass it, since the "
                "first route fixes the filters of a request, and theirs is devroute's",
                "leave the filter on and configure it here, or turn it on by a patch of VIRTUAL_HOST",
            )


def _router(route: Mapping[object, object]) -> Iterator[ManifestFinding]:
    inner = route.get("route")
    found = [key for key in _OF_THE_ROUTER if key in route]
    found += [f"route.{key}" for key in _OF_THE_ROUTE if isinstance(inner, Mapping) and key in inner]
    if found:
        yield ManifestFinding(
            "warning",
            "patch.value",
            f"{', '.join(found)}: a detoured request has a route of devroute's, without this",
            "refuse requests by a filter (AuthorizationPolicy), change headers by a patch of VIRTUAL_HOST",
        )
