"""Applies EnvoyFilters to the Istio-shaped configuration of a sidecar or a gateway, as istiod does. Pure.

Owns which filter selects which workload, and in which order; mesh/istio/patches.py has what a patch does.
"""

import copy
from collections.abc import Iterable, Mapping

from devroute.errors import ConfigInvalid
from devroute.mesh.istio import extension_configs
from devroute.mesh.istio.gateway import Gateway
from devroute.mesh.istio.patches import (
    Unknown,
    apply_to_clusters,
    apply_to_listener,
    known,
    supported,
    turn,
)
from devroute.mesh.istio.rules import RELEASES, Release, applies
from devroute.mesh.istio.sidecar import Document, Sidecar

#: The namespace whose EnvoyFilters are for the whole mesh.
ROOT_NAMESPACE = "istio-system"

#: A patch's context: the kind of proxy, which is the first part of a node's id, and the direction of the
#: listeners that it is for.
CONTEXTS = {
    "SIDECAR_INBOUND": ("sidecar", "INBOUND"),
    "SIDECAR_OUTBOUND": ("sidecar", "OUTBOUND"),
    "GATEWAY": ("router", "OUTBOUND"),
}


def apply(
    filters: Iterable[Document],
    workload: Sidecar | Gateway,
    configuration: Document,
    release: Release = RELEASES[-1],
) -> Document:
    """The configuration with the patches of all EnvoyFilters that select this workload, whose proxy is of
    this release.

    As with istiod, those of a lower priority come first, then the root namespace's, then the older ones
    (here: in the order given); `turn` has what comes first among their patches. Raises ConfigInvalid for a
    patch that is not supported.
    """
    patched = copy.deepcopy(configuration)
    chosen = [each for each in filters if selects(each, workload)]
    chosen.sort(key=lambda each: each["metadata"]["namespace"] != ROOT_NAMESPACE)
    chosen.sort(key=lambda each: each["spec"].get("priority", 0))
    patches = [
        (patch, f"EnvoyFilter {each['metadata']['name']}: configPatches[{number}]")
        for each in chosen
        for number, patch in enumerate(each["spec"]["configPatches"])
        if applies(patch, release)
    ]
    for patch, place in sorted(patches, key=lambda each: turn(each[0])):
        _apply_patch(patch, patched, place)
    return patched


def selects(envoy_filter: Document, workload: Sidecar | Gateway) -> bool:
    """Whether an EnvoyFilter selects this workload."""
    if envoy_filter["metadata"]["namespace"] not in (ROOT_NAMESPACE, workload.namespace):
        return False
    labels: Mapping[str, str] = envoy_filter["spec"].get("workloadSelector", {}).get("labels", {})
    return labels.items() <= workload.labels.items()


def _apply_patch(patch: Document, configuration: Document, place: str) -> None:
    apply_to, operation = patch["applyTo"], patch["patch"]["operation"]
    if not supported(apply_to, operation):
        raise ConfigInvalid(
            f"{place}: {apply_to} {operation} is not supported", hint=f"supported are {known()}"
        )
    match = dict(patch.get("match", {}))
    if match.get("proxy", {}).keys() == {"proxyVersion"}:  # which `applies` has judged
        del match["proxy"]
    context = CONTEXTS.get(match.pop("context", ""))
    if context is None:
        raise ConfigInvalid(f"{place}: match.context has to be one of {', '.join(CONTEXTS)}")
    kind = configuration["node"]["id"].partition("~")[0]
    resources, value = configuration["static_resources"], patch["patch"].get("value", {})
    try:
        if apply_to == "EXTENSION_CONFIG" and context[0] == kind:
            extension_configs.add(configuration, value)
        if apply_to == "CLUSTER" and context[0] == kind:
            apply_to_clusters(resources["clusters"], operation, match, value)
        for listener in resources["listeners"]:
            if context == (kind, listener["traffic_direction"]):
                apply_to_listener(listener, apply_to, operation, match, value)
    except Unknown as problem:
        raise ConfigInvalid(f"{place}: {problem}") from None
