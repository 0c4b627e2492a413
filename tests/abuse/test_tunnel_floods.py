"""Both ends of a tunnel against a peer that floods it with frames that are cheap to send (PROTOCOL.md,
"Floods").

The hostile end is a real link on whose connection the test writes frames of its own.
"""

import asyncio
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from devroute.errors import TargetOverloaded, TunnelFlooded
from devroute.tunnel.link import Link
from devroute.tunnel.protocol.flood_guard import (
    RESET_BURST,
    TINY_BURST,
)
from devroute.tunnel.protocol.frames import (
    CREDIT,
    FIRST_AGENT_ID,
    MAX_STREAMS,
    OPEN_PREFIX,
    WINDOW,
    Flag,
    FrameType,
)
from devroute.tunnel.protocol.windows import LINK_RESPONSES, LINK_UNREAD, WindowBudget
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import App, Client, answer, connect, get, head, post, tunnel
from tests.support.mesh_way import reaching
from tests.support.raw_frames import encoded, frame, send


async def flood(link: Link, piece: bytes, ended: "asyncio.Future[Any]") -> None:
    """Write `piece` until the peer has ended the link: as time passes, it permits more."""
    async with asyncio.timeout(PATIENCE_S):
        while not ended.done():
            if not link.transport.is_closing():
                link.transport.write(piece)
            await asyncio.sleep(0)


FLOODS = {
    "ping": frame(FrameType.PING, payload=b"12345678"),
    "pong": frame(FrameType.PONG),
    "empty data": frame(FrameType.DATA, 1),
    "credit of one byte": frame(FrameType.CREDIT, 1, CREDIT.pack(1)),
    "data for a stream that has ended": frame(FrameType.DATA, 2, b"x"),
    "resets of a stream that has ended": frame(FrameType.RESET, 2, b"cancelled\n\n"),
}


@pytest.mark.parametrize("name", FLOODS)
async def test_an_agent_that_floods_the_proxy_loses_its_link_and_no_other_does(name: str) -> None:
    app = App()
    async with tunnel(app) as (where, hostile):
        upload = where.upstream().open(post(100_000), Client())
        upload.send_data(bytes(100_000))
        where.upstream().open(get(), Client()).cancel()
        await eventually(lambda: len(app.streams) == 2)
        send(hostile, frame(FrameType.HEAD, 1, b"HTTP/1.1 200 OK\r\n\r\n"))
        bystander = await connect(where, {"foo": App(answer(b"fine"))}, token="bob-token")
        await bystander.welcome
        client = Client()
        where.upstream("bob").open(get(), client)
        await flood(hostile, encoded(hostile, *[FLOODS[name]] * 1000), hostile.disconnected)
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert hostile.goaway is not None
        assert hostile.goaway.code == "tunnel-flood"
        assert (client.error, client.body) == (None, b"fine")
        bystander.drain("leaving", "the test is over")


@pytest.mark.parametrize(
    "opcode", [0x80 | 0x9, 0x80 | 0xA, 0x80 | 0x2], ids=["ping", "pong", "empty message"]
)
async def test_a_flood_of_websocket_frames_ends_the_link(opcode: int) -> None:
    async with tunnel(App()) as (_, hostile):
        await flood(hostile, bytes((opcode, 0x80, 1, 2, 3, 4)) * 1000, hostile.disconnected)
        assert hostile.goaway is not None
        assert hostile.goaway.code == "tunnel-flood"


async def test_a_proxy_that_opens_and_resets_streams_loses_its_agent() -> None:
    app = App()
    async with tunnel(app) as (where, agent):
        (hostile,) = where.tunnels.links
        opening = OPEN_PREFIX.pack(0, 3) + b"foo" + get().wire
        numbers = itertools.count(1)
        async with asyncio.timeout(PATIENCE_S):
            while not agent.close_reason.done():  # as time passes, it permits more
                for number in itertools.islice(numbers, 100):
                    reset = frame(FrameType.RESET, number, b"cancelled\n\n")
                    send(hostile, frame(FrameType.OPEN, number, opening, Flag.END), reset)
                await asyncio.sleep(0)
        assert isinstance(agent.close_reason.result(), TunnelFlooded)
        await eventually(lambda: all(stream.cancelled.is_set() for stream in app.streams))
        assert RESET_BURST <= len(app.streams) < next(numbers)


async def test_an_agent_that_opens_and_resets_streams_loses_its_link() -> None:
    app = App()
    async with reaching(app) as (_, _links, hostile, _where):
        opening = OPEN_PREFIX.pack(0, 4) + b"c:80" + get().wire
        numbers = itertools.count(FIRST_AGENT_ID)
        async with asyncio.timeout(PATIENCE_S):
            while not hostile.close_reason.done():  # as time passes, it permits more
                for number in itertools.islice(numbers, 100):
                    reset = frame(FrameType.RESET, number, b"cancelled\n\n")
                    send(hostile, frame(FrameType.OPEN, number, opening, Flag.END), reset)
                await asyncio.sleep(0)
        assert hostile.goaway is not None
        assert hostile.goaway.code == "tunnel-flood"
        await eventually(lambda: all(stream.cancelled.is_set() for stream in app.streams))
        assert RESET_BURST <= len(app.streams) < next(numbers) - FIRST_AGENT_ID


async def test_an_agent_that_opens_more_streams_than_it_can_have_read_the_end_of_loses_its_link() -> None:
    async with reaching(App(answer(bytes(5_000)))) as (mesh, _links, hostile, where):
        (proxy,) = where.tunnels.links
        opening = OPEN_PREFIX.pack(0, 4) + b"c:80" + get().wire
        numbers = itertools.count(FIRST_AGENT_ID)
        hostile.transport.pause_reading()
        async with asyncio.timeout(PATIENCE_S):
            while not proxy.disconnected.done():
                if not hostile.transport.is_closing():
                    frames = (frame(FrameType.OPEN, next(numbers), opening, Flag.END) for _ in range(100))
                    send(hostile, *frames)
                await asyncio.sleep(0)
        assert isinstance(proxy.close_error, TunnelFlooded)
        assert MAX_STREAMS < len(mesh.ended) < 3 * MAX_STREAMS


async def test_a_laptop_that_does_not_read_gets_no_more_requests_than_the_proxy_can_hold() -> None:
    async with tunnel(App()) as (where, agent):
        (proxy,) = where.tunnels.links
        agent.transport.pause_reading()
        clients = [Client() for _ in range(LINK_UNREAD // 100_000 + 200)]
        for client in clients:
            where.upstream().open(post(100_000), client).send_data(bytes(100_000))
            await asyncio.sleep(0)
        assert LINK_UNREAD < proxy.unread < LINK_UNREAD + 1024 * 1024
        await asyncio.wait_for(clients[-1].done.wait(), PATIENCE_S)
        assert isinstance(clients[-1].error, TargetOverloaded)
        assert "does not read" in clients[-1].error.message
        assert isinstance(where.upstream().reserve(), TargetOverloaded)
        agent.transport.resume_reading()
        await eventually(lambda: not proxy.unread)
        assert where.upstream().reserve() is None


async def test_a_proxy_that_floods_the_agent_loses_it() -> None:
    async with tunnel(App()) as (where, agent):
        (hostile,) = where.tunnels.links
        await flood(hostile, encoded(hostile, *[FLOODS["ping"]] * 1000), agent.close_reason)
        assert isinstance(agent.close_reason.result(), TunnelFlooded)


async def test_all_streams_of_a_sidecar_that_dies_are_no_flood() -> None:
    """A proxy may reset everything at once for good reasons, and twice."""
    app = App()
    async with tunnel(app) as (where, agent):
        upstream = where.upstream()
        for _ in range(2):
            streams = []
            while len(streams) < 4000:  # in parts, so that both ends, which share this loop, answer pings
                streams += [upstream.open(get(), Client()) for _ in range(400)]
                await eventually(lambda: agent.in_flight == len(streams))  # noqa: B023  # awaited here
            for stream in streams:
                stream.cancel()
            await eventually(lambda: not agent.in_flight)
        client = Client()
        app.serve = answer(b"still here")
        upstream.open(get(), client)
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert client.body == b"still here"


@pytest.fixture
async def stalled() -> AsyncIterator[tuple[Link, Link, Client, Callable[[], None]]]:
    """The agent's link and the proxy's, a response that has begun, and what lets its client read."""
    async with tunnel(App()) as (where, agent):
        client = Client()
        stream = where.upstream().open(get(), client)
        stream.pause_response()
        await eventually(lambda: agent.in_flight)
        send(agent, frame(FrameType.HEAD, 1, head(200).raw))
        await client.first.wait()
        (proxy,) = where.tunnels.links
        yield agent, proxy, client, stream.resume_response


async def test_tiny_data_is_read_slowly_and_loses_nothing(
    stalled: tuple[Link, Link, Client, Callable[[], None]],
) -> None:
    agent, proxy, client, resume = stalled
    resume()
    piece = encoded(agent, *[frame(FrameType.DATA, 1, b"x")] * 2000)
    pieces = 0
    while proxy.transport.is_reading():
        agent.transport.write(piece)
        pieces += 1
        await asyncio.sleep(0)
    assert TINY_BURST < 2000 * pieces < WINDOW
    agent.transport.write(piece)
    await eventually(lambda: client.size == 2000 * (pieces + 1))
    assert agent.close_error is None


async def test_tiny_data_that_waits_costs_little_more_than_its_bytes(
    stalled: tuple[Link, Link, Client, Callable[[], None]],
) -> None:
    agent, _, client, resume = stalled
    count = TINY_BURST // 2
    send(agent, *[frame(FrameType.DATA, 1, b"x")] * 100)
    pieces = [encoded(agent, *[frame(FrameType.DATA, 1, b"x")] * 400) for _ in range(count // 400)]
    await agent.heartbeat.ping()  # its PONG says that the proxy has read all that was sent before
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for piece in pieces:
            agent.transport.write(piece)
        await agent.heartbeat.ping()
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 10 * count  # a bytes object of one byte has 34, and its place in a list 8
    resume()
    await eventually(lambda: client.size == count + 100)
    assert client.body == b"x" * (count + 100)


async def test_responses_that_wait_for_clients_that_do_not_read_are_bounded_and_room_returns() -> None:
    app = App()
    async with tunnel(app) as (where, _agent):
        (proxy,) = where.tunnels.links
        assert proxy.waiting_responses is not None
        assert proxy.waiting_responses.left == LINK_RESPONSES
        proxy.waiting_responses = waiting = WindowBudget(300_000)
        clients = [Client() for _ in range(4)]
        streams = [where.upstream().open(get(), client) for client in clients]
        await eventually(lambda: len(app.streams) == 4)
        for stream, answering in zip(streams, app.streams, strict=True):
            stream.pause_response()
            answering.sink.on_head(head(200))
            answering.sink.on_data(bytes(100_000))
        await asyncio.wait_for(clients[3].done.wait(), PATIENCE_S)
        assert isinstance(clients[3].error, TargetOverloaded)
        await asyncio.wait_for(app.streams[3].cancelled.wait(), PATIENCE_S)
        assert waiting.left == 0
        streams[0].cancel()
        assert waiting.left == 100_000
        streams[1].resume_response()
        assert (clients[1].size, waiting.left) == (100_000, 200_000)
        proxy.close_with(TunnelFlooded("the test is over"))
        assert waiting.left == 300_000
