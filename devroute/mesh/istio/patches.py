"""What each kind of EnvoyFilter patch does to an Envoy configuration, as istiod does it. Pure.

Owns the places that a patch's match names, the operations there, and which of them come first: of routes
istiod merges before it inserts, of HTTP filters it inserts before it merges, whatever the order of the
EnvoyFilters (istio/pilot/pkg/networking/core/envoyfilter). A patch that it cannot apply raises `Unknown`:
ignored, it would let tests pass on a configuration that is not what istiod makes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from devroute.mesh.istio.sidecar import HCM, Document


class Unknown(Exception):
    """A patch that cannot be applied here; the text names the part."""


def supported(apply_to: str, operation: str) -> bool:
    return operation in _KINDS.get(apply_to, (None, ()))[1]


def known() -> str:
    """What can be applied, for messages."""
    return "; ".join(f"{kind} {', '.join(operations)}" for kind, (_, operations) in _KINDS.items())


def apply_to_listener(
    listener: Document, apply_to: str, operation: str, match: Document, value: Document
) -> None:
    """Apply a patch to a listener that its context selects. Raises Unknown."""
    _KINDS[apply_to][0](listener, operation, match, value)


def apply_to_clusters(clusters: list[Document], operation: str, match: Document, value: Document) -> None:
    """Apply a patch of CLUSTER. Raises Unknown."""
    only(match, {"cluster"})
    wanted: Document = match.get("cluster", {})
    only(wanted, {"name", "service", "portNumber", "subset"})
    if operation == "ADD":
        clusters.append(copy.deepcopy(value))
        return
    _change(clusters, operation, lambda each: _is_cluster(each, wanted), value)


def _is_cluster(cluster: Document, wanted: Document) -> bool:
    """By its whole name, else by the parts of it: direction|port|subset|host."""
    if "name" in wanted:
        return bool(cluster["name"] == wanted["name"])
    parts = dict(
        zip(("direction", "portNumber", "subset", "service"), cluster["name"].split("|"), strict=False)
    )
    return all(str(each) == parts.get(key) for key, each in wanted.items())


# --- listeners ----------------------------------------------------------------------------------------------


def _network_filter(listener: Document, operation: str, match: Document, value: Document) -> None:
    for found in _network_filters(listener, match):
        merge(found, value)


def _http_filter(listener: Document, operation: str, match: Document, value: Document) -> None:
    network_filter = match.get("listener", {}).get("filterChain", {}).get("filter", {})
    only(network_filter, {"name", "subFilter"})
    only(network_filter.get("subFilter", {}), {"name"})
    name = network_filter.get("subFilter", {}).get("name")
    for found in _network_filters(listener, match):
        filters: list[Document] = found["typed_config"]["http_filters"]
        if operation == "MERGE":
            for each in filters:
                if name in (None, each.get("name")):
                    _merge_filter(each, value)
        elif operation in ("REMOVE", "REPLACE"):
            if name is not None:  # without one, istiod does nothing
                _each_named(filters, operation, name, value)
        else:
            found_by = None if name is None else lambda each: each.get("name") == name
            if operation == "INSERT_FIRST":
                found_by = None  # whether or not there is one of that name
            _insert(filters, operation, found_by, value)


def _merge_filter(into: Document, value: Document) -> None:
    """istiod leaves a filter alone whose settings are discovered, and settings of another type."""
    ours, theirs = into.get("typed_config"), value.get("typed_config")
    if ours is None:
        return
    if "name" in value:
        into["name"] = value["name"]
    if theirs is not None and ours.get("@type") == theirs.get("@type", ours.get("@type")):
        merge(ours, theirs)


def _network_filters(listener: Document, match: Document) -> Iterator[Document]:
    """The HTTP connection managers of a listener that match; there are no other network filters."""
    only(match, {"listener"})
    wanted: Document = match.get("listener", {})
    only(wanted, {"name", "portNumber", "filterChain"})
    only(wanted.get("filterChain", {}), {"filter"})
    name = wanted.get("filterChain", {}).get("filter", {}).get("name", HCM)
    if name != HCM:
        raise Unknown(f"the only network filter that is supported is {HCM}")
    if wanted.get("name", listener["name"]) != listener["name"]:
        return
    for chain in listener["filter_chains"]:
        for found in chain["filters"]:
            # Istio's prefix ends with the port: inbound_0.0.0.0_8080.
            port = str(found["typed_config"].get("stat_prefix")).rpartition("_")[2]
            if found["name"] == HCM and str(wanted.get("portNumber", port)) == port:
                yield found


# --- routes -------------------------------------------------------------------------------------------------


def _route_configuration(listener: Document, operation: str, match: Document, value: Document) -> None:
    for routes in _route_configurations(listener, match):
        merge(routes, value)


def _virtual_host(listener: Document, operation: str, match: Document, value: Document) -> None:
    name = match.get("routeConfiguration", {}).get("vhost", {}).get("name")
    for routes in _route_configurations(listener, match):
        hosts: list[Document] = routes["virtual_hosts"]
        if operation == "ADD":
            hosts.append(copy.deepcopy(value))
        else:
            _each_named(hosts, operation, name, value)


def _http_route(listener: Document, operation: str, match: Document, value: Document) -> None:
    vhost: Document = match.get("routeConfiguration", {}).get("vhost", {})
    wanted: Document | None = vhost.get("route")
    only(wanted or {}, {"name", "action"})
    for configuration in _route_configurations(listener, match):
        for host in configuration["virtual_hosts"]:
            if "name" in vhost and vhost["name"] != host.get("name"):
                continue
            routes = host.setdefault("routes", [])
            if not isinstance(routes, list):
                raise Unknown("the routes of a virtual host are not a list")
            matches = partial(_is_route, wanted=wanted or {})
            if operation in ("MERGE", "REMOVE"):
                _change(routes, operation, matches, value)
            else:
                _insert(routes, operation, matches if wanted is not None else None, value)


def _is_route(route: Document, wanted: Document) -> bool:
    """Routes are matched by name and by what they do."""
    action = wanted.get("action", "ANY")
    key = {"ROUTE": "route", "REDIRECT": "redirect", "DIRECT_RESPONSE": "direct_response"}.get(action)
    if key is None and action != "ANY":
        raise Unknown(f"a route's action {action} is not one of ANY, ROUTE, REDIRECT, DIRECT_RESPONSE")
    named = wanted.get("name") in (None, "", route.get("name"))
    return named and (key is None or key in route)


def _route_configurations(listener: Document, match: Document) -> Iterator[Document]:
    only(match, {"routeConfiguration"})
    wanted: Document = match.get("routeConfiguration", {})
    only(wanted, {"name", "portNumber", "vhost"})
    only(wanted.get("vhost", {}), {"name", "route"})
    by_port = {key: port for key, port in wanted.items() if key == "portNumber"}
    for found in _network_filters(listener, {"listener": by_port}):
        routes: Document = found["typed_config"]["route_config"]
        if wanted.get("name", routes["name"]) == routes["name"]:
            yield routes


# --- operations ---------------------------------------------------------------------------------------------


def _insert(
    into: list[Document], operation: str, found: Callable[[Document], bool] | None, value: Document
) -> None:
    """Without a match, before and after mean first and last. If nothing matches, nothing happens."""
    new = copy.deepcopy(value)
    if operation == "ADD" or (found is None and operation == "INSERT_AFTER"):
        into.append(new)
        return
    index = 0 if found is None else next((n for n, each in enumerate(into) if found(each)), None)
    if index is not None:
        into.insert(0 if operation == "INSERT_FIRST" else index + (operation == "INSERT_AFTER"), new)


def _each_named(items: list[Document], operation: str, name: str | None, value: Document) -> None:
    """MERGE, REMOVE and REPLACE: the items with a name, or all."""
    _change(items, operation, lambda each: name in (None, each.get("name")), value)


def _change(
    items: list[Document], operation: str, found: Callable[[Document], bool], value: Document
) -> None:
    for index in reversed(range(len(items))):
        if not found(items[index]):
            continue
        if operation == "REMOVE":
            del items[index]
        elif operation == "REPLACE":
            items[index] = copy.deepcopy(value)
        else:
            merge(items[index], value)


#: Fields of Envoy's API that are maps, of which a merge replaces whole values.
_MAPS = ("typed_per_filter_config", "typed_extension_protocol_options", "filter_metadata")


def merge(into: Document, value: Document) -> None:
    """Merge as protobuf does: messages recursively, lists appended, everything else replaced, in maps the
    values of keys. Raises Unknown for two values of different kinds, which protobuf refuses."""
    for key, new in value.items():
        old: Any = into.get(key)
        if key in _MAPS and isinstance(old, dict) and isinstance(new, dict):
            old.update(copy.deepcopy(new))
        elif isinstance(old, dict) and isinstance(new, dict):
            merge(old, new)
        elif isinstance(old, list) and isinstance(new, list) and {*map(type, old)} >= {*map(type, new)}:
            old.extend(copy.deepcopy(new))
        elif isinstance(old, dict | list) and old:
            raise Unknown(f"{key} cannot be merged with a value of another kind")
        else:
            into[key] = copy.deepcopy(new)


def only(found: Document, known: set[str]) -> None:
    """Raises Unknown for a part of a match that would be ignored."""
    unknown: Sequence[str] = sorted(found.keys() - known)
    if unknown:
        raise Unknown(f"a match by {', '.join(unknown)} is not supported")


_INSERTS = ("ADD", "INSERT_FIRST", "INSERT_BEFORE", "INSERT_AFTER")
_CHANGES = ("MERGE", "REMOVE")

_KINDS: dict[str, tuple[Callable[[Document, str, Document, Document], None], tuple[str, ...]]] = {
    "NETWORK_FILTER": (_network_filter, ("MERGE",)),
    "HTTP_FILTER": (_http_filter, (*_INSERTS, *_CHANGES, "REPLACE")),
    "ROUTE_CONFIGURATION": (_route_configuration, ("MERGE",)),
    "VIRTUAL_HOST": (_virtual_host, ("ADD", *_CHANGES)),
    "HTTP_ROUTE": (_http_route, (*_INSERTS, *_CHANGES)),
    "CLUSTER": (lambda *_: None, ("ADD", *_CHANGES)),
    "EXTENSION_CONFIG": (lambda *_: None, ("ADD",)),
}

#: Of all patches for a proxy, those that istiod applies first.
_ORDER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("CLUSTER", _CHANGES),
    ("CLUSTER", ("ADD",)),
    ("NETWORK_FILTER", ("MERGE",)),
    ("HTTP_FILTER", (*_INSERTS, "REMOVE", "REPLACE")),
    ("HTTP_FILTER", ("MERGE",)),
    ("ROUTE_CONFIGURATION", ("MERGE",)),
    ("VIRTUAL_HOST", _CHANGES),
    ("HTTP_ROUTE", _CHANGES),
    ("HTTP_ROUTE", _INSERTS),
    ("VIRTUAL_HOST", ("ADD",)),
)


def turn(patch: Document) -> int:
    """Among all patches for a proxy, lower ones are applied first."""
    kind, operation = patch["applyTo"], patch["patch"]["operation"]
    return next((n for n, (each, of) in enumerate(_ORDER) if each == kind and operation in of), len(_ORDER))
