"""A small Valkey for the replicas of one installation, where there is no Redis. Core Kubernetes only. Pure.

It keeps nothing on a disk and has no second instance: when it restarts empty, each replica writes all of its
own again within a second, and requests do not wait for it (docs/ha.md). Its pod is no part of the mesh, since
the proxy's connections bypass the proxy's sidecar: a password and a NetworkPolicy protect it.
"""

from devroute.mesh.manifests.installation import CONTAINER_SECURITY, POD_SECURITY, Installation
from devroute.mesh.manifests.model import PART_OF, Document, manifest
from devroute.mesh.manifests.registry import SECRET, URL_KEY

NAME = "devroute-valkey"
#: A kustomization's `images` replaces it by another registry's.
IMAGE = "valkey/valkey:8.1"
PORT = 6379
#: The Secret's key that holds the server's configuration, that is, its password.
CONFIG_KEY = "valkey.conf"
_FOLDER = "/etc/valkey"
#: 10,000 laptops are a few MiB. What does not fit is refused, never evicted: the replica would notice only at
#: its next refresh.
MAX_MEMORY = "128mb"
COMMAND = (
    "valkey-server",
    f"{_FOLDER}/{CONFIG_KEY}",
    *("--save", ""),
    *("--appendonly", "no"),
    *("--maxmemory", MAX_MEMORY),
    *("--maxmemory-policy", "noeviction"),
)
SELECTOR = {"app.kubernetes.io/name": NAME}


def url(password: str) -> str:
    """By the Service's short name, since the proxy is in the same namespace."""
    return f"redis://:{password}@{NAME}:{PORT}/0"


def secret_command(namespace: str) -> str:
    """Two lines for a shell; a password in hexadecimal needs no quoting in the URL or the configuration."""
    return (
        "password=$(openssl rand -hex 32)\n"
        f"kubectl --namespace {namespace} create secret generic {SECRET}"
        f' --from-literal={URL_KEY}="{url("$password")}" --from-literal={CONFIG_KEY}="requirepass $password"'
    )


def documents(installation: Installation) -> list[Document]:
    return [_deployment(installation), _service(installation), _network_policy(installation)]


def _manifest(installation: Installation, api_version: str, kind: str, spec: Document) -> Document:
    labels = {**SELECTOR, **PART_OF}
    metadata = {"name": NAME, "namespace": installation.proxy.namespace, "labels": labels}
    return manifest(api_version, kind, metadata, spec)


def _deployment(installation: Installation) -> Document:
    labels = {**SELECTOR, **PART_OF, "sidecar.istio.io/inject": "false"}
    spec = {
        "replicas": 1,
        "revisionHistoryLimit": 3,
        # Two at a time behind one Service would be two registries.
        "strategy": {"type": "Recreate"},
        "selector": {"matchLabels": SELECTOR},
        "template": {
            "metadata": {"labels": labels},
            "spec": {
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": POD_SECURITY,
                "containers": [_container()],
                "volumes": [
                    {
                        "name": "config",
                        "secret": {
                            "secretName": SECRET,
                            "items": [{"key": CONFIG_KEY, "path": CONFIG_KEY}],
                        },
                    }
                ],
            },
        },
    }
    return _manifest(installation, "apps/v1", "Deployment", spec)


def _container() -> Document:
    probe = {"tcpSocket": {"port": "valkey"}}
    return {
        "name": "valkey",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        # Not the image's entry point, which would change a folder's owner, as root.
        "command": list(COMMAND),
        "ports": [{"name": "valkey", "containerPort": PORT}],
        "securityContext": CONTAINER_SECURITY,
        # Above its own limit, for what replicas have not read yet.
        "resources": {"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "256Mi"}},
        "livenessProbe": {**probe, "periodSeconds": 10, "timeoutSeconds": 5},
        "readinessProbe": {**probe, "periodSeconds": 2, "timeoutSeconds": 2},
        "volumeMounts": [{"name": "config", "mountPath": _FOLDER, "readOnly": True}],
    }


def _service(installation: Installation) -> Document:
    port = {
        "name": "tcp-valkey",
        "appProtocol": "tcp",
        "protocol": "TCP",
        "port": PORT,
        "targetPort": "valkey",
    }
    spec = {"type": "ClusterIP", "selector": SELECTOR, "ports": [port]}
    return _manifest(installation, "v1", "Service", spec)


def _network_policy(installation: Installation) -> Document:
    """From the proxy's pods alone, and to nowhere."""
    replicas = {"podSelector": {"matchLabels": installation.selector}}
    spec = {
        "podSelector": {"matchLabels": SELECTOR},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [replicas], "ports": [{"protocol": "TCP", "port": PORT}]}],
        "egress": [],
    }
    return _manifest(installation, "networking.k8s.io/v1", "NetworkPolicy", spec)
