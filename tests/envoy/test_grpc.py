"""gRPC on real Envoy: grpcio, a sidecar with our filter, `devroute proxy`, tunnel, `devroute up`, grpcio."""

import asyncio
import json
import sys
import zlib
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio
from grpc import aio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.envoy import Envoy, stop
from devroute.mesh.istio.sidecar import INBOUND, Endpoint, Sidecar
from tests.envoy.test_main_job import BULK, GROWTH, rss
from tests.support import grpc_app
from tests.support.eventually import PATIENCE_S
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

#: Envoy's own windows are 16 MiB a stream, downstream and upstream, in both directions.
ENVOY_GROWTH = 4 * 16 * 1024 * 1024
PIECE = 64 * 1024
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.default_authority", "foo")]


@dataclass(frozen=True)
class Mesh:
    """The service foo and alice's own, both of them gRPC apps. `laptop` is where hers listens, `secret` her
    token."""

    folder: Path
    channel: aio.Channel
    envoy: Envoy
    proxy: testbed.RunningProxy
    secret: str
    agent: testbed.Command
    laptop: Endpoint

    @property
    def targets(self) -> dict[str, str]:
        return {"tunnel": "alice", "direct": "{}:{}".format(*self.laptop)}

    def up(self, name: str, app: Endpoint) -> AbstractAsyncContextManager[testbed.Command]:
        """`devroute up` of the laptop `name` with an app of its own."""
        return testbed.laptop(
            self.folder, name, self.proxy.server, self.secret, "foo=grpc://{}:{}".format(*app), "--name", name
        )


def contract(target: str) -> tuple[str, str]:
    return ("x-devroute", json.dumps({"foo": target}))


@asynccontextmanager
async def app_process() -> AsyncIterator[tuple[asyncio.subprocess.Process, Endpoint]]:
    """No other test is given its port after it has been killed."""
    port = free_port()
    command = (sys.executable, grpc_app.__file__, str(port))
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, start_new_session=True
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"listens\n"
        yield process, Endpoint("127.0.0.1", port)
    finally:
        await stop(process)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("grpc")
    secret, record = new_token("alice")
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        server, number = await grpc_app.start()
        stack.push_async_callback(server.stop, None)
        proxy = await enter(testbed.proxy(folder, [record]))
        _, laptop = await enter(app_process())
        agent = await enter(
            testbed.laptop(folder, "alice", proxy.server, secret, f"foo=grpc://{laptop.host}:{laptop.port}")
        )
        described = Sidecar("foo", Endpoint("127.0.0.1", number), as_client=["inbound|8080||"])
        envoy = await enter(testbed.sidecar(folder, described, proxy))
        address = "{}:{}".format(*envoy.listeners[INBOUND])
        channel = await enter(aio.insecure_channel(address, options=OPTIONS))
        yield Mesh(folder, channel, envoy, proxy, secret, agent, laptop)


@pytest.fixture(params=["tunnel", "direct"])
def to(request: pytest.FixtureRequest, mesh: Mesh) -> tuple[tuple[str, str], ...]:
    """The contract as metadata."""
    return (contract(mesh.targets[request.param]),)


async def test_without_a_contract_the_service_responds(mesh: Mesh) -> None:
    call = mesh.channel.unary_unary("/t/Unary")(b"hi", metadata=(("x-echo", "1"),))
    assert await call == b"hi"
    assert "x-devroute-result" not in dict(await call.initial_metadata())


async def test_calls_of_all_kinds_reach_the_laptop(mesh: Mesh, to: Any) -> None:
    channel = mesh.channel
    sent = (("x-echo", "1"), ("x-echo", "2"), ("x-echo-bin", b"\0\xff"))
    unary = channel.unary_unary("/t/Unary")(b"\0\1\2", metadata=(*to, *sent))
    assert await unary == b"\0\1\2"
    for metadata in (await unary.initial_metadata(), await unary.trailing_metadata()):
        # Envoy joins repeated fields, as RFC 9110 §5.3 permits.
        echoed = [(key, value) for key, value in metadata if key.startswith("x-echo")]
        assert echoed in (list(sent), [("x-echo", "1,2"), sent[2]])
    assert dict(await unary.initial_metadata())["x-devroute-result"] == "laptop"
    assert await channel.stream_unary("/t/Sum")(iter([b"x" * 1000] * 50), metadata=to) == b"50000"
    sizes = [len(each) async for each in channel.unary_stream("/t/Count")(b"40 50000", metadata=to)]
    assert sizes == [50000] * 40
    echo = channel.stream_stream("/t/Echo")(metadata=to)
    for each in (b"a", b"", b"c" * 200_000):
        await echo.write(each)
        assert await asyncio.wait_for(echo.read(), PATIENCE_S) == each
    await echo.done_writing()
    assert await echo.read() is aio.EOF
    assert await echo.code() is grpc.StatusCode.OK


async def test_the_laptops_errors_reach_the_caller(mesh: Mesh, to: Any) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await mesh.channel.unary_unary("/t/Abort")("naïve 100 %".encode(), metadata=to)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "naïve 100 %"
    assert dict(caught.value.trailing_metadata())["x-why-bin"] == b"\0\xff"
    assert dict(caught.value.trailing_metadata())["x-devroute-result"] == "laptop"


@pytest.mark.parametrize("why", ["cancel", "deadline"])
async def test_a_call_that_is_cancelled_ends_on_the_laptop(mesh: Mesh, to: Any, why: str) -> None:
    timeout = 8.0 if why == "deadline" else None
    call = mesh.channel.unary_stream("/t/Hang")(b"", metadata=to, timeout=timeout)
    assert await call.read() == b"started"
    if why == "cancel":
        call.cancel()
    else:
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    ended = mesh.channel.unary_unary("/t/Cancelled")(b"", metadata=to)
    assert await asyncio.wait_for(ended, PATIENCE_S) == b""


async def test_a_refusal_is_a_grpc_status(mesh: Mesh) -> None:
    target = json.dumps({"foo": {"to": "nobody", "fallback": "fail"}})
    with pytest.raises(aio.AioRpcError) as caught:
        await mesh.channel.unary_unary("/t/Unary")(b"", metadata=(("x-devroute", target),))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    fallback = mesh.channel.unary_unary("/t/Unary")(b"hi", metadata=(contract("nobody"),))
    assert await fallback == b"hi"
    assert dict(await fallback.initial_metadata())["x-devroute-result"] == "fallback"


def resident(process: asyncio.subprocess.Process) -> int:
    """Bytes now; the peak counts from here."""
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # proc(5)
    return rss(process, "VmRSS")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_200_mb_both_ways_at_once_through_the_tunnel(mesh: Mesh) -> None:
    to = (contract("alice"),)
    assert await mesh.channel.unary_unary("/t/Unary")(b"hi", metadata=to) == b"hi"
    processes = {
        "envoy": mesh.envoy.process,
        "proxy": mesh.proxy.command.process,
        "agent": mesh.agent.process,
    }
    before = {name: resident(process) for name, process in processes.items()}
    filling = bytes(range(256)) * (PIECE // 256)
    sent = received = 0

    async def pieces() -> AsyncIterator[bytes]:
        nonlocal sent
        for number in range(BULK // PIECE):
            piece = number.to_bytes(8) + filling[8:]
            sent = zlib.crc32(piece, sent)
            yield piece

    size = 0
    async for piece in mesh.channel.stream_stream("/t/Echo")(pieces(), metadata=to):
        size += len(piece)
        received = zlib.crc32(piece, received)
    grown = {name: rss(process, "VmHWM") - before[name] for name, process in processes.items()}
    assert (size, received) == (BULK, sent)
    assert max(grown["proxy"], grown["agent"]) < 2 * GROWTH, grown  # in both directions at once
    assert grown["envoy"] < ENVOY_GROWTH, grown


async def test_the_death_of_the_laptops_app_ends_its_calls(mesh: Mesh) -> None:
    """With an app and a laptop of its own: tests run in any order, and this app does not come back."""
    name = "alice--short-lived"
    async with app_process() as (app, address), mesh.up(name, address):
        calls = [
            mesh.channel.unary_stream("/t/Hang")(b"", metadata=(contract(target),))
            for target in (name, "{}:{}".format(*address))
        ]
        for call in calls:
            assert await call.read() == b"started"
        app.kill()
        for call in calls:
            code = await asyncio.wait_for(call.code(), PATIENCE_S)
            assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE)
        with pytest.raises(aio.AioRpcError) as caught:
            await mesh.channel.unary_unary("/t/Unary")(b"", metadata=(contract(name),))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "refused the connection" in (caught.value.details() or "")
