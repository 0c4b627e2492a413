"""The proxy's pods and their Service: core Kubernetes only. Pure."""

from devroute.mesh.manifests.installation import (
    ADMIN_PORT,
    CONTAINER_SECURITY,
    CONTROL_PORT,
    DATA_PORT,
    EGRESS_PORT,
    PEER_PORT,
    POD_SECURITY,
    Installation,
)
from devroute.mesh.manifests.model import PART_OF, Document
from devroute.mesh.manifests.reach import environment
from devroute.mesh.manifests.registry import SECRET, URL_KEY
from devroute.mesh.manifests.render import to_yaml
from devroute.proxy.settings import ProxySettings

#: Where the container's files are mounted. Folders, since mounts of single files do not follow changes.
POLICY_FOLDER, TOKENS_FOLDER = "/etc/devroute/policy", "/etc/devroute/tokens"

#: A JWKS without any key: no one may sign contracts yet.
NO_KEYS = '{"keys": []}\n'

#: Seconds between the pod's removal and the closing of its ports: until every sidecar has noticed.
LEAVE_S = 5
#: Seconds for requests in progress; the proxy's own setting.
DRAIN_S = round(ProxySettings.model_fields["drain_timeout"].default)
#: Seconds: the sidecar has to outlive the proxy, and the kubelet's patience both.
SIDECAR_DRAIN_S = LEAVE_S + DRAIN_S + 2
GRACE_S = SIDECAR_DRAIN_S + 8
#: Seconds that a process has to end which does not answer its liveness probe.
FROZEN_GRACE_S = 10


def namespace(installation: Installation) -> Document:
    """Pods of this namespace get a sidecar. `restricted` is a warning only: without Istio's CNI plug-in the
    injected istio-init violates that profile; the proxy's own container meets it."""
    injection = (
        {"istio.io/rev": installation.revision} if installation.revision else {"istio-injection": "enabled"}
    )
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": installation.proxy.namespace,
            "labels": {
                **injection,
                **PART_OF,
                "pod-security.kubernetes.io/audit": "restricted",
                "pod-security.kubernetes.io/warn": "restricted",
            },
        },
    }


def service_account(installation: Installation) -> Document:
    """The proxy's mesh identity; it never calls the API server."""
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": installation.metadata(),
        "automountServiceAccountToken": False,
    }


def policy_config(installation: Installation) -> Document:
    """What may be detoured, where to, and whose signatures count. A change takes effect within a minute,
    without a restart."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": installation.metadata("devroute-policy"),
        "data": {"policy.yaml": to_yaml(installation.policy_file), "contract-keys.json": NO_KEYS},
    }


def deployment(installation: Installation) -> Document:
    spec = {
        "replicas": installation.replicas,
        "revisionHistoryLimit": 3,
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "selector": {"matchLabels": installation.selector},
        "template": {
            "metadata": {
                "labels": installation.metadata()["labels"],
                "annotations": _annotations(installation),
            },
            "spec": _pod(installation),
        },
    }
    return installation.manifest("apps/v1", "Deployment", spec)


def _pod(installation: Installation) -> Document:
    pod: Document = {
        "serviceAccountName": installation.proxy.name,
        "automountServiceAccountToken": False,
        # A Service devroute-data would set DEVROUTE_DATA_PORT=tcp://..., which the proxy takes for a setting.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_S,
        "securityContext": POD_SECURITY,
        "containers": [_container(installation)],
        "volumes": [
            {"name": "policy", "configMap": {"name": "devroute-policy"}},
            {"name": "tokens", "secret": {"secretName": installation.tokens_secret}},
        ],
    }
    if installation.is_shared:
        pod["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": installation.selector},
            }
        ]
    return pod


def _annotations(installation: Installation) -> dict[str, str]:
    """For the proxy's sidecar: it starts first, ends last, and does not capture the proxy's own connections.

    A sidecar would take a laptop's address with a Host that the mesh knows for a call of that service, and
    send it back to where it came from. The kubelet and Prometheus, which read the admin port, have no
    identity. Replicas prove to each other who they are by certificates of their own.
    """
    outside = [ADMIN_PORT, PEER_PORT] if installation.is_shared else [ADMIN_PORT]
    config = {"holdApplicationUntilProxyStarts": True, "terminationDrainDuration": f"{SIDECAR_DRAIN_S}s"}
    return {
        "kubectl.kubernetes.io/default-container": "proxy",
        "proxy.istio.io/config": to_yaml(config),
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "",
        "traffic.sidecar.istio.io/excludeInboundPorts": ",".join(map(str, outside)),
    }


def _container(installation: Installation) -> Document:
    ports = {"data": DATA_PORT, "control": CONTROL_PORT, "admin": ADMIN_PORT}
    if installation.is_shared:
        ports["peer"] = PEER_PORT
    return {
        "name": "proxy",
        "image": installation.image,
        "imagePullPolicy": "IfNotPresent",
        "args": [
            "proxy",
            f"--policy={POLICY_FOLDER}/policy.yaml",
            f"--tokens={TOKENS_FOLDER}/tokens.yaml",
            f"--contract-keys={POLICY_FOLDER}/contract-keys.json",
            "--audit=-",
            *([f"--mesh-egress=http://127.0.0.1:{EGRESS_PORT}"] if installation.mesh_egress else []),
            *(f"--entry-url={each}" for each in installation.entry_urls),
            *(["--entry-links"] if installation.entry_links else []),
            *([f"--otlp-endpoint={installation.otlp_endpoint}"] if installation.otlp_endpoint else []),
        ],
        "env": _environment(installation),
        "ports": [{"name": name, "containerPort": port} for name, port in ports.items()],
        "securityContext": CONTAINER_SECURITY,
        # One asyncio process uses one core; a CPU limit would only delay requests. Memory is for streams:
        # each may buffer 1 MiB.
        "resources": {"requests": {"cpu": "250m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}},
        "startupProbe": _probe("/healthz", periodSeconds=1, failureThreshold=60),
        # A frozen process does not leave by itself: no use to wait for it as long as for one that drains.
        "livenessProbe": _probe(
            "/healthz", periodSeconds=10, timeoutSeconds=5, terminationGracePeriodSeconds=FROZEN_GRACE_S
        ),
        "readinessProbe": _probe("/readyz", periodSeconds=2, timeoutSeconds=2, failureThreshold=2),
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_S}}},
        "volumeMounts": [
            {"name": "policy", "mountPath": POLICY_FOLDER, "readOnly": True},
            {"name": "tokens", "mountPath": TOKENS_FOLDER, "readOnly": True},
        ],
    }


def _environment(installation: Installation) -> list[Document]:
    """The URL may hold a password. The address is the one by which sidecars know the pod as a host of the
    Service, and other replicas its peer port. The policy may let laptops reach services at any time, so the
    settings for that are there always."""
    shared = [
        {
            "name": "DEVROUTE_REGISTRY",
            "valueFrom": {"secretKeyRef": {"name": SECRET, "key": URL_KEY}},
        },
        {"name": "DEVROUTE_ADVERTISE_HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]
    domain, denied = installation.proxy.domain, installation.denied_namespaces
    return [
        *(shared if installation.is_shared else []),
        *environment(domain, denied, installation.reach_namespace),
    ]


def _probe(path: str, **times: int) -> Document:
    return {"httpGet": {"path": path, "port": "admin"}, **times}


def service(installation: Installation) -> Document:
    """Ports of HTTP; whether a detoured request is HTTP/1.1 or HTTP/2 (gRPC) follows its client, by the
    DestinationRule."""
    proxy = installation.proxy
    ports = {"data": proxy.data_port, "control": proxy.control_port, "admin": ADMIN_PORT}
    spec = {
        "type": "ClusterIP",
        "selector": installation.selector,
        "ports": [
            {
                "name": f"http-{name}",
                "appProtocol": "http",
                "protocol": "TCP",
                "port": port,
                "targetPort": name,
            }
            for name, port in ports.items()
        ],
    }
    return installation.manifest("v1", "Service", spec)


def disruption_budget(installation: Installation) -> Document:
    """One pod at a time; `minAvailable` would keep a node from being drained if there is one replica. A pod
    that is not ready serves no one, and keeps no node from being drained."""
    spec = {
        "maxUnavailable": 1,
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
        "selector": {"matchLabels": installation.selector},
    }
    return installation.manifest("policy/v1", "PodDisruptionBudget", spec)
