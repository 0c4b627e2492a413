"""The values of the Helm chart, their schema, and what may not be combined. Pure.

A value is what Helm can write where it belongs. Fixed when the chart is written is what Python computes from
an option: the networks and ports of laptops and the cluster's own ranges (the NetworkPolicy excludes ranges
from ranges), and the ports with outlier detection. The rest of the policy file is a value.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from devroute import __version__
from devroute.contract.target import MAX_LABEL
from devroute.mesh.manifests import access, valkey, workload
from devroute.mesh.manifests.installation import MAX_REPLICAS, Installation
from devroute.mesh.manifests.model import Document, MeshScope, WorkloadScope
from devroute.mesh.manifests.registry import SECRET, URL_KEY
from devroute.mesh.manifests.render import to_yaml
from devroute.proxy.settings import ProxySettings

#: Settings of the proxy that the chart's templates make themselves.
_MADE: Final = frozenset(
    {
        *("policy", "tokens", "contract_keys", "audit", "mesh_egress", "entry_url", "entry_links"),
        *("registry", "advertise_host", "data_port", "control_port", "admin_port", "peer_port"),
        *("reach_domain", "reach_denied_namespaces"),
    }
)
#: The oldest Kubernetes whose pods may wait by themselves before they end (`preStop.sleep`).
_KUBERNETES: Final = ">=1.30.0-0"

_LABEL: Final = {
    "type": "string",
    "maxLength": MAX_LABEL,
    "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
}
_OPTIONAL_LABEL: Final = {"anyOf": [_LABEL, {"const": ""}]}
_FLAG: Final = {"type": "boolean"}
_RULES: Final = {"type": "array", "items": {"type": "object"}}


def _object(**properties: Any) -> Document:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _values(installation: Installation) -> Document:
    """The defaults: what the installation has."""
    scope, ingress, policy = installation.scope, installation.ingress, installation.policy_file
    settings = {
        "otlp_endpoint": installation.otlp_endpoint,
        "reach_namespace": installation.reach_namespace,
    }
    is_mesh = isinstance(scope, MeshScope)
    registry = access.registry_egress(installation) if installation.registry is not None else []
    (container,) = workload.deployment(installation)["spec"]["template"]["spec"]["containers"]
    return {
        "image": installation.image,
        "replicas": installation.replicas,
        "registry": {"enabled": installation.registry is not None, "egress": registry},
        "valkey": installation.valkey,
        "namespace": installation.proxy.namespace,
        "createNamespace": True,
        "revision": installation.revision or "",
        "scope": {
            "kind": "mesh" if is_mesh else "workload" if isinstance(scope, WorkloadScope) else "namespace",
            "namespace": "" if isinstance(scope, MeshScope) else scope.namespace,
            "service": scope.service if isinstance(scope, WorkloadScope) else "",
            "labels": dict(scope.labels) if isinstance(scope, WorkloadScope) else {},
        },
        "policy": {key: value for key, value in policy.items() if key not in ("direct", "cluster")},
        "contractKeys": json.loads(workload.NO_KEYS),
        "tokensSecret": installation.tokens_secret,
        "settings": {name: value for name, value in settings.items() if value is not None},
        "meshEgress": installation.mesh_egress,
        "reachDenied": list(installation.reach_denied),
        "entryUrls": list(installation.entry_urls),
        "entryLinks": installation.entry_links,
        "ingress": {"namespace": ingress.namespace, "serviceAccount": ingress.service_account},
        "extraEgress": [*access.collector_egress(installation), *access.reach_egress(installation)],
        "resources": container["resources"],
        "istioNamespace": installation.istio_namespace,
        "dnsNamespace": installation.dns_namespace,
        "monitoringNamespace": installation.monitoring_namespace,
        "domain": installation.proxy.domain,
    }


#: The comment of each value, or of it and those that follow without one.
_ABOUT: Final[Mapping[str, str]] = {
    "image": "Image of the proxy in your registry.",
    "replicas": "Several need a registry that they share: `registry.enabled`, or `valkey`.",
    "registry": """\
A Redis that replicas share. Its URL is in the Secret devroute-registry. `egress` are the rules of the
NetworkPolicy that lead to it, written by: devroute manifests chart --registry URL""",
    "valkey": "A small Valkey for replicas to share, in place of a registry.",
    "namespace": """\
Namespace of the proxy, whose pods need a sidecar. With `createNamespace` the chart makes it with Istio's
label, and the release has to be in another one; else it has to exist and to have the label.""",
    "revision": "Revision of Istio that injects the proxy's sidecar; empty: the default one.",
    "scope": """\
Sidecars that get the filter: `kind` is mesh, namespace or workload. `labels` are the workload's; by default
app: SERVICE.""",
    "policy": """\
The policy file (docs/policy.md) without `direct` and `cluster`, which are fixed when the chart is written:
devroute manifests chart --network CIDR --pod-network CIDR --service-network CIDR""",
    "contractKeys": "JWKS: who may sign contracts. `devroute sign-key public FILE` prints keys.",
    "tokensSecret": "Secret with hashes of the laptops' tokens, as tokens.yaml.",
    "settings": "More settings of `devroute proxy` by name (docs/configuration.md), such as oidc_issuer.",
    "meshEgress": "The way into the mesh, for --except-status and for what laptops reach (policy.reach).",
    "reachDenied": "Further namespaces that no laptop reaches, whatever the policy lists.",
    "entryUrls": "Where people call the mesh (URL or NAME=URL), and whether the edge's filter is there.",
    "ingress": "The gateway through which laptops connect.",
    "extraEgress": """\
Further rules of the NetworkPolicy: to an OIDC issuer, a collector of traces, or hosts outside of the cluster
that laptops reach.""",
    "resources": "Of the proxy's container. One process uses one core (docs/sizing.md).",
    "istioNamespace": "Namespaces of istiod, of the cluster's DNS and of Prometheus, and the DNS domain.",
}


def values(installation: Installation) -> str:
    text = "# Values of the chart devroute; values.schema.json checks them.\n"
    for name, value in _values(installation).items():
        if name in _ABOUT:
            text += "\n" + "".join(f"# {line}\n" for line in _ABOUT[name].splitlines())
        text += to_yaml({name: value})
    return text


def schema() -> str:
    """JSON Schema (draft 7), which Helm checks before it renders.

    Longer than 40 lines: one line per value.
    """
    names = sorted(ProxySettings.model_fields.keys() - _MADE)
    properties = {
        "image": {"type": "string", "pattern": r"^\S+$"},
        "replicas": {"type": "integer", "minimum": 1, "maximum": MAX_REPLICAS},
        "registry": _object(enabled=_FLAG, egress=_RULES),
        "valkey": _FLAG,
        "namespace": _LABEL,
        "createNamespace": _FLAG,
        "revision": _OPTIONAL_LABEL,
        "scope": _object(
            kind={"enum": ["mesh", "namespace", "workload"]},
            namespace=_OPTIONAL_LABEL,
            service=_OPTIONAL_LABEL,
            labels={"type": "object", "additionalProperties": {"type": "string"}},
        ),
        "policy": {"type": "object"},
        "contractKeys": {"type": "object", "required": ["keys"]},
        "tokensSecret": {"type": "string", "minLength": 1},
        "settings": {
            "type": "object",
            "propertyNames": {"enum": names},
            "additionalProperties": {"type": ["string", "number", "boolean"]},
        },
        "meshEgress": _FLAG,
        "reachDenied": {"type": "array", "items": _LABEL},
        "entryUrls": {"type": "array", "items": {"type": "string"}},
        "entryLinks": _FLAG,
        "ingress": _object(namespace=_LABEL, serviceAccount={"type": "string", "minLength": 1}),
        "extraEgress": _RULES,
        "resources": {"type": "object"},
        "istioNamespace": _LABEL,
        "dnsNamespace": _LABEL,
        "monitoringNamespace": _LABEL,
        "domain": {"type": "string", "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"},
    }
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        **_object(**properties, **{"global": {"type": "object"}}),
        "required": list(properties),
    }
    return json.dumps(document, indent=2) + "\n"


def chart_yaml() -> str:
    return to_yaml(
        {
            "apiVersion": "v2",
            "name": "devroute",
            "description": "Make a laptop part of a service mesh, for one request at a time",
            "type": "application",
            "version": __version__,
            "appVersion": __version__,
            "kubeVersion": _KUBERNETES,
        }
    )


#: What may not be combined, and an expression of the message. Installation refuses most of it too.
_CHECKS: Final = (
    (
        "and (gt (int .Values.replicas) 1) (not (or .Values.valkey .Values.registry.enabled))",
        '"replicas: without a registry that they share, each would know only the laptops connected to it: set'
        ' registry.enabled, or valkey for a small one of their own"',
    ),
    (
        "and .Values.valkey .Values.registry.enabled",
        '"valkey: there is a registry already: set valkey or registry.enabled"',
    ),
    (
        "and .Values.registry.enabled (not .Values.registry.egress)",
        '"registry.egress: no rule of the NetworkPolicy leads to the registry: list rules, or write the chart'
        ' with --registry URL"',
    ),
    (
        'and (ne .Values.scope.kind "mesh") (not .Values.scope.namespace)',
        '(printf "scope.namespace: scope.kind %s needs a namespace" .Values.scope.kind)',
    ),
    (
        'and (eq .Values.scope.kind "workload") (not .Values.scope.service)',
        '"scope.service: scope.kind workload needs a service"',
    ),
    (
        'and (ne .Values.scope.kind "workload") (or .Values.scope.service .Values.scope.labels)',
        '"scope.service, scope.labels: these are for one workload: set scope.kind=workload"',
    ),
    (
        'and (eq .Values.scope.kind "mesh") .Values.scope.namespace',
        '"scope.namespace: the filter of a mesh is in istioNamespace"',
    ),
    (
        'or (hasKey .Values.policy "direct") (hasKey .Values.policy "cluster")',
        '"policy: direct and cluster are fixed when the chart is written, together with the NetworkPolicy:'
        ' devroute manifests chart --network CIDR"',
    ),
    (
        "and .Values.createNamespace (eq .Release.Namespace .Values.namespace)",
        '(printf "createNamespace: the chart cannot make the namespace of its own release: install it with'
        ' --namespace %s, or set createNamespace=false and label the namespace istio-injection=enabled"'
        " .Values.istioNamespace)",
    ),
)


def checks() -> str:
    """A template without a document, which fails with a message."""
    return "".join(
        f"{{{{- if {condition} }}}}\n{{{{- fail {message} }}}}\n{{{{- end }}}}\n"
        for condition, message in _CHECKS
    )


def notes() -> str:
    """What is left to be done, printed by `helm install`."""
    namespace = "{{ .Values.namespace }}"
    tokens = f"kubectl --namespace {namespace} create secret generic {{{{ .Values.tokensSecret }}}}"
    url = '"$DEVROUTE_REGISTRY"'
    lines = [
        "The pods wait for a Secret, never kept in git, with hashes of the laptops' tokens:",
        "devroute token new alice --file tokens.yaml",
        f"{tokens} --from-file=tokens.yaml",
        "{{- if .Values.valkey }}",
        "and for one with the URL of the Valkey, and its password:",
        *valkey.secret_command(namespace).splitlines(),
        "{{- else if .Values.registry.enabled }}",
        "and for one with the URL of what the replicas share:",
        f"kubectl --namespace {namespace} create secret generic {SECRET} --from-literal={URL_KEY}={url}",
        "{{- end }}",
        "{{- if not .Values.createNamespace }}",
        "Pods get their sidecar by a label of the namespace:",
        "{{- if .Values.revision }}",
        f"kubectl label namespace {namespace} istio.io/rev={{{{ .Values.revision }}}}",
        "{{- else }}",
        f"kubectl label namespace {namespace} istio-injection=enabled",
        "{{- end }}",
        "{{- end }}",
    ]
    return "".join(f"{line}\n" for line in lines)
