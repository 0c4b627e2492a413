"""A small real mesh on loopback, as child processes: sidecars, the proxy, laptops; and apps in this process.

Owns their start, readiness and end, for the demo and the tests with real Envoys. Each part is started as a
platform team or an engineer would start it, by a context manager: nothing outlives the block.
"""

import asyncio
import contextlib
import json
import random
import socket
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
from aiohttp import web

from devroute.auth.tokens import TokenRecord
from devroute.errors import DevrouteError
from devroute.mesh.envoy import LOG_TAIL, Envoy, running, stop, text_of, wait_for
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.rules import RELEASES, Release
from devroute.mesh.istio.sidecar import Document, Endpoint, Sidecar, bootstrap, egress_bootstrap
from devroute.mesh.manifests.access import by_port
from devroute.mesh.manifests.model import MeshScope, ProxyService, metadata_of
from devroute.mesh.manifests.patches import envoy_filter_of
from devroute.mesh.manifests.sidecar_filter import envoy_filter

#: Where the sidecars' configuration has the proxy.
PROXY = ProxyService()

#: The proxy's listeners, as its log names them.
LISTENERS = ("data", "control", "admin")

#: Seconds that open requests have at an app's end.
CLOSE_SECONDS = 0.5

#: Ports that a process takes for itself at once, and the first: after those of `devroute reach`, and below
#: those that systems give to outgoing connections.
PORTS_IN_BLOCK = 100
FIRST_PORT = 28_100

T = TypeVar("T")


class TestbedFailed(DevrouteError, code="testbed-failed", status=500):
    """A part did not start; the message ends with its output."""


@dataclass(frozen=True)
class Command:
    """A devroute command in a process of its own; `log` has all of its output."""

    process: asyncio.subprocess.Process
    log: Path

    def events(self) -> Iterator[dict[str, object]]:
        """The structured lines of its log so far."""
        for line in text_of(self.log).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                if isinstance(event := json.loads(line), dict):
                    yield event


@dataclass(frozen=True)
class RunningProxy:
    """A running `devroute proxy` and its ports."""

    command: Command
    data: Endpoint
    control: Endpoint
    admin: Endpoint

    @property
    def server(self) -> str:
        return f"http://{self.control.host}:{self.control.port}"


@asynccontextmanager
async def command(
    folder: Path, name: str, arguments: Sequence[str], environment: Mapping[str, str]
) -> AsyncIterator[Command]:
    """Run `devroute ARGUMENTS` and end it with the block. It does not inherit our environment and
    settings."""
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", *arguments),
            cwd=folder,
            env={"HOME": str(folder), "PYTHONUNBUFFERED": "1", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            # Ctrl-C in the terminal signals only this process: the parts end in its order.
            start_new_session=True,
        )
    try:
        yield Command(process, log)
    finally:
        await stop(process)


@asynccontextmanager
async def proxy(
    folder: Path,
    tokens: Iterable[TokenRecord],
    policy: str | None = None,
    environment: Mapping[str, str] = {},
) -> AsyncIterator[RunningProxy]:
    """`devroute proxy` with `policy` (by default the demo's, which permits loopback), an audit trail in its
    log, and further settings in its environment. Raises TestbedFailed."""
    if policy is None:
        policy = resources.files("devroute.demo_files").joinpath("policy.yaml").read_text(encoding="utf-8")
    (folder / "policy.yaml").write_text(policy, encoding="utf-8")
    (folder / "tokens.yaml").write_text("".join(each.as_yaml() for each in tokens), encoding="utf-8")
    files = ("--policy", "policy.yaml", "--tokens", "tokens.yaml")
    places = ["--host", "127.0.0.1"]
    for each in LISTENERS:  # of its own, since laptops and sidecars still dial them once it has been killed
        places += [f"--{each}-port", str(free_port())]
    async with command(
        folder, "proxy", ("proxy", *files, *places), {"DEVROUTE_AUDIT": "-", **environment}
    ) as started:
        ports = await _eventually(lambda: _ports(started), started, "its ports")
        yield RunningProxy(started, *(Endpoint("127.0.0.1", ports[each]) for each in LISTENERS))


@asynccontextmanager
async def laptop(
    folder: Path, name: str, server: str, secret: str, *arguments: str
) -> AsyncIterator[Command]:
    """`devroute up ARGUMENTS` of the laptop `name`, once it is online. Raises TestbedFailed."""
    environment = {"DEVROUTE_SERVER": server, "DEVROUTE_TOKEN": secret}
    async with command(folder, f"up-{name}", ("up", *arguments), environment) as started:
        async with aiohttp.ClientSession(headers={"authorization": f"Bearer {secret}"}) as session:
            await _eventually(
                lambda: _online(session, server, name), started, f"laptop '{name}' to be online"
            )
        yield started


@asynccontextmanager
async def sidecar(folder: Path, description: Sidecar, serving: RunningProxy) -> AsyncIterator[Envoy]:
    """A sidecar's Envoy with the shipped, mesh-wide EnvoyFilter. Raises EnvoyFailed."""
    known = {PROXY.data_cluster: serving.data, PROXY.control_cluster: serving.control}
    as_client = {*description.as_client, PROXY.data_cluster}
    description = replace(description, clusters={**description.clusters, **known}, as_client=as_client)
    configuration = apply([envoy_filter(MeshScope())], description, bootstrap(description))
    # Set by istiod in a sidecar's container; the filter takes its service's name from it.
    environment = {"ISTIO_META_WORKLOAD_NAME": description.service, "POD_NAMESPACE": description.namespace}
    async with running(configuration, folder, description.service, environment) as envoy:
        yield envoy


@asynccontextmanager
async def egress(folder: Path, description: Sidecar, port: int) -> AsyncIterator[Envoy]:
    """The proxy's own sidecar, by which laptops reach the mesh: `mesh_egress` is its `port` of loopback.
    Raises EnvoyFailed."""
    configuration = egress_configuration(description, port)
    async with running(configuration, folder, description.service, {}) as envoy:
        yield envoy


def egress_configuration(description: Sidecar, port: int, release: Release = RELEASES[-1]) -> Document:
    """Of that sidecar, with the shipped patches by which it obeys ports."""
    ports = envoy_filter_of(metadata_of(description.service, description.namespace), by_port(port))
    return apply([ports], description, egress_bootstrap(description, port), release)


def free_port() -> int:
    """A port of loopback that is free now, outside the range that the kernel assigns, so that it stays free.
    Neither this process nor another that asks here is soon given it once more. Raises TestbedFailed if there
    is none."""
    return _PORTS.take()


class _Ports:
    """Ports of blocks that no other process uses: this one holds the UDP port at the start of its block, and
    of the block before, whose ports may still be in use."""

    def __init__(self) -> None:
        self._claims: deque[socket.socket] = deque()
        self._left = iter(range(0))

    def take(self) -> int:
        for _ in range(20 * PORTS_IN_BLOCK):
            port = next(self._left, None)
            if port is None:
                self._claim_block()
                continue
            with socket.socket() as probe, contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return port
        raise TestbedFailed("no port of loopback is free")

    def _claim_block(self) -> None:
        """Try to claim one."""
        start = random.randrange(FIRST_PORT, 32_000, PORTS_IN_BLOCK)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", start))
        except OSError:
            claim.close()
            return
        self._claims.append(claim)
        if len(self._claims) > 2:
            self._claims.popleft().close()
        self._left = iter(range(start, start + PORTS_IN_BLOCK))


_PORTS: Final = _Ports()


@asynccontextmanager
async def app(application: web.Application) -> AsyncIterator[Endpoint]:
    """An app's server in this process, on a port that the system chooses."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=CLOSE_SECONDS)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield Endpoint(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


async def _ports(proxy: Command) -> dict[str, int] | None:
    for event in proxy.events():
        if event.get("event") == "proxy.ready":
            return {name: int(str(event[f"{name}_port"])) for name in LISTENERS}
    return None


async def _online(session: aiohttp.ClientSession, server: str, name: str) -> bool | None:
    async with session.get(f"{server}/api/laptops") as response:
        laptops = (await response.json())["laptops"]
    return any(each["name"] == name for each in laptops) or None


async def _eventually(look: Callable[[], Awaitable[T | None]], started: Command, what: str) -> T:
    """What `look` returns other than None. Raises TestbedFailed if the process ends first."""
    found = await wait_for(look, started.process)
    if found is None:
        status = started.process.returncode
        state = "is still running" if status is None else f"ended with status {status}"
        tail = text_of(started.log)[-LOG_TAIL:]
        raise TestbedFailed(f"waited for {what}, but {started.log.stem} {state}\n{tail}")
    return found
