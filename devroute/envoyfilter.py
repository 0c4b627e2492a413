"""Applies EnvoyFilters to the Istio-shaped configuration of a sidecar or a gateway, as istiod does. Pure.

Only the patches that devroute's own manifests use are known; anything else is an error that says so, since a
patch that is silently left out would let a test pass for a configuration that nobody ships.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from devroute.errors import ConfigInvalid
from devroute.sidecar import HCM, Document

#: Where istiod keeps the EnvoyFilters of the whole mesh.
ROOT_NAMESPACE = "istio-system"

#: A patch's context: the kind of proxy, which is the first part of a node's id, and the direction of the
#: listeners that it is for.
CONTEXTS = {
    "SIDECAR_INBOUND": ("sidecar", "INBOUND"),
    "SIDECAR_OUTBOUND": ("sidecar", "OUTBOUND"),
    "GATEWAY": ("router", "OUTBOUND"),
}


class Workload(Protocol):
    """What an EnvoyFilter selects by: a Sidecar or a Gateway."""

    @property
    def namespace(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...


def apply(filters: Iterable[Document], workload: Workload, configuration: Document) -> Document:
    """The configuration with the patches of all EnvoyFilters that select this workload.

    The root namespace's come first, as with istiod. Raises ConfigInvalid for a patch that is not supported.
    """
    patched = copy.deepcopy(configuration)
    chosen = [each for each in filters if selects(each, workload)]
    chosen.sort(key=lambda each: each["metadata"]["namespace"] != ROOT_NAMESPACE)
    for each in chosen:
        for number, patch in enumerate(each["spec"]["configPatches"]):
            _apply_patch(patch, patched, f"EnvoyFilter {each['metadata']['name']}: configPatches[{number}]")
    return patched


def selects(envoy_filter: Document, workload: Workload) -> bool:
    """Whether an EnvoyFilter is meant for this workload."""
    if envoy_filter["metadata"]["namespace"] not in (ROOT_NAMESPACE, workload.namespace):
        return False
    labels: Mapping[str, str] = envoy_filter["spec"].get("workloadSelector", {}).get("labels", {})
    return labels.items() <= workload.labels.items()


def _apply_patch(patch: Document, configuration: Document, place: str) -> None:
    key = (patch["applyTo"], patch["patch"]["operation"])
    apply_to = PATCHES.get(key)
    if apply_to is None:
        known = ", ".join(" ".join(each) for each in PATCHES)
        _unsupported(f"{place}: {' '.join(key)} is not supported", f"supported are {known}")
    match = dict(patch.get("match", {}))
    context = CONTEXTS.get(match.pop("context", ""))
    if context is None:
        _unsupported(f"{place}: match.context has to be one of {', '.join(CONTEXTS)}")
    kind = configuration["node"]["id"].partition("~")[0]
    managers = [
        network_filter["typed_config"]
        for listener in configuration["static_resources"]["listeners"]
        if context == (kind, listener["traffic_direction"])
        for chain in listener["filter_chains"]
        for network_filter in chain["filters"]
        if network_filter["name"] == HCM
    ]
    for manager in managers:
        apply_to(manager, match, patch["patch"]["value"], place)


def _insert_filter(manager: Document, match: Document, value: Document, place: str) -> None:
    try:
        network_filter = match["listener"]["filterChain"]["filter"]
        before = network_filter["subFilter"]["name"]
    except KeyError:
        _unsupported(f"{place}: match.listener.filterChain.filter needs a subFilter with a name")
    _only(match, {"listener"}, place)
    _only(match["listener"], {"filterChain"}, place)
    if network_filter["name"] != HCM:
        _unsupported(f"{place}: the only network filter that is supported is {HCM}")
    http_filters: list[Document] = manager["http_filters"]
    for index, each in enumerate(http_filters):
        if each["name"] == before:
            http_filters.insert(index, copy.deepcopy(value))
            return


def _insert_route(manager: Document, match: Document, value: Document, place: str) -> None:
    for host in _virtual_hosts(manager, match, place):
        host["routes"].insert(0, copy.deepcopy(value))


def _merge_host(manager: Document, match: Document, value: Document, place: str) -> None:
    for host in _virtual_hosts(manager, match, place):
        merge(host, value)


def _virtual_hosts(manager: Document, match: Document, place: str) -> Iterator[Document]:
    _only(match, {"routeConfiguration"}, place)
    wanted: Document = match.get("routeConfiguration", {})
    _only(wanted, {"name", "vhost"}, place)
    _only(wanted.get("vhost", {}), {"name"}, place)
    routes = manager["route_config"]
    if wanted.get("name", routes["name"]) != routes["name"]:
        return
    for host in routes["virtual_hosts"]:
        if wanted.get("vhost", host).get("name", host["name"]) == host["name"]:
            yield host


def merge(into: Document, value: Document) -> None:
    """Merge as protobuf does: messages recursively, lists appended, everything else replaced."""
    for key, new in value.items():
        old: Any = into.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            merge(old, new)
        elif isinstance(old, list) and isinstance(new, list):
            old.extend(copy.deepcopy(new))
        else:
            into[key] = copy.deepcopy(new)


def _only(found: Document, known: set[str], place: str) -> None:
    unknown: Sequence[str] = sorted(found.keys() - known)
    if unknown:
        _unsupported(f"{place}: a match by {', '.join(unknown)} is not supported")


def _unsupported(message: str, hint: str | None = None) -> NoReturn:
    raise ConfigInvalid(message, hint=hint)


PATCHES: dict[tuple[str, str], Callable[[Document, Document, Document, str], None]] = {
    ("HTTP_FILTER", "INSERT_BEFORE"): _insert_filter,
    ("HTTP_ROUTE", "INSERT_FIRST"): _insert_route,
    ("VIRTUAL_HOST", "MERGE"): _merge_host,
}
