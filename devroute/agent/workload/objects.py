"""Kubernetes objects of a text, in any number of documents and lists, and the container that is meant."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from devroute.errors import ConfigInvalid
from devroute.quoting import printable, quote
from devroute.yaml_text import read_documents

#: Where a kind of workload has its pod, from the root on; first where most have it.
_PODS: Final = (("spec", "template"), ("spec", "jobTemplate", "spec", "template"))

#: Containers that injectors of a mesh add.
_SIDECARS: Final = frozenset(("istio-proxy", "istio-validation", "linkerd-proxy"))
#: Of a workload: the container that kubectl means without -c.
_DEFAULT_CONTAINER: Final = "kubectl.kubernetes.io/default-container"
#: Labels by which an app calls its workloads.
_APP_LABELS: Final = ("app", "app.kubernetes.io/name")

#: Objects and containers that a message lists.
_LISTED: Final = 12

Object = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Workload:
    """A workload and its pod, with metadata and spec. `namespace`: "" if the text does not say. `owned`:
    another object has made it, as a Deployment its ReplicaSets."""

    kind: str
    name: str
    namespace: str
    pod: Object
    owned: bool = False

    def __str__(self) -> str:
        place = f" in {self.namespace}" if self.namespace else ""
        return printable(f"{self.kind} {self.name}{place}")

    @property
    def metadata(self) -> Object:
        return mapping(self.pod.get("metadata"))

    @property
    def spec(self) -> Object:
        return mapping(self.pod.get("spec"))


def mapping(value: object) -> Object:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def listed(value: object) -> list[Object]:
    """The mappings among the items of a list."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""


class Objects:
    """The objects of a text, which `source` names in messages. Raises ConfigInvalid where it is not YAML."""

    def __init__(self, text: str, source: str) -> None:
        self._source = source
        self._empty = not text.strip()
        found = [each for document in read_documents(text, source, quotes=False) for each in _flat(document)]
        self._maps = [each for each in found if each.get("kind") in ("ConfigMap", "Secret")]
        self._workloads = [each for each in map(_workload, found) if each is not None]

    def find(self, kind: str, name: str, namespace: str) -> Object | None:
        """A ConfigMap or Secret of this namespace; one that names no namespace fits any."""
        fitting = [
            each
            for each in self._maps
            if each["kind"] == kind
            and mapping(each.get("metadata")).get("name") == name
            and _same(text_of(mapping(each.get("metadata")).get("namespace")), namespace)
        ]
        return fitting[-1] if fitting else None

    def workload(self, wanted: str) -> Workload:
        """The workload of this name, which may have its kind before it (deploy/b) and its namespace behind it
        (b.shop), or else that of an app with this label. Raises ConfigInvalid."""
        kind, _, name = wanted.rpartition("/")
        of_kind = [each for each in self._workloads if each.kind.lower().startswith(kind.lower())]
        found = [each for each in of_kind if each.name == name]
        if not found and "." in name:
            bare, _, namespace = name.partition(".")
            found = [each for each in of_kind if each.name == bare and each.namespace == namespace]
        if not found:
            found = [
                each for each in of_kind if name in map(mapping(each.metadata.get("labels")).get, _APP_LABELS)
            ]
        found = [each for each in found if not each.owned] or found
        if len(found) == 1:
            return found[0]
        if found:
            hint = f"write one as {found[0].kind.lower()}/{found[0].name} or {found[0].name}.NAMESPACE"
            raise ConfigInvalid(f"{self._source}: {quote(wanted)} is {_list(found)}", hint=hint)
        if self._empty:
            hint = "kubectl get deploy,configmap -o yaml prints what is to be read; it may have failed"
            raise ConfigInvalid(f"{self._source}: it is empty", hint=hint)
        known = f"it has {_list(self._workloads)}" if self._workloads else "it has no workload at all"
        raise ConfigInvalid(f"{self._source}: there is no workload {quote(wanted)}; {known}")

    def container(self, workload: Workload, wanted: str | None) -> Object:
        """The container of this name; without one, that of the app. Raises ConfigInvalid."""
        containers = listed(workload.spec.get("containers"))
        names = [text_of(each.get("name")) for each in containers]
        annotated = mapping(workload.metadata.get("annotations")).get(_DEFAULT_CONTAINER)
        for name in (wanted,) if wanted is not None else (annotated, workload.name):
            if name in names:
                return containers[names.index(name)]
        apps = [each for each in containers if each.get("name") not in _SIDECARS]
        if wanted is None and len(apps) == 1:
            return apps[0]
        asked = f"has no container {quote(wanted)}; it has" if wanted else "has the containers"
        raise ConfigInvalid(
            f"{self._source}: {workload} {asked} {printable(', '.join(names[:_LISTED])) or 'none'}",
            hint="name the one of your app: --container NAME",
        )


def _same(one: str, other: str) -> bool:
    return not one or not other or one == other


def _list(workloads: list[Workload]) -> str:
    more = f" and {len(workloads) - _LISTED} more" if len(workloads) > _LISTED else ""
    return ", ".join(map(str, workloads[:_LISTED])) + more


def _flat(document: object) -> Iterator[Object]:
    """The objects of a document, those of its lists among them."""
    waiting = [document]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list):
            waiting += reversed(each)
        elif isinstance(each, Mapping) and text_of(each.get("kind")).endswith("List"):
            waiting += reversed(listed(each.get("items")))
        elif isinstance(each, Mapping):
            yield each


def _workload(each: Object) -> Workload | None:
    """None if it is something else."""
    metadata = mapping(each.get("metadata"))
    pod: Object = each if each.get("kind") == "Pod" else {}
    for path in _PODS:
        inner: Object = each
        for key in path:
            inner = mapping(inner.get(key))
        pod = pod or inner
    if not listed(mapping(pod.get("spec")).get("containers")):
        return None
    name, namespace = (text_of(metadata.get(key)) for key in ("name", "namespace"))
    return Workload(text_of(each.get("kind")), name, namespace, pod, bool(metadata.get("ownerReferences")))
