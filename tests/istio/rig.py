"""A real Istio on this machine, with devroute installed in it: control plane, pods with sidecars, an ingress
gateway, devroute's proxy, two laptops outside. Wants root, Linux, etcd and iptables.

No kubelet: pods are network namespaces, and what a kubelet or a controller would write is written by
topology.py. `python -m tests.istio` brings it up for use by hand (docs/real-mesh.md).
"""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from devroute.mesh.envoy import envoy_binary
from devroute.mesh.testbed import Command
from tests.istio import client, topology
from tests.istio.control_plane import ROOT_NAMESPACE, ControlPlane, control_plane
from tests.istio.kubernetes import Document, Kubernetes
from tests.istio.netns import Namespace, network
from tests.istio.process import program
from tests.istio.sidecar import programs_for_everybody, sidecar
from tests.istio.topology import APP_PORT, APPS, GATEWAY, HOST, HTTP, LAPTOPS, Pod
from tests.support.eventually import eventually
from tests.support.go_programs import ISTIO, KUBERNETES, built

_APP = Path(__file__).with_name("app.py")
_DEVROUTE = (sys.executable, "-m", "devroute")
#: For an Envoy to start and get its configuration, on a machine where eight of them do.
START_S = 120.0
SERVICES = ("a", "b", "c", "h")


@dataclass(frozen=True)
class Rig:
    """`pods` are network namespaces by name, laptops included; `installed` are the documents of devroute."""

    folder: Path
    plane: ControlPlane
    pods: dict[str, Namespace]
    installed: Path

    @property
    def kubernetes(self) -> Kubernetes:
        return self.plane.kubernetes

    async def ask(self, pod: str, url: str, contract: object = None, **options: object) -> client.Response:
        """A request of the app in a pod, or of a laptop (client.ask)."""
        return await client.ask(self.pods[pod], url, contract, **options)  # type: ignore[arg-type]

    async def requests(self, laptop: str) -> list[Document]:
        """What reached the app on a laptop so far."""
        url = f"http://localhost:{APP_PORT}/requests"
        async with client.session(self.pods[laptop]) as opened, opened.get(url) as response:
            return list(await response.json())

    def devroute(self, laptop: str, *arguments: str) -> str:
        """The output of a command on a laptop. Raises CalledProcessError."""
        command = self.pods[laptop].command("env", *_environment(self.folder, laptop), *_DEVROUTE, *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout

    @asynccontextmanager
    async def laptop(self, name: str, *arguments: str) -> AsyncIterator[Command]:
        """`devroute up` on a laptop whose app already runs, until the block ends."""
        home = self.folder / f"home-{name}"
        command = self.pods[name].command(
            *("env", *_environment(self.folder, name), *_DEVROUTE),
            *("up", *arguments, "--output", "json", "--inspector", "off"),
        )
        log = home / f"up-{len(list(home.glob('up-*.log'))) + 1}.log"
        async with program(command, log, folder=home) as up:
            await eventually(lambda: _is_registered(up), f"{name} online", within=START_S, process=up)
            yield up


def _is_registered(up: Command) -> bool:
    return any(event.get("event") == "online" for event in up.events())


@asynccontextmanager
async def rig(envoy: Path | None = None) -> AsyncIterator[Rig]:
    """All of it but `devroute up`. `envoy` is the program of all sidecars, by default the newest."""
    istio, kubernetes = built(ISTIO), built(KUBERNETES)
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(_folder())
        spaces = stack.enter_context(network(topology.addresses(), topology.ROUTES, topology.hosts()))
        plane = await stack.enter_async_context(control_plane(folder, spaces["control"], istio, kubernetes))
        found = Rig(folder, plane, spaces, _install(folder))
        await plane.kubernetes.apply([*topology.services(), *topology.policies()])
        await plane.kubernetes.apply([*documents(found.installed / "base"), *_secrets(folder)])
        await plane.kubernetes.apply(documents(found.installed / "examples" / "gateway.yaml"))
        await plane.kubernetes.apply(documents(found.installed / "versions.yaml"))
        programs_for_everybody(folder / "programs", istio, envoy or envoy_binary())
        await _run_pods(stack, found)
        for name in LAPTOPS:
            command = spaces[name].command(sys.executable, _APP, f"laptop-{name}", str(APP_PORT))
            await stack.enter_async_context(program(command, folder / f"app-{name}.log"))
        await eventually(
            partial(_reaches, found, "a", "http://b/", 200), "a request from a to b", within=START_S
        )
        asked = partial(_reaches, found, "alice", f"https://{HOST}/api/laptops", 401)
        await eventually(asked, "devroute behind the gateway", within=START_S)
        yield found


@asynccontextmanager
async def with_laptops(found: Rig) -> AsyncIterator[Rig]:
    """alice serves everything, bob b."""
    offers = [f"{name}={APP_PORT}" for name in SERVICES]
    async with found.laptop("alice", *offers), found.laptop("bob", f"b={APP_PORT}"):
        yield found


async def _run_pods(stack: AsyncExitStack, found: Rig) -> None:
    """The pods' apps, devroute's proxy and all sidecars, until each app can be reached through the mesh."""
    spaces, folder = found.pods, found.folder
    for pod in APPS:
        command = spaces[pod.name].command(sys.executable, _APP, pod_label(pod), str(HTTP), pod.next_hop)
        await stack.enter_async_context(program(command, folder / f"app-{pod.name}.log"))
    installed = {each["kind"]: each for each in documents(found.installed / "base")}
    proxy = topology.proxy(installed["Deployment"])
    await found.kubernetes.apply([topology.slice_of_proxy(installed["Service"], proxy)])
    agents = [
        await stack.enter_async_context(sidecar(folder, pod, spaces[pod.name], found.plane))
        for pod in (*APPS, GATEWAY, proxy)
    ]
    await stack.enter_async_context(_proxy(folder, spaces["proxy"], installed))
    for pod, agent in zip((*APPS, GATEWAY, proxy), agents, strict=True):
        ready = partial(_is_ready, spaces[pod.name])
        await eventually(ready, f"a ready Envoy in {pod.name}", within=START_S, process=agent)


def pod_label(pod: Pod) -> str:
    """The name that a pod's app responds with: the service's, and its version if there are several."""
    several = sum(each.app == pod.app for each in APPS) > 1
    return topology.pod_name(pod) if several else pod.app


async def _is_ready(space: Namespace) -> bool:
    try:
        return "LIVE" in await client.admin(space, "ready")
    except OSError:
        return False


async def _reaches(found: Rig, pod: str, url: str, status: int) -> bool:
    try:
        return (await found.ask(pod, url)).status == status
    except OSError:
        return False


def _install(folder: Path) -> Path:
    """The manifests for this mesh; tokens and a certificate for the gateway beside them."""
    made = folder / "manifests"
    options = ["--network", "192.168.0.0/16", "--host", HOST, "--folder", str(made)]
    reach = [f"--reach={each}" for each in topology.REACHED]
    reach += ["--reach-network=192.168.0.0/16", "--reach-namespace=shop"]
    subprocess.run([*_DEVROUTE, "manifests", "install", *options, *reach], check=True, capture_output=True)
    versions = [*_DEVROUTE, "manifests", "versions", "b.shop=v1,v2"]
    output = subprocess.run(versions, check=True, capture_output=True, text=True).stdout
    (made / "versions.yaml").write_text(output)
    for name in LAPTOPS:
        (folder / f"home-{name}").mkdir()
        command = [*_DEVROUTE, "token", "new", name, "--file", str(folder / "tokens.yaml")]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        (folder / f"token-{name}").write_text(max(output.split(), key=len))
    certificate = ["-keyout", folder / "gateway.key", "-out", folder / "gateway.crt"]
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    request = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        *subject,
        *certificate,
    ]
    subprocess.run(request, check=True, capture_output=True)
    return made


def documents(path: Path) -> list[Document]:
    """The manifests of a file; or of a folder, in the order of its kustomization."""
    if path.is_dir():
        listed = yaml.safe_load((path / "kustomization.yaml").read_text())["resources"]
        return [document for name in listed for document in documents(path / name)]
    return [each for each in yaml.load_all(path.read_text(), yaml.CSafeLoader) if each]


def _secrets(folder: Path) -> Iterator[Document]:
    files = {name: base64.b64encode((folder / name).read_bytes()).decode() for name in _SECRETS}
    yield _secret("devroute-tokens", "devroute", "Opaque", {"tokens.yaml": files["tokens.yaml"]})
    pair = {"tls.key": files["gateway.key"], "tls.crt": files["gateway.crt"]}
    yield _secret("devroute-tls", ROOT_NAMESPACE, "kubernetes.io/tls", pair)


_SECRETS = ("tokens.yaml", "gateway.key", "gateway.crt")


def _secret(name: str, namespace: str, kind: str, data: dict[str, str]) -> Document:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}


@asynccontextmanager
async def _proxy(folder: Path, space: Namespace, installed: dict[str, Document]) -> AsyncIterator[None]:
    """devroute's proxy, by the Deployment's arguments and variables; its ConfigMap and Secret are files."""
    mounts = folder / "mounted"
    (mounts / "policy").mkdir(parents=True)
    (mounts / "tokens").mkdir()
    for name, text in installed["ConfigMap"]["data"].items():
        (mounts / "policy" / name).write_text(text)
    shutil.copy(folder / "tokens.yaml", mounts / "tokens")
    container = installed["Deployment"]["spec"]["template"]["spec"]["containers"][0]
    arguments = [each.replace("/etc/devroute", str(mounts)) for each in container["args"]]
    environment = {each["name"]: each["value"] for each in container["env"]}
    command = space.command(*_DEVROUTE, *arguments)
    async with program(command, folder / "proxy.log", environment=environment, folder=folder):
        yield


def _environment(folder: Path, laptop: str) -> list[str]:
    return [
        f"HOME={folder / f'home-{laptop}'}",
        f"DEVROUTE_TOKEN={(folder / f'token-{laptop}').read_text()}",
        f"DEVROUTE_SERVER=https://{HOST}",
        f"DEVROUTE_CA_FILE={folder / 'gateway.crt'}",
    ]


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that the sidecars' user can read too, unlike those of pytest.

    Those of runs that were killed are removed: they have tokens and keys.
    """
    prefix = "devroute-istio-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*-*"):
        if not Path("/proc", left.name.removeprefix(prefix).partition("-")[0]).exists():
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=f"{prefix}{os.getpid()}-", ignore_cleanup_errors=True) as made:
        Path(made).chmod(0o755)
        yield Path(made)
