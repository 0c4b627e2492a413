"""DestinationRules with a subset for each version of a service, for contracts with a target such as
`version:v2`. Pure.

Versions are given by hand or found in pods' labels, as Istio's telemetry finds them. What cannot become a
subset is left out with a remark.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from devroute.contract import target
from devroute.contract.target import MAX_LABEL, Malformed, check_label
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.model import Document, manifest, metadata_of
from devroute.quoting import quote
from devroute.yaml_text import LOADER, read_documents

#: Labels that name a pod's service and version, in Istio's order of preference.
SERVICE_LABELS = ("service.istio.io/canonical-name", "app.kubernetes.io/name", "app")
VERSION_LABELS = ("service.istio.io/canonical-revision", "app.kubernetes.io/version", "version")
#: The label of versions that are given by hand.
DEFAULT_LABEL = "version"

#: A label's value (Kubernetes: metadata.labels).
_LABEL_VALUE = re.compile(r"[A-Za-z0-9](?:[-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?")
#: Phases in which a pod serves no requests.
_ENDED = ("Succeeded", "Failed")
#: Pods that are left out with a remark each; the rest is counted.
MAX_REMARKS = 20


@dataclass(frozen=True, slots=True)
class Service:
    """A service and its namespace, both DNS labels."""

    name: str
    namespace: str

    def __str__(self) -> str:
        return f"{self.name}.{self.namespace}"


@dataclass(slots=True)
class Versions:
    """For each service its subsets by name, each with the labels that select it; remarks about what is left
    out."""

    subsets: dict[Service, dict[str, dict[str, str]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def add(self, service: Service, label: str, version: str, *, repeated: str = "") -> None:
        """One version; `repeated` is the remark if it is known already, empty for pods, which share
        versions."""
        name = subset_name(version)
        if name is None:
            self.remarks.append(f"{service}: version {quote(version)} cannot be a subset's name: left out")
            return
        labels = {label: version}
        subsets = self.subsets.setdefault(service, {})
        known = subsets.get(name)
        if known is None:
            subsets[name] = labels
            if name != version:
                self.remarks.append(
                    f"{service}: version {quote(version)} becomes the subset {name}, since a subset's name "
                    f"consists of a-z, 0-9 and hyphens: contracts say version:{name}"
                )
        elif known != labels:
            other = ", ".join(f"{key}={value}" for key, value in known.items())
            remark = f"{service}: {label}={version} would be the subset {name}, which is {other}: left out"
            if remark not in self.remarks:
                self.remarks.append(remark)
        elif repeated:
            self.remarks.append(repeated)

    def rules(self, domain: str = "cluster.local") -> list[Document]:
        """The DestinationRules, in the order of namespaces, services and versions."""
        services = sorted(self.subsets, key=lambda each: (each.namespace, each.name))
        return [_rule(service, self.subsets[service], domain) for service in services]


def subset_name(version: str) -> str | None:
    """A version as a subset's name; None if it cannot be one."""
    return target.subset_name(version) if _LABEL_VALUE.fullmatch(version) else None


def from_arguments(arguments: Iterable[str], namespace: str = "default") -> Versions:
    """Versions given as `b=v1,v2` or `b.shop=v1,v2`. Raises ConfigInvalid naming the argument."""
    found = Versions()
    seen: set[Service] = set()
    for argument in arguments:
        key, equals, versions = argument.partition("=")
        if not equals or not versions.strip(","):
            raise ConfigInvalid(f"{quote(argument)}: write SERVICE=VERSION,VERSION such as b=v1,v2")
        try:
            service = _service(key, namespace)
        except Malformed as problem:
            raise ConfigInvalid(f"{quote(argument)}: {problem}") from None
        if service in seen:
            found.remarks.append(f"{service} is given twice: its versions are merged")
        seen.add(service)
        for version in filter(None, (each.strip() for each in versions.split(","))):
            found.add(
                service, DEFAULT_LABEL, version, repeated=f"{service}: version {version} is given twice"
            )
    return found


def _service(key: str, namespace: str) -> Service:
    """`b`, `b.shop`, or the service's full name in a cluster."""
    parts = key.split(".")
    if len(parts) > 2 and parts[2] != "svc":
        raise Malformed(f"{quote(key)} has too many dots; write a service as NAME or NAME.NAMESPACE")
    inside = parts[1] if len(parts) > 1 else namespace
    return Service(check_label(parts[0], "a service's name"), check_label(inside, "a namespace"))


def from_pods(text: str, source: str = "standard input") -> Versions:
    """Versions in the labels of pods, as `kubectl get pods -o yaml` (or -o json) prints them, or of
    Deployments and others with a pod template. Raises ConfigInvalid if there are none."""
    try:
        documents = read_documents(text, source, _TextLoader)
    except ConfigInvalid as error:
        raise ConfigInvalid(error.message, hint="try kubectl get pods -o yaml") from None
    found = Versions()
    objects = [each for document in documents for each in _objects(document)]
    pods = [each for each in map(_pod, objects) if each is not None]
    if not pods:
        raise ConfigInvalid(
            f"{source}: it has no pods",
            hint="kubectl get pods -o yaml | devroute manifests versions -",
        )
    left_out: list[str] = []
    for name, namespace, labels in pods:
        problem = _add_pod(found, namespace, labels)
        if problem:
            left_out.append(f"pod {quote(name)} of namespace {namespace}: {problem}: left out")
    if len(objects) != len(pods):
        found.remarks.append(
            f"{len(objects) - len(pods)} of {len(objects)} objects are not running pods: left out"
        )
    found.remarks += left_out[:MAX_REMARKS]
    if len(left_out) > MAX_REMARKS:
        found.remarks.append(f"and {len(left_out) - MAX_REMARKS} more pods are left out")
    return found


def _add_pod(found: Versions, namespace: str, labels: Mapping[str, str]) -> str | None:
    """Adds a pod's version, or returns what is missing."""
    named = next((key for key in SERVICE_LABELS if key in labels), None)
    if named is None:
        return f"it has none of the labels {', '.join(SERVICE_LABELS)}"
    versioned = next((key for key in VERSION_LABELS if key in labels), None)
    if versioned is None:
        return f"it has none of the labels {', '.join(VERSION_LABELS)}"
    try:
        service = Service(
            check_label(labels[named], f"{named}={labels[named]}"), check_label(namespace, "its namespace")
        )
    except Malformed as problem:
        return f"{problem} (give it by hand: SERVICE={labels[versioned]})"
    found.add(service, versioned, labels[versioned])
    return None


def _objects(document: object) -> list[Mapping[str, Any]]:
    """The document itself, or the items of a list."""
    if not isinstance(document, dict):
        return []
    items = document.get("items")
    if isinstance(items, list):
        return [each for each in items if isinstance(each, dict)]
    return [document]


def _pod(document: Mapping[str, Any]) -> tuple[str, str, dict[str, str]] | None:
    """Name, namespace and labels of a pod that may serve, or of a template's pods; None for anything else."""
    metadata = _mapping(document, "metadata")
    name, namespace = str(metadata.get("name", "?")), str(metadata.get("namespace") or "default")
    status, spec = _mapping(document, "status"), _mapping(document, "spec")
    if document.get("kind") != "Pod":
        template = _mapping(spec, "template")
        if "spec" not in template:
            return None
        metadata = _mapping(template, "metadata")
    elif status.get("phase") in _ENDED:
        return None
    labels = _mapping(metadata, "labels")
    return name, namespace, {str(key): str(value) for key, value in labels.items()}


def _mapping(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key)
    return value if isinstance(value, dict) else {}


def _rule(service: Service, subsets: Mapping[str, Mapping[str, str]], domain: str) -> Document:
    name = f"{service.name}-versions"
    metadata = metadata_of(name if len(name) <= MAX_LABEL else service.name, service.namespace)
    spec = {
        "host": f"{service}.svc.{domain}",
        "subsets": [{"name": each, "labels": dict(subsets[each])} for each in sorted(subsets)],
    }
    return manifest("networking.istio.io/v1", "DestinationRule", metadata, spec)


# libyaml if available: the pods of a large cluster take seconds with it, and a minute without.
class _TextLoader(LOADER):  # type: ignore[misc]
    """Everything is text: an unquoted label `version: 1.10` stays 1.10."""


_TextLoader.yaml_implicit_resolvers = {}
