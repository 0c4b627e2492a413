"""What happens when something fails, row by row as docs/ha.md says: two real replicas, a real Redis, and
wires between them that are cut."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import aiohttp.web
import pytest
import pytest_asyncio

from devroute.agent import app as agent
from devroute.agent.api_client import fetch
from devroute.agent.doctor.checks import Doctor
from devroute.agent.settings import AgentSettings
from devroute.auth.tokens import new_token
from devroute.cli.status import describe_status
from devroute.contract.service_spec import ServiceSpec
from devroute.mesh import testbed
from tests.support.eventually import eventually
from tests.support.laptop import serving
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, needs_redis, running_redis
from tests.support.relay import Wire, wire
from tests.support.resolve_reader import decode

pytestmark = [needs_redis, pytest.mark.asyncio(loop_scope="module")]

#: Seconds that a request may take at most, whatever fails; on a machine whose cores are all in use.
LONGEST = 20.0

SECRETS = {name: new_token(name) for name in ("ann", "ben", "eve", "two-links")}


class Side:
    """A replica: its process, the ways to it and from it, and the laptop that dials it alone, and so has one
    link."""

    def __init__(self, name: str, laptop: str, redis: Wire, peer: Wire, control: Wire) -> None:
        self.name, self.laptop = name, laptop
        self.redis, self.peer, self.control = redis, peer, control
        self.starts = 0
        self.proxy: testbed.RunningProxy

    @property
    def process(self) -> asyncio.subprocess.Process:
        return self.proxy.command.process

    def logged(self, event: str) -> int:
        return sum(each.get("event") == event for each in self.proxy.command.events())


@dataclass
class Mesh:
    """Two replicas. What fails is the first one, or what it depends on, unless both are concerned; what is
    observed is mostly the second one."""

    folder: Path
    stack: AsyncExitStack
    server: RedisServer
    client: aiohttp.ClientSession
    app: int
    both: Wire
    arrived: asyncio.Event
    finish: asyncio.Event
    sides: list[Side] = field(default_factory=list)
    laptops: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    @property
    def one(self) -> Side:
        return self.sides[0]

    @property
    def two(self) -> Side:
        return self.sides[1]

    async def add(self, name: str, laptop: str, host: str) -> Side:
        """`host`: by which others reach it, through its wire."""
        port = free_port()
        enter = self.stack.enter_async_context
        redis = await enter(wire(self.server.socket))
        peer = await enter(wire(("127.0.0.1", port), host=host, port=port))
        control = await enter(wire())
        side = Side(name, laptop, redis, peer, control)
        self.sides.append(side)
        await self.start(side)
        self.dial(laptop, side.control)
        return side

    async def start(self, side: Side) -> None:
        side.starts += 1
        folder = self.folder / f"{side.name}-{side.starts}"
        folder.mkdir()
        environment = {
            "DEVROUTE_REGISTRY": f"redis://127.0.0.1:{side.redis.port}",
            "DEVROUTE_PEER_HOST": "127.0.0.1",
            "DEVROUTE_PEER_PORT": str(side.peer.port),
            "DEVROUTE_ADVERTISE_HOST": side.peer.host,
        }
        started = testbed.proxy(folder, [record for _, record in SECRETS.values()], environment=environment)
        side.proxy = await self.stack.enter_async_context(started)
        side.control.targets = [tuple(side.proxy.control)]
        self.both.targets = [target for each in self.sides for target in each.control.targets]

    def settings(self, name: str, control: Wire) -> AgentSettings:
        return AgentSettings.model_validate(
            {
                "server": f"http://127.0.0.1:{control.port}",
                "token": SECRETS[name][0],
                "services": (ServiceSpec("foo", "127.0.0.1", self.app),),
                "output": "json",
                "inspector": "off",
            }
        )

    def dial(self, name: str, control: Wire) -> None:
        running = agent.run(self.settings(name, control))
        self.laptops[name] = asyncio.get_running_loop().create_task(running)

    async def hang_up(self, name: str) -> None:
        task = self.laptops.pop(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    # --- what is observed

    async def get(self, side: Side, laptop: str, path: str = "/") -> str:
        """What responds to a request for a laptop that meets a replica: "laptop", or the code of an error."""
        contract = {"x-devroute": json.dumps({"foo": laptop}), "x-devroute-matched": "foo"}
        url = f"http://127.0.0.1:{side.proxy.data.port}{path}"
        # The slow one is open while the test goes on; who waits for its end limits that.
        timeout = aiohttp.ClientTimeout(total=None if path == "/slow" else LONGEST)
        try:
            async with self.client.get(url, headers=contract, timeout=timeout) as response:
                if response.headers["x-devroute-result"] == "laptop":
                    return await response.text()
                return str((await response.json())["code"])
        except aiohttp.ClientPayloadError:
            return "cut off"

    async def resolve(self, side: Side, laptop: str) -> str:
        """The decision of /resolve."""
        asked = {"x-devroute": json.dumps({"foo": laptop}), "x-devroute-candidates": "foo"}
        url = f"http://127.0.0.1:{side.proxy.control.port}/resolve"
        async with self.client.get(url, headers=asked) as response:
            return decode(await response.read())["decision"][0]

    async def status(self, side: Side) -> tuple[int, dict[str, Any]]:
        """Of /readyz."""
        url = f"http://127.0.0.1:{side.proxy.admin.port}/readyz"
        async with self.client.get(url) as response:
            return response.status, await response.json()

    async def gauges(self, side: Side) -> dict[str, int]:
        url = f"http://127.0.0.1:{side.proxy.admin.port}/metrics"
        async with self.client.get(url) as response:
            text = await response.text()
        found = dict(line.split(" ") for line in text.splitlines() if line.count(" ") == 1)
        return {name: int(float(found[f"devroute_{name}"])) for name in ("replicas", "registry_up")}

    async def is_whole(self) -> bool:
        """Whether both replicas reach both laptops, and Redis, and the one with two links has both."""
        for side in self.sides:
            code, status = await self.status(side)
            if code != 200 or status["registry_problem"] is not None or status["replicas"] != 2:
                return False
            for other in self.sides:
                if await self.get(side, other.laptop) != "laptop":
                    return False
        listed = await fetch(self.settings("two-links", self.two.control), "/api/laptops")
        return any((each["name"], each["links"]) == ("two-links", 2) for each in listed["laptops"])  # type: ignore[attr-defined]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("mesh")
    arrived, finish = asyncio.Event(), asyncio.Event()

    async def respond(request: aiohttp.web.BaseRequest) -> aiohttp.web.Response:
        if request.path == "/slow":
            arrived.set()
            await finish.wait()
        return aiohttp.web.Response(text="laptop")

    async with AsyncExitStack() as stack:
        server = stack.enter_context(running_redis(folder))
        timeout = aiohttp.ClientTimeout(total=LONGEST)
        connector = aiohttp.TCPConnector(force_close=True)
        client = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, timeout=timeout))
        app = await stack.enter_async_context(serving(respond))
        both = await stack.enter_async_context(wire())
        found = Mesh(folder, stack, server, client, app, both, arrived, finish)
        await found.add("one", "ann", "127.0.0.2")
        await found.add("two", "ben", "127.0.0.3")
        found.dial("two-links", both)
        await eventually(found.is_whole, "both laptops at both replicas", within=40)
        yield found
        for name in list(found.laptops):
            await found.hang_up(name)


# --- what fails, and how it is mended -----------------------------------------------------------------------

Act = Callable[[Mesh], Awaitable[None]]


async def kill_redis(mesh: Mesh) -> None:
    mesh.server.stop()


async def start_redis(mesh: Mesh) -> None:
    mesh.server.start()


async def empty_redis(mesh: Mesh) -> None:
    mesh.server.stop()
    mesh.server.start()


async def nothing(mesh: Mesh) -> None: ...


async def pause_redis(mesh: Mesh) -> None:
    mesh.server.signal(signal.SIGSTOP)


async def resume_redis(mesh: Mesh) -> None:
    mesh.server.signal(signal.SIGCONT)


async def silence_redis(mesh: Mesh) -> None:
    for side in mesh.sides:
        side.redis.silence()


async def refuse_redis(mesh: Mesh) -> None:
    for side in mesh.sides:
        await side.redis.refuse()


async def heal(mesh: Mesh) -> None:
    for side in mesh.sides:
        await side.redis.heal()
        await side.peer.heal()


async def kill_one(mesh: Mesh) -> None:
    mesh.one.process.kill()
    await mesh.one.process.wait()
    await mesh.one.peer.refuse()  # as the kernel does where no process listens


async def start_one(mesh: Mesh) -> None:
    await mesh.one.peer.heal()
    await mesh.start(mesh.one)


async def freeze_one(mesh: Mesh) -> None:
    mesh.one.process.send_signal(signal.SIGSTOP)


async def thaw_one(mesh: Mesh) -> None:
    mesh.one.process.send_signal(signal.SIGCONT)


async def part_one_from_redis(mesh: Mesh) -> None:
    """For longer than its key lives."""
    mesh.one.redis.silence()
    mesh.server.client.delete(
        *(key for key in keys(mesh) if mesh.one.peer.host.encode() in record(mesh, key))
    )


def keys(mesh: Mesh) -> list[bytes]:
    return mesh.server.client.keys("{devroute}:replica:*")  # type: ignore[no-any-return]


def record(mesh: Mesh, key: bytes) -> bytes:
    return mesh.server.client.hget(key, "@") or b""  # type: ignore[return-value]


async def part_peers(mesh: Mesh) -> None:
    for side in mesh.sides:
        side.peer.silence()


async def refuse_peers(mesh: Mesh) -> None:
    for side in mesh.sides:
        await side.peer.refuse()


async def isolate_one(mesh: Mesh) -> None:
    mesh.one.redis.silence()
    await part_peers(mesh)


@dataclass(frozen=True)
class Row:
    """`running`: whether a request that the second replica has forwarded to the first goes on. `new`: what
    comes of later ones, and `decision`: of /resolve. `spreads`: whether a laptop that dials the second
    replica is known to the first. `problem`: who has lost Redis. `event`: what the second one writes to its
    log, once. `replicas`: how many it knows."""

    fail: Act
    mend: Act
    running: bool = True
    new: str = "laptop"
    decision: str = "detour"
    spreads: bool = False
    problem: tuple[int, ...] = ()
    event: str = ""
    replicas: int = 2


ROWS = {
    "redis-killed": Row(kill_redis, start_redis, problem=(0, 1), event="registry.unavailable"),
    "redis-restarted-empty": Row(empty_redis, nothing, spreads=True),
    "redis-paused": Row(pause_redis, resume_redis, problem=(0, 1), event="registry.unavailable"),
    "redis-silent": Row(silence_redis, heal, problem=(0, 1), event="registry.unavailable"),
    "redis-refuses": Row(refuse_redis, heal, problem=(0, 1), event="registry.unavailable"),
    "replica-killed": Row(
        kill_one, start_one, False, "laptop-offline", "fallback", event="replica.ended", replicas=1
    ),
    "replica-frozen": Row(
        freeze_one, thaw_one, False, "laptop-offline", "fallback", event="replica.lost", replicas=1
    ),
    "replica-without-redis": Row(part_one_from_redis, heal, problem=(0,)),
    "peers-silent": Row(part_peers, heal, False, "target-unreachable", spreads=True),
    "peers-refuse": Row(refuse_peers, heal, False, "target-unreachable", spreads=True, event="replica.back"),
    "replica-isolated": Row(
        isolate_one,
        heal,
        False,
        "laptop-offline",
        "fallback",
        problem=(0,),
        event="replica.lost",
        replicas=1,
    ),
}


async def test_doctor_and_status_say_how_many_replicas_there_are(mesh: Mesh) -> None:
    for side in mesh.sides:
        settings = mesh.settings("eve", side.control)
        (tunnel,) = [each async for each in Doctor(settings, None).examine() if each.check == "tunnel"]
        assert f"; to the replica {id_of(mesh, side)}, one of 2" in tunnel.text
        lines = describe_status(settings.server, await fetch(settings, "/api/status"))
        assert ["replicas", "2"] in [line.split() for line in lines]


def id_of(mesh: Mesh, side: Side) -> str:
    found = [json.loads(record(mesh, key)) for key in keys(mesh)]
    (own,) = (each["id"] for each in found if each["peer"] == f"{side.peer.host}:{side.peer.port}")
    return str(own)


@pytest.mark.parametrize("row", ROWS.values(), ids=ROWS)
async def test_a_failure_is_what_the_table_says(mesh: Mesh, row: Row) -> None:
    one, two = mesh.one, mesh.two
    mesh.arrived.clear()
    mesh.finish.clear()
    before = two.logged(row.event)
    running = asyncio.get_running_loop().create_task(mesh.get(two, one.laptop, "/slow"))
    await asyncio.wait_for(mesh.arrived.wait(), LONGEST)
    await row.fail(mesh)
    try:
        assert await mesh.get(two, "two-links") == "laptop"
        assert await mesh.resolve(two, "two-links") == "detour"
        mesh.dial("eve", two.control)
        await eventually(lambda: responds(mesh, two, "eve"), "the new laptop")
        if row.event:
            await eventually(lambda: two.logged(row.event) > before, row.event)
        await eventually(lambda: responds(mesh, two, one.laptop, row.new), f"{row.new} at the second replica")
        assert await mesh.get(two, two.laptop) == await mesh.get(two, "two-links") == "laptop"
        await eventually(lambda: decides(mesh, two, one.laptop, row.decision), row.decision)
        for side in (mesh.sides[number] for number in row.problem):
            await eventually(lambda side=side: has_problem(mesh, side), "the problem in /readyz")
            told = await fetch(mesh.settings("two-links", side.control), "/api/status")
            assert told["registry"] == "unavailable"
        code, status = await mesh.status(two)
        assert (code, status["replicas"]) == (200, row.replicas)
        assert await mesh.gauges(two) == {
            "replicas": row.replicas,
            "registry_up": int(1 not in row.problem),
        }
        if row.spreads:
            await eventually(lambda: knows(mesh, one, "eve"), "the new laptop at the first replica")
        assert two.logged(row.event) == before + bool(row.event)
        if not row.running:
            assert await asyncio.wait_for(running, LONGEST) not in ("laptop", "cut off")
    finally:
        await row.mend(mesh)
    mesh.finish.set()
    if row.running:
        assert await asyncio.wait_for(running, LONGEST) == "laptop"
    await eventually(mesh.is_whole, "all as before", within=40)
    await eventually(lambda: knows(mesh, one, "eve"), "the new laptop at the first replica")
    await mesh.hang_up("eve")
    for side in mesh.sides:
        await eventually(lambda side=side: forgets(mesh, side, "eve"), "the end of the new laptop")


async def responds(mesh: Mesh, side: Side, laptop: str, expected: str = "laptop") -> bool:
    return await mesh.get(side, laptop) == expected


async def decides(mesh: Mesh, side: Side, laptop: str, decision: str) -> bool:
    return await mesh.resolve(side, laptop) == decision


async def knows(mesh: Mesh, side: Side, laptop: str) -> bool:
    return await decides(mesh, side, laptop, "detour")


async def forgets(mesh: Mesh, side: Side, laptop: str) -> bool:
    return await decides(mesh, side, laptop, "fallback")


async def has_problem(mesh: Mesh, side: Side) -> bool:
    code, status = await mesh.status(side)
    return code == 200 and status["registry_problem"] is not None
