"""Both ends of a tunnel against a peer that floods it with frames that are cheap to send (PROTOCOL.md,
"Floods").

The hostile end is a real link on whose connection the test writes frames of its own.
"""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator, Callable

import pytest

from devroute.errors import TunnelFlooded
from devroute.tunnel.link import Link
from devroute.tunnel.protocol.flood_guard import (
    CONTROL_BURST,
    RESET_BURST,
    TINY_BURST,
    TINY_PER_SECOND,
)
from devroute.tunnel.protocol.frames import CREDIT, OPEN_PREFIX, Flag, FrameType
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, answer, connect, get, head, post, tunnel
from tests.support.raw_frames import encoded, frame, send

PATIENCE = 10.0

#: More than the burst and what is granted while the test runs.
FLOOD = CONTROL_BURST + 12_000


async def ended_for_flooding(link: Link) -> None:
    """Wait until the peer has closed the link."""
    async with asyncio.timeout(PATIENCE):
        await link.disconnected


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
        for _ in range(FLOOD // 1000):
            send(hostile, *[FLOODS[name]] * 1000)
        client = Client()
        where.upstream("bob").open(get(), client)
        await ended_for_flooding(hostile)
        await asyncio.wait_for(client.done.wait(), PATIENCE)
        assert hostile.goaway is not None
        assert hostile.goaway.code == "tunnel-flood"
        assert (client.error, client.body) == (None, b"fine")
        bystander.drain("leaving", "the test is over")


@pytest.mark.parametrize(
    "opcode", [0x80 | 0x9, 0x80 | 0xA, 0x80 | 0x2], ids=["ping", "pong", "empty message"]
)
async def test_a_flood_of_websocket_frames_ends_the_link(opcode: int) -> None:
    async with tunnel(App()) as (_, hostile):
        hostile.transport.write(bytes((opcode, 0x80, 1, 2, 3, 4)) * FLOOD)
        await ended_for_flooding(hostile)
        assert hostile.goaway is not None
        assert hostile.goaway.code == "tunnel-flood"


async def test_a_proxy_that_opens_and_resets_streams_loses_its_agent() -> None:
    app = App()
    async with tunnel(app) as (where, agent):
        (hostile,) = where.tunnels.links
        opening = OPEN_PREFIX.pack(0, 3) + b"foo" + get().wire
        for number in range(1, RESET_BURST + 3000):
            reset = frame(FrameType.RESET, number, b"cancelled\n\n")
            send(hostile, frame(FrameType.OPEN, number, opening, Flag.END), reset)
        why = await asyncio.wait_for(agent.close_reason, PATIENCE)
        assert isinstance(why, TunnelFlooded)
        await eventually(lambda: all(stream.cancelled.is_set() for stream in app.streams))
        assert len(app.streams) <= RESET_BURST + 3000


async def test_a_proxy_that_floods_the_agent_loses_it() -> None:
    async with tunnel(App()) as (where, agent):
        (hostile,) = where.tunnels.links
        send(hostile, *[FLOODS["ping"]] * FLOOD)
        assert isinstance(await asyncio.wait_for(agent.close_reason, PATIENCE), TunnelFlooded)


async def test_all_streams_of_a_sidecar_that_dies_are_no_flood() -> None:
    """A proxy may reset everything at once for good reasons, and twice."""
    app = App()
    async with tunnel(app) as (where, agent):
        upstream = where.upstream()
        for _ in range(2):
            streams = [upstream.open(get(), Client()) for _ in range(4000)]
            await eventually(lambda: agent.in_flight == 4000)
            for stream in streams:
                stream.cancel()
            await eventually(lambda: not agent.in_flight)
        client = Client()
        app.serve = answer(b"still here")
        upstream.open(get(), client)
        await asyncio.wait_for(client.done.wait(), PATIENCE)
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
    count = TINY_BURST + TINY_PER_SECOND // 2
    send(agent, *[frame(FrameType.DATA, 1, b"x")] * count)
    await eventually(lambda: not proxy.transport.is_reading())  # for half a second
    send(agent, *[frame(FrameType.DATA, 1, b"x")] * 100)
    await eventually(lambda: client.size == count + 100)
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
