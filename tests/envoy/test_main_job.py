"""The whole way on real Envoy: sidecar, `devroute proxy`, tunnel, `devroute up`, and an app on a laptop."""

import asyncio
import json
import os
import signal
import sys
import time
import warnings
import zlib
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import Envoy, stop
from devroute.mesh.istio.sidecar import INBOUND, Endpoint, Sidecar
from devroute.tunnel.protocol.windows import MAX_WINDOW
from tests.envoy import app as laptop_app
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

MIB = 1024 * 1024
#: Figures of issue 2.
BULK = 200 * MIB
FIRST_BYTE_S = 0.050
#: Of a process while it passes BULK on: a window that has grown as far as it may, and as much for the rest.
GROWTH = 2 * MAX_WINDOW
#: Promised is one second; the rest is for a busy machine. Only a link that ended silently takes longer, 15.
NOTICED_S = 10.0
#: Pieces after which an upload must have reached the laptop: more than all sockets on its way can hold.
IN_MID_UPLOAD = 400
#: For so long Envoy holds the connection of a broken HTTP/1.1 response, whatever broke it (its connection
#: manager's delayed_close_timeout), unless the caller has sent `Connection: close`.
ENVOY_HOLDS_S = 1.0


@dataclass(frozen=True)
class Job:
    """A service foo in the mesh, and people with a foo of their own; `apps` and `agents` by person."""

    client: aiohttp.ClientSession
    envoy: Envoy
    proxy: testbed.RunningProxy
    apps: dict[str, tuple[asyncio.subprocess.Process, Endpoint]]
    agents: dict[str, testbed.Command]

    @property
    def url(self) -> str:
        host, port = self.envoy.listeners[INBOUND]
        return f"http://{host}:{port}"

    def request(self, contract: object, path: str, **more: Any) -> Any:
        headers = {"x-devroute": contract if isinstance(contract, str) else json.dumps(contract)}
        headers |= more.pop("headers", {})
        return self.client.request(more.pop("method", "GET"), self.url + path, headers=headers, **more)


@asynccontextmanager
async def app_process(name: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, Endpoint]]:
    """No other test is given its port after it has been killed."""
    port = free_port()
    command = (sys.executable, laptop_app.__file__, name, str(port))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listens\n"
        yield process, Endpoint("127.0.0.1", port)
    finally:
        await stop(process)


@asynccontextmanager
async def playing(folder: Path, people: Sequence[str]) -> AsyncIterator[Job]:
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tokens = {who: new_token(who) for who in people}
        proxy = await enter(testbed.proxy(folder, [record for _, record in tokens.values()]))
        described = Sidecar("foo", await enter(testbed.app(laptop_app.create("mesh"))))
        envoy = await enter(testbed.sidecar(folder, described, proxy))
        apps = {who: await enter(app_process(who)) for who in people}
        agents = {}
        for who, (secret, _) in tokens.items():
            service = f"foo={apps[who][1].host}:{apps[who][1].port}"
            agents[who] = await enter(testbed.laptop(folder, who, proxy.server, secret, service))
        client = await enter(
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None, sock_read=30),
                connector=aiohttp.TCPConnector(limit=0),
            )
        )
        yield Job(client, envoy, proxy, apps, agents)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def job(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Job]:
    async with playing(tmp_path_factory.mktemp("job"), ["alice", "bob", "carol"]) as found:
        yield found


# --- who answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", [{"bar": "alice"}, {"foobar": "alice", "bar": "foo:80"}])
async def test_a_contract_that_names_others_reaches_the_service(job: Job, contract: object) -> None:
    async with job.request(contract, "/?id=1") as response:
        assert (await response.json())["who"] == "mesh"
        assert response.headers["x-devroute-result"] == "service"


async def test_200_requests_at_once_for_20_contracts_each_get_their_own_response(job: Job) -> None:
    async with AsyncExitStack() as stack:
        targets = {who: who for who in job.agents}
        for number in range(20 - len(targets)):
            host, port = await stack.enter_async_context(testbed.app(laptop_app.create(f"direct-{number}")))
            targets[f"direct-{number}"] = f"{host}:{port}"

        async def one(number: int, who: str, target: str) -> tuple[object, ...]:
            body = f"body of {number} " * 100
            async with job.request({"foo": target}, f"/?id={number}", method="POST", data=body) as response:
                seen = await response.json()
                result = response.headers["x-devroute-result"]
                if result != "laptop":
                    result += f": {response.headers.get('x-devroute-reason')}"
            return result, seen["who"], seen["id"], seen["body"] == body

        everybody = list(targets.items())
        for who, target in everybody:  # the sidecar has cached the decision, as for people at work already
            assert (await one(0, who, target))[:2] == ("laptop", who)
        wanted = [(number, *everybody[number % 20]) for number in range(200)]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(*each)) for each in wanted]
        seen = [task.result() for task in tasks]
    assert seen == [("laptop", who, str(number), True) for number, who, _ in wanted]


@pytest.mark.parametrize(
    ("contract", "status", "code"),
    [
        ('{"foo": [1, 2, 3]}', 400, "contract-invalid"),
        ('{"foo": "192.168.10.20_9001"}', 400, "contract-invalid"),
        ('{"foo": {"to": "8.8.8.8:80", "fallback": "fail"}}', 403, "target-denied"),
        ('{"foo": {"to": "nobody", "fallback": "fail"}}', 503, "laptop-offline"),
        ('{"foo": "alice"', 400, "contract-invalid"),
        ('{"foo": "alice", "foo": "bob"}', 400, "contract-invalid"),
    ],
)
async def test_a_malformed_contract_is_reported_at_once(
    job: Job, contract: str, status: int, code: str
) -> None:
    async with job.request(contract, "/") as response:
        assert (response.status, (await response.json())["code"]) == (status, code)
        assert response.headers["x-devroute-result"] == "error"
        assert response.headers["x-devroute-reason"]


@pytest.mark.parametrize("target", ["8.8.8.8:80", "nobody", "127.0.0.1:1025"])
async def test_what_cannot_be_detoured_reaches_the_service_with_the_reason(job: Job, target: str) -> None:
    async with job.request({"foo": target}, "/") as response:
        assert (await response.json())["who"] == "mesh"
        assert response.headers["x-devroute-result"] == "fallback"
        assert target.partition(":")[0] in response.headers["x-devroute-reason"]


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 400, "contract-missing"),
        ({"x-devroute": '{"foo": "alice"}'}, 400, "marker-missing"),
        ({"x-devroute": '{"foo": "alice"}', "x-devroute-matched": "bar"}, 400, "service-not-in-contract"),
        ({"x-devroute": '{"foo": [1, 2, 3]}', "x-devroute-matched": "foo"}, 400, "contract-invalid"),
        ({"x-devroute": '{"foo": "8.8.8.8:80"}', "x-devroute-matched": "foo"}, 403, "target-denied"),
    ],
)
async def test_the_proxy_trusts_no_sidecar(job: Job, headers: dict[str, str], status: int, code: str) -> None:
    async with job.client.get(
        f"http://{job.proxy.data.host}:{job.proxy.data.port}/", headers=headers
    ) as response:
        assert (response.status, (await response.json())["code"]) == (status, code)


@pytest.mark.parametrize("more", [{}, {"bar": "192.168.12.12:8001"}])
async def test_a_contract_detours_one_service_or_two(job: Job, more: dict[str, str]) -> None:
    host, port = job.apps["alice"][1]
    async with job.request({"foo": f"{host}:{port}"} | more, "/") as response:
        assert (response.status, (await response.json())["who"]) == (200, "alice")


# --- bulk --------------------------------------------------------------------------------------------------


def rss(process: asyncio.subprocess.Process, field: str) -> int:
    """VmRSS (now) or VmHWM (its peak since the last reset) of a process, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


class Growth:
    """How much the resident memory of Envoy, proxy and agent grew at most since the start."""

    def __init__(self, job: Job) -> None:
        self._processes = {
            "envoy": job.envoy.process,
            "proxy": job.proxy.command.process,
            "agent": job.agents["alice"].process,
        }
        for process in self._processes.values():
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # resets the peak (proc(5))
        self._before = {name: rss(each, "VmRSS") for name, each in self._processes.items()}

    def __call__(self) -> dict[str, int]:
        return {name: rss(each, "VmHWM") - self._before[name] for name, each in self._processes.items()}


async def sent_pieces(size: int) -> AsyncIterator[bytes]:
    for piece in laptop_app.pieces(size):
        yield piece


async def received(response: aiohttp.ClientResponse, began: float) -> tuple[int, int, float]:
    """Size, checksum and the seconds until the first byte."""
    size = check = 0
    first = None
    async for piece in response.content.iter_any():
        first = first or time.monotonic() - began
        size, check = size + len(piece), zlib.crc32(piece, check)
    assert first is not None
    return size, check, first


@pytest.fixture(scope="module")
def checksum() -> int:
    check = 0
    for piece in laptop_app.pieces(BULK):
        check = zlib.crc32(piece, check)
    return check


def dropped() -> int:
    """How many segments this kernel has dropped at a full receiver."""
    names, values = (
        line.split()
        for line in Path("/proc/net/netstat").read_text().splitlines()
        if line.startswith("TcpExt:")
    )
    return int(dict(zip(names, values, strict=True)).get("TCPRcvQDrop", 0))


async def transfer(job: Job, way: str, size: int) -> tuple[int, int, float]:
    """Size and checksum of what arrived, and the seconds until its first byte did."""
    began = time.monotonic()
    if way == "down":
        async with job.request({"foo": "alice"}, f"/download?size={size}") as response:
            return await received(response, began)
    path, body = ("/upload", sent_pieces(size)) if way == "up" else ("/echo", sent_pieces(size))
    async with job.request({"foo": "alice"}, path, method="POST", data=body) as response:
        if way == "both":
            return await received(response, began)
        seen = await response.json()
        return seen["size"], seen["check"], seen["began"] - began


async def transfer_whatever_the_kernel_drops(job: Job, way: str) -> tuple[int, int, float]:
    """`transfer` of BULK, once more where it failed and the kernel has dropped a segment at a full receiver:
    from Linux 6.17 on, an app that echoes may stand still for good after that (docs/decisions/0072)."""
    before = dropped()
    try:
        return await transfer(job, way, BULK)
    except aiohttp.ClientError as error:
        if dropped() == before:
            raise
        warnings.warn(f"repeated, since the kernel has dropped a segment: {error}", stacklevel=2)
    return await transfer(job, way, BULK)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("way", ["up", "down", "both"])
async def test_200_mb_stream_through_the_tunnel(job: Job, checksum: int, way: str) -> None:
    firsts = [(await transfer(job, way, MIB))[2] for _ in range(2)]
    grown = Growth(job)
    size, check, first = await transfer_whatever_the_kernel_drops(job, way)
    growth = grown()
    assert (size, check) == (BULK, checksum)
    firsts.append(first)
    # On a busy machine any single first byte may be late, so there are some to choose from.
    while min(firsts) >= FIRST_BYTE_S and len(firsts) < 100:
        firsts.append((await transfer(job, way, MIB))[2])
    assert min(firsts) < FIRST_BYTE_S
    directions = 2 if way == "both" else 1
    assert max(growth.values()) < directions * GROWTH, growth


# --- death in mid-transfer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("victim", "way", "within"),
    [
        ("agent", "down", NOTICED_S),
        ("agent", "down, kept alive", NOTICED_S + ENVOY_HOLDS_S),
        ("agent", "up", NOTICED_S),
        ("proxy", "down", NOTICED_S),
        ("proxy", "up", NOTICED_S),
        ("app", "down", NOTICED_S),
        ("app", "up", NOTICED_S),
    ],
)
async def test_a_process_that_dies_in_mid_transfer_never_makes_a_response_look_complete(
    tmp_path: Path, victim: str, way: str, within: float
) -> None:
    async with playing(tmp_path, ["alice"]) as job:
        processes = {
            "agent": job.agents["alice"].process,
            "proxy": job.proxy.command.process,
            "app": job.apps["alice"][0],
        }
        killed = asyncio.get_running_loop().create_future()

        def kill() -> None:
            if not killed.done():
                os.kill(processes[victim].pid, signal.SIGKILL)
                killed.set_result(time.monotonic())

        async def upload() -> AsyncIterator[bytes]:
            for number, piece in enumerate(laptop_app.pieces(1000 * MIB)):
                if number == IN_MID_UPLOAD:
                    kill()
                yield piece

        async with job.request(
            {"foo": "alice"}, "/"
        ) as response:  # the sidecar has cached the decision from now on
            assert response.headers["x-devroute-result"] == "laptop"
        broken = False
        try:
            if way != "up":
                closing = {"connection": "close"} if way == "down" else {}
                path = f"/download?size={1000 * MIB}"
                async with job.request({"foo": "alice"}, path, headers=closing) as response:
                    async for _ in response.content.iter_any():
                        kill()
            else:
                async with job.request({"foo": "alice"}, "/upload", method="POST", data=upload()) as response:
                    broken = response.status >= 500 and response.headers["x-devroute-result"] == "error"
        except aiohttp.ClientError:
            broken = True
        assert broken
        assert time.monotonic() - killed.result() < within

        # From then on: the real service, or (while the sidecar caches its last decision) an error at once.
        asked = time.monotonic()
        async with job.request({"foo": "alice"}, "/") as response:
            body = await response.read()
            result = response.headers["x-devroute-result"]
            assert result in ("fallback", "error"), (response.status, body)
        assert time.monotonic() - asked < NOTICED_S
