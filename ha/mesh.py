"""The processes of a run: Redis, replicas of the proxy, a sidecar's Envoy that has them as the endpoints of
two Services, and programs of our own. All of them end with their blocks, replicas with that of the mesh.
"""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from devroute.auth.tokens import TokenRecord, new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import Envoy, running, stop
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.sidecar import ANY_PORT, INBOUND, Document, Endpoint, Sidecar, bootstrap, listener
from devroute.mesh.manifests.model import MeshScope
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from devroute.mesh.testbed import PROXY
from ha import apps
from ha.endpoints import Endpoints
from ha.laptops import SERVICE, SUBJECT
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, running_redis
from tests.support.relay import Wire, wire
from tests.support.resolve_reader import decode

#: The listener of Envoy by which laptops reach any replica, in the place of an ingress.
LAPTOPS = "laptops"
TCP_PROXY_TYPE = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
#: As istiod has it: without a DestinationRule that says otherwise there are none.
NO_LIMITS = dict.fromkeys(
    ("max_connections", "max_pending_requests", "max_requests", "max_retries"), 2**32 - 1
)
#: Seconds for a replica to end after SIGTERM: drain_timeout, and some.
END_SECONDS = 30.0
#: Seconds for a program of ours to end after its input has.
CHILD_SECONDS = 5.0
#: Links of the one subject that has all laptops.
MAX_LINKS = 30_000


@dataclass(eq=False)
class Replica:
    """`id` numbers those of a run; `stack` ends it."""

    id: int
    proxy: testbed.RunningProxy
    stack: AsyncExitStack

    @property
    def process(self) -> asyncio.subprocess.Process:
        return self.proxy.command.process

    async def terminate(self) -> None:
        """As the kubelet does it, after `preStop`. Raises TimeoutError if it does not end by itself."""
        self.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(END_SECONDS):
            await self.process.wait()
        await self.stack.aclose()

    async def kill(self) -> tuple[float, float]:
        """When it was killed, and when it was gone: seconds of the loop's clock."""
        loop = asyncio.get_running_loop()
        killed = loop.time()
        self.process.kill()
        await self.process.wait()
        return killed, loop.time()


@dataclass(eq=False)
class Mesh:
    """`exposed`: the replicas that are endpoints. `secret`: the token of all laptops. `path`: the way
    from the replicas to Redis."""

    folder: Path
    secret: str
    redis: RedisServer
    path: Wire
    session: aiohttp.ClientSession
    data: Endpoints
    control: Endpoints
    envoy: Envoy | None = None
    replicas: list[Replica] = field(default_factory=list)
    exposed: list[Replica] = field(default_factory=list)
    programs: list[asyncio.subprocess.Process] = field(default_factory=list)
    record: TokenRecord | None = None

    @property
    def entry(self) -> str:
        """The URL of the sidecar."""
        return _url(self._listener(INBOUND))

    @property
    def server(self) -> str:
        """The URL by which laptops reach any replica."""
        return _url(self._listener(LAPTOPS))

    def _listener(self, name: str) -> Endpoint:
        assert self.envoy is not None
        return self.envoy.listeners[name]

    def pids(self) -> list[int]:
        """Of this process, of Envoy, and of the replicas and programs that have not ended."""
        processes = [*(each.process for each in self.replicas), *self.programs]
        if self.envoy is not None:
            processes.append(self.envoy.process)
        return [os.getpid(), *(each.pid for each in processes if each.returncode is None)]

    # --- replicas

    async def start(self, *, memory: bool = False) -> Replica:
        """A replica that is ready, which gets no requests yet. `memory`: one that shares nothing."""
        number = 1 + max((each.id for each in self.replicas), default=0)
        folder = self.folder / f"replica-{number}"
        while folder.exists():  # others start at the same time
            number += 1
            folder = self.folder / f"replica-{number}"
        folder.mkdir()
        environment = {
            "DEVROUTE_AUDIT": "off",
            "DEVROUTE_MAX_LINKS_PER_SUBJECT": str(MAX_LINKS),
            "DEVROUTE_PEER_HOST": "127.0.0.1",
            "DEVROUTE_PEER_PORT": "0",
        }
        if not memory:
            environment["DEVROUTE_REGISTRY"] = f"redis://127.0.0.1:{self.path.port}/0"
        assert self.record is not None
        stack = AsyncExitStack()
        proxy = await stack.enter_async_context(testbed.proxy(folder, [self.record], environment=environment))
        replica = Replica(number, proxy, stack)
        self.replicas.append(replica)
        await eventually(lambda: self._is_ready(replica), f"replica {number} is ready")
        return replica

    def expose(self, *replicas: Replica) -> None:
        """Let them be endpoints, besides those that are."""
        self.set_endpoints([*self.exposed, *replicas])

    def withdraw(self, replica: Replica) -> None:
        self.set_endpoints([each for each in self.exposed if each is not replica])

    def set_endpoints(self, replicas: list[Replica]) -> None:
        """Let these be all."""
        self.exposed = replicas
        self.data.set([each.proxy.data for each in replicas])
        self.control.set([each.proxy.control for each in replicas])

    async def _is_ready(self, replica: Replica) -> bool:
        url = f"{_url(replica.proxy.admin)}/readyz"
        try:
            async with self.session.get(url) as response:
                return response.status == 200
        except aiohttp.ClientError:
            return False

    # --- what a replica knows

    async def resolve(self, replica: Replica, laptop: str) -> dict[str, str]:
        """The response to a sidecar's question about a laptop."""
        headers = {"x-devroute": f'{{"{SERVICE}": "{laptop}"}}', "x-devroute-candidates": SERVICE}
        async with self.session.get(f"{replica.proxy.server}/resolve", headers=headers) as response:
            found = decode(await response.read())
        return {key: values[0] for key, values in found.items()}

    async def knows(self, replica: Replica, laptop: str) -> bool:
        return (await self.resolve(replica, laptop))["decision"] == "detour"

    async def count(self, replica: Replica) -> int:
        """How many laptops a replica knows."""
        return int((await self._api(replica, "status"))["laptops"])

    async def links(self, replica: Replica) -> int:
        """How many links a replica knows that all laptops have, at any replica."""
        return sum(await self.links_of_each(replica))

    async def links_of_each(self, replica: Replica) -> list[int]:
        """The same, of each laptop."""
        return [each["links"] for each in (await self._api(replica, "laptops"))["laptops"]]

    async def _api(self, replica: Replica, path: str) -> dict[str, Any]:
        headers = {"authorization": f"Bearer {self.secret}"}
        async with self.session.get(f"{replica.proxy.server}/api/{path}", headers=headers) as response:
            found: dict[str, Any] = await response.json()
        return found

    async def metric(self, replica: Replica, name: str) -> float:
        async with self.session.get(f"{_url(replica.proxy.admin)}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    # --- programs of our own

    @asynccontextmanager
    async def program(self, module: str, *arguments: str) -> AsyncIterator[asyncio.subprocess.Process]:
        """`python -m ha.MODULE`, until its input ends."""
        root = Path(__file__).parent.parent
        log = self.folder / f"{module}.log"
        with log.open("ab") as errors:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"ha.{module}", *arguments),
                cwd=root,
                env={**os.environ, "HOME": str(self.folder), "DEVROUTE_TOKEN": self.secret},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        self.programs.append(process)
        try:
            yield process
        finally:
            assert process.stdin is not None
            process.stdin.close()
            try:
                async with asyncio.timeout(CHILD_SECONDS):
                    await process.wait()
            except TimeoutError:
                await stop(process)

    @asynccontextmanager
    async def laptops(self, count: int, seconds: float) -> AsyncIterator[asyncio.subprocess.Process]:
        """So many agents (laptops.py), once all are online. Raises TimeoutError, or EOFError."""
        async with self.program("laptops", self.server, str(count)) as process:
            await self.line(process, seconds)
            yield process

    async def line(self, process: asyncio.subprocess.Process, seconds: float) -> bytes:
        """The next line that a program prints. Raises TimeoutError, and EOFError if it has ended."""
        assert process.stdout is not None
        async with asyncio.timeout(seconds):
            line = await process.stdout.readline()
        if not line:
            logs = "".join(each.read_text(errors="replace")[-1500:] for each in self.folder.glob("*.log"))
            raise EOFError(f"a program has ended: {logs}")
        return line


def _url(place: Endpoint) -> str:
    return f"http://{place.host}:{place.port}"


@asynccontextmanager
async def mesh(folder: Path, *, service: bool = False, replicas: int = 3) -> AsyncIterator[Mesh]:
    """So many replicas; all are endpoints. `service`: with the service's app and its sidecar."""
    folder.mkdir()  # noqa: ASYNC240
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis(folder))
        path = await stack.enter_async_context(wire(redis.socket))
        connector = aiohttp.TCPConnector(limit=0)
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector))
        secret, record = new_token(SUBJECT)
        data = Endpoints(folder / "data", PROXY.data_cluster)
        control = Endpoints(folder / "control", PROXY.control_cluster)
        run = Mesh(folder, secret, redis, path, session, data, control, record=record)
        stack.push_async_callback(_end, run.replicas)
        async with asyncio.TaskGroup() as starting:
            started = [starting.create_task(run.start()) for _ in range(replicas)]
        run.expose(*(each.result() for each in started))
        if service:
            app = await stack.enter_async_context(await apps.serve("the service"))
            environment = {"ISTIO_META_WORKLOAD_NAME": SERVICE, "POD_NAMESPACE": "default"}
            place = Endpoint("127.0.0.1", apps.port_of(app))
            described = configuration(place, data, control)
            run.envoy = await stack.enter_async_context(running(described, folder, "sidecar", environment))
        yield run


async def _end(replicas: Sequence[Replica]) -> None:
    await asyncio.gather(*(each.stack.aclose() for each in replicas))


def configuration(app: Endpoint, data: Endpoints, control: Endpoints) -> Document:
    """Of a sidecar with the shipped filter, and with a listener for the laptops."""
    known = {PROXY.data_cluster: ANY_PORT, PROXY.control_cluster: ANY_PORT}
    sidecar = Sidecar(SERVICE, app, clusters=known, as_client={PROXY.data_cluster})
    found = apply([envoy_filter(MeshScope())], sidecar, bootstrap(sidecar))
    for each in found["static_resources"]["clusters"]:
        for name, endpoints in ((PROXY.data_cluster, data), (PROXY.control_cluster, control)):
            if each["name"] == name:
                del each["load_assignment"]
                each |= endpoints.cluster | {"circuit_breakers": {"thresholds": [NO_LIMITS]}}
    tcp = {"@type": TCP_PROXY_TYPE, "stat_prefix": LAPTOPS, "cluster": PROXY.control_cluster}
    entrance = listener(LAPTOPS, "INBOUND", {}) | {"listener_filters": []}
    entrance["filter_chains"] = [
        {"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": tcp}]}
    ]
    found["static_resources"]["listeners"].append(entrance)
    return found
