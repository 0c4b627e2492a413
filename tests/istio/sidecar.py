"""A pod's Envoy, as Istio's injection would run it: iptables, pilot-agent with a certificate of istiod's CA,
stock Envoy."""

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from devroute.mesh.envoy import version_of
from devroute.mesh.istio.rules import RELEASES
from devroute.mesh.testbed import Command
from tests.istio.control_plane import ISTIOD, ROOT_NAMESPACE, ControlPlane
from tests.istio.netns import Namespace
from tests.istio.process import program
from tests.istio.topology import CONTROL, Pod, pod_name, registration
from tests.support.eventually import eventually

#: The user of Istio's sidecars, whose own connections are not redirected.
_USER = 1337
#: In a pod's folder: its certificate, key and root certificate as files.
CERTIFICATES = "certificates"


def programs_for_everybody(folder: Path, istio: Path, envoy: Path) -> None:
    """Copies of pilot-agent and Envoy where the sidecars' user may execute them: their own folders are in the
    home folder of the user who runs this."""
    folder.mkdir()
    for found in (istio / "pilot-agent", envoy):
        shutil.copy(found, folder / found.name)
        (folder / found.name).chmod(0o755)
    template = (istio / "envoy_bootstrap.json").read_text()
    # Stock Envoy lacks the filter that finds peers' metadata by their addresses.
    begin = template.index("{{- if .metadata_discovery }}")
    end = template.index("{{- end }}", begin) + len("{{- end }}")
    (folder / "envoy_bootstrap.json").write_text(template[:begin] + template[end:])


@asynccontextmanager
async def sidecar(
    folder: Path, pod: Pod, namespace: Namespace, plane: ControlPlane
) -> AsyncIterator[Command]:
    """Registers the pod and runs its Envoy.

    `folder` is the rig's, with `programs` in it; the pod's own folder in it gets its log, `agent.log`.
    """
    documents, status = registration(pod)
    await plane.kubernetes.apply(documents)
    await plane.kubernetes.set_status(documents[-1], status)
    own, programs = folder / pod.name, folder / "programs"
    root = await eventually(lambda: _root_certificate(plane), "the root certificate", within=60)
    token = await plane.kubernetes.token(pod.namespace, pod.account, "istio-ca")
    _write_files(own, pod, token, root, programs)
    if pod.role == "sidecar":
        _redirect(own, pod, namespace, programs)
    flags = [
        *("proxy", pod.role, "--domain", f"{pod.namespace}.svc.cluster.local"),
        "--proxyLogLevel=warning",
    ]
    privileges = ["--reuid", str(_USER), "--regid", str(_USER), "--clear-groups"]
    environment = [f"{name}={value}" for name, value in _environment(own, pod, programs).items()]
    command = namespace.command(
        *("nice", "-n", "1", "setpriv", *privileges, "env", "-i", *environment),
        *(programs / "pilot-agent", *flags),
    )
    async with program(command, own / "agent.log", folder=own) as agent:
        yield agent


async def _root_certificate(plane: ControlPlane) -> str | None:
    found = await plane.kubernetes.get(f"/api/v1/namespaces/{ROOT_NAMESPACE}/configmaps/istio-ca-root-cert")
    return None if found is None else str(found["data"]["root-cert.pem"])


def _write_files(own: Path, pod: Pod, token: str, root: str, programs: Path) -> None:
    """What Kubernetes and the injection mount into a sidecar."""
    run = own / "var" / "run" / "secrets"
    for each in (
        run / "tokens",
        run / "istio",
        run / "workload-spiffe-uds",
        own / CERTIFICATES,
        own / "etc/istio/proxy",
    ):
        each.mkdir(parents=True)
    (run / "tokens" / "istio-token").write_text(token)
    (run / "istio" / "root-cert.pem").write_text(root)
    described = own / "etc/istio/pod"
    described.mkdir()
    (described / "labels").write_text("".join(f'{k}="{v}"\n' for k, v in pod.all_labels.items()))
    (described / "annotations").write_text('kubernetes.io/config.source="api"\n')
    bootstrap = own / "var/lib/istio/envoy"
    bootstrap.mkdir(parents=True)
    shutil.copy(programs / "envoy_bootstrap.json", bootstrap / "envoy_bootstrap_tmpl.json")
    (own / "var/lib/istio/data").mkdir()
    # Envoy opens /dev/stdout once more, as the sidecars' user.
    (own / "agent.log").touch()
    for path in (own, *own.rglob("*")):
        os.chown(path, _USER, _USER)


def _redirect(own: Path, pod: Pod, namespace: Namespace, programs: Path) -> None:
    excluded = ",".join(["15090", "15021", "15020", *filter(None, [pod.excludes])])
    ports = ["-p", "15001", "-z", "15006", "-u", str(_USER), "-m", "REDIRECT", "-b", "*", "-d", excluded]
    command = namespace.command(
        programs / "pilot-agent", "istio-iptables", *ports, "-i", pod.includes, "-x", "", "--force-apply"
    )
    done = subprocess.run(command, cwd=own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def _environment(own: Path, pod: Pod, programs: Path) -> dict[str, str | Path]:
    settings = {
        "discoveryAddress": f"{ISTIOD}:15012",
        "binaryPath": str(programs / "envoy"),
        "configPath": "./etc/istio/proxy",
        "concurrency": 2,
        "terminationDrainDuration": "1s",
        # How long a connection of a listener that was replaced stays: by default 45 s.
        "drainDuration": "3s",
    }
    return {
        "PATH": os.environ["PATH"],
        "HOME": own,
        "OUTPUT_CERTS": f"./{CERTIFICATES}",
        "JWT_POLICY": "third-party-jwt",
        "PILOT_CERT_PROVIDER": "istiod",
        "CA_ADDR": f"{ISTIOD}:15012",
        "POD_NAME": pod_name(pod),
        "POD_NAMESPACE": pod.namespace,
        "INSTANCE_IP": pod.address,
        "SERVICE_ACCOUNT": pod.account,
        "HOST_IP": CONTROL,
        "ISTIO_CPU_LIMIT": "2",
        "TRUST_DOMAIN": "cluster.local",
        "ISTIO_META_CLUSTER_ID": "Kubernetes",
        "ISTIO_META_NODE_NAME": "node1",
        "ISTIO_META_INTERCEPTION_MODE": "REDIRECT",
        "ISTIO_META_WORKLOAD_NAME": pod.app,
        "ISTIO_META_MESH_ID": "cluster.local",
        "ISTIO_META_APP_CONTAINERS": "app",
        "ISTIO_META_POD_PORTS": json.dumps([{"containerPort": port} for _, port in pod.ports]),
        "ISTIO_META_ISTIO_VERSION": _istio_version(programs / "envoy"),
        "PROXY_CONFIG": json.dumps(settings),
    }


def _istio_version(envoy: Path) -> str:
    """Of the release that takes this Envoy: istiod and EnvoyFilters look at it."""
    version = version_of(envoy)
    (istio,) = (each.istio for each in RELEASES if version.startswith(f"{each.envoy}."))
    return f"{istio}.0"
