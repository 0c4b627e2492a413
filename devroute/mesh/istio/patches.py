"""What each kind of EnvoyFilter patch does to an Envoy configuration, as istiod does it. Pure.

Owns the places that a patch's match names, and the operations there. A patch that it cannot apply raises
`Unknown`; ignored, it would let tests pass on a configuration that is not what istiod makes.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
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
    only(wanted, {"name"})
    if operation == "ADD":
        clusters.append(copy.deepcopy(value))
        return
    _each_named(clusters, operation, wanted.get("name"), value)


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
        if operation in ("MERGE", "REMOVE", "REPLACE"):
            if name is not None:  # without one, istiod does nothing
                _each_named(filters, operation, name, value)
        else:
            _insert(filters, operation, name, value)


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
    wanted: Document = vhost.get("route", {})
    only(wanted, {"name"})
    for configuration in _route_configurations(listener, match):
        for host in configuration["virtual_hosts"]:
            if "name" in vhost and vhost["name"] != host.get("name"):
                continue
            routes = host.setdefault("routes", [])
            if not isinstance(routes, list):
                raise Unknown("the routes of a virtual host are not a list")
            if operation in ("MERGE", "REMOVE"):
                _each_named(routes, operation, wanted.get("name"), value)
            else:
                _insert(routes, operation, wanted.get("name"), value)


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


def _insert(into: list[Document], operation: str, name: str | None, value: Document) -> None:
    """Without a name, before and after mean first and last. If the name is not found, nothing happens."""
    new = copy.deepcopy(value)
    if operation == "INSERT_FIRST" or (operation == "INSERT_BEFORE" and name is None):
        into.insert(0, new)
    elif operation == "ADD" or name is None:
        into.append(new)
    else:
        index = next((index for index, each in enumerate(into) if each.get("name") == name), None)
        if index is not None:
            into.insert(index + (operation == "INSERT_AFTER"), new)


def _each_named(items: list[Document], operation: str, name: str | None, value: Document) -> None:
    """MERGE, REMOVE and REPLACE: the items with a name, or all."""
    for index in reversed(range(len(items))):
        if name is not None and items[index].get("name") != name:
            continue
        if operation == "REMOVE":
            del items[index]
        elif operation == "REPLACE":
            items[index] = copy.deepcopy(value)
        else:
            merge(items[index], value)


def merge(into: Document, value: Document) -> None:
    """Merge as protobuf does: messages recursively, lists appended, everything else replaced. Raises Unknown
    for two values of different kinds, which protobuf refuses."""
    for key, new in value.items():
        old: Any = into.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
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

_KINDS: dict[str, tuple[Callable[[Document, str, Document, Document], None], tuple[str, ...]]] = {
    "NETWORK_FILTER": (_network_filter, ("MERGE",)),
    "HTTP_FILTER": (_http_filter, (*_INSERTS, "MERGE", "REMOVE", "REPLACE")),
    "ROUTE_CONFIGURATION": (_route_configuration, ("MERGE",)),
    "VIRTUAL_HOST": (_virtual_host, ("ADD", "MERGE", "REMOVE")),
    "HTTP_ROUTE": (_http_route, (*_INSERTS, "MERGE", "REMOVE")),
    "CLUSTER": (lambda *_: None, ("ADD", "MERGE", "REMOVE")),
}
