"""Istio's rules for EnvoyFilters and TrafficExtensions, as far as one file shows whether they are kept. Pure.

Envoy validates the configuration that results from the patches (mesh/preflight/check.py); this finds what
never reaches Envoy: patches that Istio ignores, refuses, or puts in unexpected places.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

from devroute.mesh.manifests.model import Document
from devroute.quoting import quote


class Release(NamedTuple):
    """A release of Istio and the Envoy that it is built on, both as major.minor."""

    istio: str
    envoy: str


#: Matched by date: Istio takes the Envoy of the previous quarter.
RELEASES = (
    Release("1.28", "1.36"),
    Release("1.29", "1.37"),
    Release("1.30", "1.38"),
    Release("1.31", "1.39"),
    Release("1.32", "1.40"),
)
ALL = frozenset(RELEASES)
#: The first Istio with TrafficExtension.
EXTENSIONS_SINCE = "1.30"
#: Characters of a TrafficExtension's Lua (its CRD).
MAX_INLINE_LUA = 65536

APPLY_TO = (
    "LISTENER",
    "FILTER_CHAIN",
    "NETWORK_FILTER",
    "HTTP_FILTER",
    "ROUTE_CONFIGURATION",
    "VIRTUAL_HOST",
    "HTTP_ROUTE",
    "CLUSTER",
    "EXTENSION_CONFIG",
    "BOOTSTRAP",
    "LISTENER_FILTER",
)
OPERATIONS = ("MERGE", "ADD", "REMOVE", "INSERT_BEFORE", "INSERT_AFTER", "INSERT_FIRST", "REPLACE")
CONTEXTS = ("SIDECAR_INBOUND", "SIDECAR_OUTBOUND", "GATEWAY", "WAYPOINT", "ANY")
#: Where a match may have parts, each a mapping.
_MATCH_PARTS = (
    ("proxy",),
    ("listener",),
    ("listener", "filterChain"),
    ("listener", "filterChain", "filter"),
    ("listener", "filterChain", "filter", "subFilter"),
    ("routeConfiguration",),
    ("routeConfiguration", "vhost"),
    ("routeConfiguration", "vhost", "route"),
    ("cluster",),
)
#: Where order matters.
_ORDERED = ("NETWORK_FILTER", "HTTP_FILTER", "HTTP_ROUTE", "LISTENER_FILTER")


class ManifestFinding(NamedTuple):
    """What is wrong, where, what to do about it, and in which releases."""

    severity: Literal["error", "warning"]
    place: str
    problem: str
    hint: str = ""
    releases: frozenset[Release] = ALL


def envoy_filter(document: Document) -> Iterator[ManifestFinding]:
    """An EnvoyFilter without its patches (`patch`). Places are paths in the document."""
    if document.get("apiVersion") != "networking.istio.io/v1alpha3":
        yield _error(
            "apiVersion",
            f"{quote(str(document.get('apiVersion')))} has no EnvoyFilter",
            "write networking.istio.io/v1alpha3",
        )
    spec = document.get("spec")
    if not isinstance(spec, Mapping):
        yield _error("spec", "is missing")
        return
    if "filters" in spec or "workloadLabels" in spec:
        yield _error("spec", "has the form that Istio dropped in 1.5", "write spec.configPatches")
    if "workloadSelector" in spec and "targetRefs" in spec:
        yield _error("spec", "has both workloadSelector and targetRefs", "write one of them")
    selector = spec.get("workloadSelector")
    if selector is not None and not (isinstance(selector, Mapping) and _labels(selector.get("labels"))):
        hint = "write workloadSelector: {labels: {app: b}}, or leave it out for the whole namespace"
        yield _error("spec.workloadSelector", "has no labels", hint)
    patches = spec.get("configPatches")
    if not isinstance(patches, list) or not patches:
        yield _error("spec.configPatches", "has no patch")


def _labels(found: object) -> bool:
    return isinstance(found, Mapping) and all(isinstance(each, str) for each in found.values())


def patch(found: object) -> Iterator[ManifestFinding]:
    """One of `configPatches`. An error means that it cannot be applied."""
    if not isinstance(found, Mapping):
        yield _error("", "is not a mapping")
        return
    apply_to, inner = found.get("applyTo"), found.get("patch")
    if apply_to not in APPLY_TO:
        yield _error("applyTo", f"{quote(str(apply_to))} is not one of {', '.join(APPLY_TO)}")
        return
    if not isinstance(inner, Mapping) or inner.get("operation") not in OPERATIONS:
        operation = inner.get("operation") if isinstance(inner, Mapping) else None
        yield _error("patch.operation", f"{quote(str(operation))} is not one of {', '.join(OPERATIONS)}")
        return
    yield from _operation(str(apply_to), str(inner["operation"]), inner.get("value"))
    yield from _match(found.get("match"), str(apply_to), str(inner["operation"]))


def _operation(apply_to: str, operation: str, value: object) -> Iterator[ManifestFinding]:
    if operation.startswith("INSERT") and apply_to not in _ORDERED:
        yield _error(
            "patch.operation", f"Istio ignores {operation} for {apply_to}, which has no order", "write ADD"
        )
    if operation == "REPLACE" and apply_to not in ("HTTP_FILTER", "NETWORK_FILTER"):
        yield _error("patch.operation", f"Istio replaces filters only, and ignores this for a {apply_to}")
    if operation == "REMOVE":
        return
    if not isinstance(value, Mapping):
        yield _error("patch.value", "is missing")
        return
    if apply_to.endswith("FILTER") and operation != "MERGE" and not isinstance(value.get("name"), str):
        yield _error("patch.value.name", "is missing")
    for place, each in _inside(value, "patch.value"):
        if isinstance(each, Mapping) and "name" in each and "config" in each and "typed_config" not in each:
            yield _error(
                f"{place}.config",
                "Envoy needs a filter's type, and Istio refuses a filter without one since 1.7",
                "write typed_config with its @type",
            )
        elif isinstance(each, str) and place.endswith("@type") and re.search(r"\.v2(alpha\d*)?\.", each):
            yield _error(
                place, f"{quote(each)} is of Envoy's API v2, which was removed", "use the type of v3"
            )
        elif each == "ACCEPT_UNTRUSTED":
            yield _warning(
                place,
                "callers may present certificates that no authority signed; `from` and `callers` of devroute"
                " would believe them",
                "leave trust_chain_verification out",
            )


def _match(match: object, apply_to: str, operation: str) -> Iterator[ManifestFinding]:
    if match is None:
        match = {}
    if not isinstance(match, Mapping):
        yield _error("match", "is not a mapping")
        return
    for path in _MATCH_PARTS:
        above = value_at(match, *path[:-1])
        if isinstance(above, Mapping) and path[-1] in above and not isinstance(above[path[-1]], Mapping):
            yield _error(".".join(("match", *path)), "is not a mapping")
    context = match.get("context", "ANY")
    if context not in CONTEXTS:
        yield _error("match.context", f"{quote(str(context))} is not one of {', '.join(CONTEXTS)}")
    if "context" not in match and (apply_to, operation) == ("CLUSTER", "ADD"):
        yield _warning(
            "match.context",
            "is missing: Istio then adds no cluster to the inbound side of sidecars",
            "name it: SIDECAR_INBOUND",
        )
    version = value_at(match, "proxy", "proxyVersion")
    if version is not None:
        try:
            re.compile(str(version))
        except re.error as error:
            yield _error("match.proxy.proxyVersion", f"is not a regular expression: {error}")


def applies(found: Document, release: Release) -> bool:
    """Whether a patch's `proxyVersion` matches any patch release of a release."""
    version = value_at(found.get("match"), "proxy", "proxyVersion")
    return version is None or any(re.search(str(version), f"{release.istio}.{patch}") for patch in range(20))


def traffic_extension(document: Document) -> Iterator[ManifestFinding]:
    """A TrafficExtension; Envoy validates its Lua."""
    older = frozenset(each for each in RELEASES if _number(each.istio) < _number(EXTENSIONS_SINCE))
    if older:
        problem = f"TrafficExtension came with Istio {EXTENSIONS_SINCE}"
        yield ManifestFinding("error", "kind", problem, "use an EnvoyFilter", older)
    spec = document.get("spec")
    if not isinstance(spec, Mapping):
        yield _error("spec", "is missing")
        return
    if "selector" in spec and "targetRefs" in spec:
        yield _error(
            "spec", "has both selector and targetRefs", "write one of them; waypoints need targetRefs"
        )
    if ("lua" in spec) == ("wasm" in spec):
        yield _error("spec", "needs either lua or wasm")
    code = value_at(spec, "lua", "inlineCode")
    if "lua" in spec and not isinstance(code, str):
        yield _error("spec.lua.inlineCode", "is missing")
    elif isinstance(code, str) and len(code) > MAX_INLINE_LUA:
        yield _error("spec.lua.inlineCode", f"has {len(code)} characters; {MAX_INLINE_LUA} are allowed")


def traffic_policies(document: Document) -> list[Any]:
    """Of a DestinationRule: that for all ports, and those for single ones."""
    policy = value_at(document, "spec", "trafficPolicy")
    ports = value_at(policy, "portLevelSettings")
    return [policy, *(ports if isinstance(ports, list) else ())]


def destination_rule(document: Document) -> Iterator[ManifestFinding]:
    """A DestinationRule: what devroute needs of it, beyond its schema (mesh/preflight/schemas.py)."""
    spec = document.get("spec")
    if not isinstance(spec, Mapping):
        yield _error("spec", "is missing")
        return
    subsets = spec.get("subsets")
    for number, subset in enumerate(subsets if isinstance(subsets, list) else ()):
        name = value_at(subset, "name")
        if isinstance(name, str) and not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", name):
            hint = "a-z, 0-9 and inner hyphens; devroute manifests versions makes such names"
            yield _error(f"spec.subsets[{number}].name", f"{quote(name)} is not a subset's name", hint)
    if str(spec.get("host", "")).split(".")[0] != "devroute-proxy":
        return
    policies = traffic_policies(document)
    if not any(value_at(each, "connectionPool", "http", "useClientProtocol") is True for each in policies):
        yield _warning(
            "spec.trafficPolicy.connectionPool.http.useClientProtocol",
            "is not true: detoured gRPC reaches the proxy as HTTP/1.1 and fails",
            "set it to true",
        )
    if value_at(spec, "trafficPolicy", "outlierDetection") is not None:
        problem = "ejects the proxy for everyone when one laptop fails"
        yield _warning("spec.trafficPolicy.outlierDetection", problem, "remove it")


def clusters_named(value: object) -> set[tuple[int, str]]:
    """Port and host of every outbound cluster that a value names, also within Lua."""
    found = set()
    for _, each in _inside(value, ""):
        if isinstance(each, str):
            found |= {
                (int(m[1]), m[2]) for m in re.finditer(r"outbound\|(\d{1,5})\|[^|\s]*\|([a-z0-9.-]+)", each)
            }
    return found


def _inside(value: object, place: str) -> Iterator[tuple[str, object]]:
    """A value and all values inside it, with their places."""
    yield place, value
    if isinstance(value, Mapping):
        for key, each in value.items():
            yield from _inside(each, f"{place}.{key}")
    elif isinstance(value, list):
        for number, each in enumerate(value):
            yield from _inside(each, f"{place}[{number}]")


def value_at(value: object, *keys: str) -> Any:
    """A value inside mappings; None where one of them is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(release: str) -> tuple[int, ...]:
    return tuple(map(int, release.split(".")))


def _warning(place: str, problem: str, hint: str) -> ManifestFinding:
    return ManifestFinding("warning", place, problem, hint)


def _error(place: str, problem: str, hint: str = "") -> ManifestFinding:
    return ManifestFinding("error", place, problem, hint)
