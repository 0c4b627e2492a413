"""Checks of a file whose policy lets laptops reach services: the sidecar's listener, the proxy's flag for it,
the enforcement of ports, the way out of the pod, and the namespaces that stay closed. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from devroute.errors import ConfigInvalid
from devroute.headers import EGRESS
from devroute.mesh.istio.rules import ManifestFinding, value_at
from devroute.mesh.manifests.model import Document
from devroute.policy.file import ReachSection
from devroute.policy.policy import Policy
from devroute.proxy.settings import ProxySettings

_FLAG = "--mesh-egress="
_DENIED = "DEVROUTE_REACH_DENIED_NAMESPACES"
_DEFAULT = ",".join(ProxySettings.model_fields["reach_denied_namespaces"].default)

Placed = tuple[str, Document]


def missing(documents: Sequence[Placed]) -> Iterator[tuple[ManifestFinding, str]]:
    """Each with its place. A file without devroute's policy, or without the proxy, has nothing to be held
    to."""
    rules = {
        str(document["metadata"]["namespace"]): found
        for _, document in documents
        if document.get("kind") == "ConfigMap" and (found := _rules(document))
    }
    for place, document in documents:
        namespace = str(document["metadata"]["namespace"])
        if document.get("kind") != "Deployment" or namespace not in rules:
            continue
        own = [(name, each) for name, each in documents if each["metadata"]["namespace"] == namespace]
        labels = value_at(document, "spec", "template", "metadata", "labels")
        for container in _list(document, "spec", "template", "spec", "containers"):
            if isinstance(container, Mapping) and "proxy" in _list(container, "args")[:1]:
                for finding in _of_proxy(container, rules[namespace], namespace, own, labels):
                    yield finding, place
                for finding, name in _closed(rules[namespace], own, labels):
                    yield finding, name


def _rules(config: Document) -> tuple[ReachSection, ...]:
    text = value_at(config, "data", "policy.yaml")
    try:
        return Policy.parse(text, "policy.yaml").reach if isinstance(text, str) else ()
    except ConfigInvalid:  # `devroute policy check` reports it
        return ()


def _of_proxy(
    container: Mapping[str, Any],
    rules: Sequence[ReachSection],
    namespace: str,
    own: Sequence[Placed],
    labels: object,
) -> Iterator[ManifestFinding]:
    place = f"spec.template.spec.containers[{container.get('name')}]"
    if any("http" in rule.protocols for rule in rules):
        given = [str(each).removeprefix(_FLAG) for each in _list(container, "args") if _is_flag(each)]
        if not given:
            problem = "has no --mesh-egress, so laptops reach nothing by HTTP, which the policy lists"
            yield ManifestFinding("error", f"{place}.args", problem, "devroute manifests install writes it")
        elif not any(_listens(each, given[0], labels) for _, each in own):
            problem = f"no Sidecar in the file opens {given[0]}, so laptops reach nothing by HTTP"
            hint = "an egress listener HTTP_PROXY on 127.0.0.1, captureMode NONE (base/sidecar.yaml)"
            yield ManifestFinding("error", f"{place}.args", problem, hint)
        elif not any(_obeys_ports(each, given[0], labels) for _, each in own):
            problem = f"no EnvoyFilter in the file has {given[0]} obey ports: each request goes to port 80"
            hint = f"the patch of base/sidecar.yaml with vhost_header {EGRESS}"
            yield ManifestFinding("error", f"{place}.args", problem, hint)
    set_here = [each for each in _list(container, "env") if value_at(each, "name") == _DENIED]
    denied = str(value_at(set_here[0], "value") if set_here else _DEFAULT)
    if namespace not in [each.strip() for each in denied.split(",")]:
        problem = f"laptops may reach the proxy's own namespace {namespace}, where the policy lists it"
        hint = f"name it in {_DENIED}"
        yield ManifestFinding("error", f"{place}.env", problem, hint)


def _is_flag(argument: object) -> bool:
    return isinstance(argument, str) and argument.startswith(_FLAG)


def _listens(document: Document, url: str, labels: object) -> bool:
    """Whether a Sidecar of the proxy opens the listener that the proxy calls."""
    if document.get("kind") != "Sidecar" or not _selects(document, labels, "workloadSelector", "labels"):
        return False
    return any(
        url.rpartition(":")[2] == str(value_at(each, "port", "number"))
        and value_at(each, "port", "protocol") == "HTTP_PROXY"
        and value_at(each, "captureMode") == "NONE"
        for each in _list(document, "spec", "egress")
    )


def _obeys_ports(document: Document, url: str, labels: object) -> bool:
    """Whether an EnvoyFilter has that listener find the service by the proxy's header."""
    if document.get("kind") != "EnvoyFilter" or not _selects(document, labels, "workloadSelector", "labels"):
        return False
    return any(
        value_at(each, "patch", "value", "vhost_header") == EGRESS
        and str(value_at(each, "match", "routeConfiguration", "portNumber")) == url.rpartition(":")[2]
        for each in _list(document, "spec", "configPatches")
    )


def _closed(
    rules: Sequence[ReachSection], own: Sequence[Placed], labels: object
) -> Iterator[tuple[ManifestFinding, str]]:
    """NetworkPolicies of the proxy through which it reaches no pod: rules with ports are for other things."""
    policies = [
        (place, each)
        for place, each in own
        if each.get("kind") == "NetworkPolicy"
        and "Egress" in _list(each, "spec", "policyTypes")
        and _selects(each, labels, "podSelector", "matchLabels")
    ]
    inside = any(rule.namespaces for rule in rules)
    if policies and inside and not any(_lets_out(each) for _, each in policies):
        problem = "lets nothing out to the services that the policy lists in reach"
        hint = "add a rule to their namespaces, without ports: a rule has the pods', not the Service's"
        yield ManifestFinding("warning", "spec.egress", problem, hint), policies[0][0]


def _lets_out(policy: Document) -> bool:
    for rule in _list(policy, "spec", "egress"):
        to = _list(rule, "to")
        if not value_at(rule, "ports") and (
            not to or any(value_at(each, "namespaceSelector") is not None for each in to)
        ):
            return True
    return False


def _selects(document: Document, labels: object, *path: str) -> bool:
    """Whether a selector, absent for all pods, is met."""
    wanted = value_at(document, "spec", *path)
    if not isinstance(wanted, Mapping):
        return True
    return isinstance(labels, Mapping) and wanted.items() <= labels.items()


def _list(document: object, *path: str) -> list[Any]:
    found = value_at(document, *path)
    return found if isinstance(found, list) else []
