"""What teams configure beside devroute, as EnvoyFilters."""

from typing import Any

from devroute.mesh.istio.sidecar import HCM, Document


def team(name: str, config: Document, per_route: Document, action: str = "ANY") -> Document:
    """An EnvoyFilter of a team: a filter, and its settings merged onto the service's routes."""
    listener = {"filterChain": {"filter": {"name": HCM}}}
    inserted = {"name": name, "typed_config": config}
    route = {"typed_per_filter_config": {name: per_route}}
    vhost = {"name": "inbound|http|8080", "route": {"action": action}}
    patches = [
        patch_of("HTTP_FILTER", "INSERT_BEFORE", inserted, listener=listener),
        patch_of("HTTP_ROUTE", "MERGE", route, routeConfiguration={"vhost": vhost}),
    ]
    return {"metadata": {"name": "team", "namespace": "default"}, "spec": {"configPatches": patches}}


def patch_of(apply_to: str, operation: str, value: Document, **match: Any) -> Document:
    match = {"context": "SIDECAR_INBOUND", **match}
    return {"applyTo": apply_to, "match": match, "patch": {"operation": operation, "value": value}}
