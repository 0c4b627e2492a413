"""etcd, kube-apiserver and istiod with its validating webhook, in one namespace."""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.istio.kubernetes import Document, Kubernetes, Refused, connected
from tests.istio.netns import Namespace
from tests.istio.process import program
from tests.support.eventually import eventually

ROOT_NAMESPACE = "istio-system"
ISTIOD = "istiod.istio-system.svc"
_START_S = 120.0
_TOKEN = "administrator"
#: Stock Envoy has none of the filters that Istio adds to its own build.
_STOCK_ENVOY = {
    "PILOT_ENABLE_ALPN_FILTER": "false",
    "PILOT_ENABLE_METADATA_EXCHANGE": "false",
    "PILOT_DISABLE_MX_ALPN": "true",
}
_MESH = {
    "trustDomain": "cluster.local",
    "rootNamespace": ROOT_NAMESPACE,
    "enableAutoMtls": True,
    "accessLogFile": "/dev/stdout",
    "defaultConfig": {"discoveryAddress": f"{ISTIOD}:15012"},
}
_WEBHOOK = "istio-validator-istio-system"


class ControlPlane(NamedTuple):
    kubernetes: Kubernetes
    kubeconfig: Path
    namespace: Namespace
    istioctl: Path
    istiod_log: Path

    def analyze(self) -> str:
        """What `istioctl analyze` says of everything that is in the cluster."""
        command = self.namespace.command(
            *(self.istioctl, "--kubeconfig", self.kubeconfig, "analyze", "--all-namespaces", "--color=false")
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr


@asynccontextmanager
async def control_plane(
    folder: Path, namespace: Namespace, istio: Path, kubernetes: Path
) -> AsyncIterator[ControlPlane]:
    """`istio` and `kubernetes` are folders of binaries.py; `folder` gets data, keys and logs."""
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(_etcd(folder, namespace))
        server = f"https://{namespace.address}:6443"
        await stack.enter_async_context(_apiserver(folder, namespace, kubernetes / "kube-apiserver"))
        api = await stack.enter_async_context(connected(namespace, server, _TOKEN))
        await eventually(api.is_ready, "a ready kube-apiserver", within=_START_S)
        await api.apply(_crds(istio))
        await api.apply([_namespace(ROOT_NAMESPACE)])
        kubeconfig = _kubeconfig(folder / "kubeconfig", server)
        istiod = _istiod(folder, namespace, istio / "pilot-discovery", kubeconfig)
        log = await stack.enter_async_context(istiod)
        await api.apply([_webhook()])
        await eventually(lambda: _validates(api), "istiod's webhook", within=_START_S)
        yield ControlPlane(api, kubeconfig, namespace, istio / "istioctl", log)


@asynccontextmanager
async def _etcd(folder: Path, namespace: Namespace) -> AsyncIterator[None]:
    client, peer = "http://127.0.0.1:2379", "http://127.0.0.1:2380"
    options = {
        "--data-dir": folder / "etcd",
        "--listen-client-urls": client,
        "--advertise-client-urls": client,
        "--listen-peer-urls": peer,
        "--initial-advertise-peer-urls": peer,
        "--initial-cluster": f"default={peer}",
    }
    arguments = [part for option in options.items() for part in option]
    # Nothing here has to survive a power failure.
    command = namespace.command("etcd", *arguments, "--unsafe-no-fsync")
    async with program(command, folder / "etcd.log"):
        yield


@asynccontextmanager
async def _apiserver(folder: Path, namespace: Namespace, binary: Path) -> AsyncIterator[None]:
    key = _private_key(folder / "service-accounts.key")
    tokens = folder / "tokens.csv"
    tokens.write_text(f'{_TOKEN},admin,admin,"system:masters"\n')
    issuer = "https://kubernetes.default.svc"
    options = {
        "etcd-servers": "http://127.0.0.1:2379",
        "secure-port": "6443",
        "bind-address": namespace.address,
        "advertise-address": namespace.address,
        "cert-dir": folder / "apiserver",
        "service-account-issuer": issuer,
        "service-account-key-file": key,
        "service-account-signing-key-file": key,
        "api-audiences": f"{issuer},istio-ca",
        "authorization-mode": "RBAC",
        "token-auth-file": tokens,
        "service-cluster-ip-range": "10.96.0.0/12",
        # Without a controller manager, no service account would get its default token.
        "disable-admission-plugins": "ServiceAccount",
        "allow-privileged": "true",
    }
    command = namespace.command(binary, *(f"--{name}={value}" for name, value in options.items()))
    async with program(command, folder / "apiserver.log"):
        yield


@asynccontextmanager
async def _istiod(folder: Path, namespace: Namespace, binary: Path, kubeconfig: Path) -> AsyncIterator[Path]:
    """Its log is what the block gets."""
    own = folder / "istiod"
    configuration = own / "etc" / "istio" / "config"
    configuration.mkdir(parents=True)
    (configuration / "mesh").write_text(yaml.safe_dump(_MESH))
    environment = {
        **_STOCK_ENVOY,
        "POD_NAME": "istiod-1",
        "POD_NAMESPACE": ROOT_NAMESPACE,
        "SERVICE_ACCOUNT": "istiod",
        "REVISION": "default",
        "CLUSTER_ID": "Kubernetes",
        "PILOT_CERT_PROVIDER": "istiod",
        "PILOT_ENABLE_ANALYSIS": "false",
        "VALIDATION_WEBHOOK_CONFIG_NAME": _WEBHOOK,
        "INJECTION_WEBHOOK_CONFIG_NAME": "",
    }
    mesh = ["--meshConfig", configuration / "mesh"]
    arguments = ["--kubeconfig", kubeconfig, "--namespace", ROOT_NAMESPACE, *mesh]
    command = namespace.command(binary, "discovery", *arguments)
    log = folder / "istiod.log"
    async with program(command, log, environment=environment, folder=own):
        yield log


def _private_key(path: Path) -> Path:
    subprocess.run(["openssl", "genrsa", "-out", path, "2048"], check=True, capture_output=True)
    return path


def _kubeconfig(path: Path, server: str) -> Path:
    cluster = {"server": server, "insecure-skip-tls-verify": True}
    content: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": _TOKEN}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": "admin"}}],
        "current-context": "rig",
    }
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


def _crds(istio: Path) -> list[Document]:
    read = (yaml.load_all(file.read_text(), yaml.CSafeLoader) for file in sorted(istio.glob("*.yaml")))
    return [each for documents in read for each in documents if each]


def _namespace(name: str) -> Document:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


def _webhook() -> Document:
    """As Istio's charts install it; istiod adds its CA once it serves."""
    groups = [f"{each}.istio.io" for each in ("security", "networking", "telemetry", "extensions")]
    rule = {"operations": ["CREATE", "UPDATE"], "apiGroups": groups, "apiVersions": ["*"], "resources": ["*"]}
    return {
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {
            "name": _WEBHOOK,
            "labels": {"app": "istiod", "istio": "istiod", "istio.io/rev": "default"},
        },
        "webhooks": [
            {
                "name": "rev.validation.istio.io",
                "clientConfig": {"url": f"https://{ISTIOD}:15017/validate"},
                "rules": [rule],
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
            }
        ],
    }


async def _validates(api: Kubernetes) -> bool:
    """Whether the webhook responds: a good document passes and a bad one is refused."""
    metadata = {"name": "probe", "namespace": "default"}
    good: Document = {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Gateway",
        "metadata": metadata,
        "spec": {"servers": [{"port": {"number": 80, "name": "http", "protocol": "HTTP"}, "hosts": ["*"]}]},
    }
    bad = {**good, "spec": {"servers": [{**good["spec"]["servers"][0], "hosts": ["a b"]}]}}
    try:
        await api.apply([good], dry_run=True)
    except Refused:
        return False
    try:
        await api.apply([bad], dry_run=True)
    except Refused:
        return True
    return False


def missing_programs() -> list[str]:
    """What has to be installed besides the Go modules, and is not there."""
    wanted = ("etcd", "openssl", "ip", "iptables")
    return [
        name for name in wanted if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None
    ]
