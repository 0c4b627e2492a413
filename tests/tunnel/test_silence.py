"""A laptop from which nothing arrives while requests wait for it: frozen, cut off, or only slow."""

import asyncio
import re
from typing import cast

import pytest

from devroute.errors import UpstreamReset
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.proxy_link import IDLE_SECONDS, PONG_SECONDS, pong_seconds
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import App, Client, answer, get, head, tunnel

#: Seconds within which a request has to end; the rest is for a busy machine.
BOUND_S = 2.0
BUSY_S = 8.0


def freeze(link: AgentLink) -> None:
    cast(asyncio.Transport, link.transport).pause_reading()


def thaw(link: AgentLink) -> None:
    cast(asyncio.Transport, link.transport).resume_reading()


async def test_a_request_on_a_frozen_laptop_ends_within_two_seconds_and_the_laptop_comes_back() -> None:
    app, loop = App(), asyncio.get_running_loop()
    async with tunnel(app) as (where, link):
        answered, waiting, late = Client(), Client(), Client()
        where.upstream().open(get(), answered)
        where.upstream().open(get(), waiting)
        await eventually(lambda: len(app.streams) == 2)
        app.streams[0].sink.on_head(head(200, 2))
        await answered.first.wait()
        freeze(link)
        began = loop.time()
        where.upstream().open(get(b"/late"), late)
        async with asyncio.timeout(BOUND_S + BUSY_S):
            await waiting.done.wait()
            await late.done.wait()
        assert IDLE_SECONDS + PONG_SECONDS < BOUND_S
        assert IDLE_SECONDS < loop.time() - began < BOUND_S + BUSY_S
        for client in (waiting, late):
            assert isinstance(client.error, UpstreamReset)
            assert re.fullmatch(r"the laptop has not responded for \d+ s", client.error.message)
        assert not answered.done.is_set(), "something has been sent back"
        assert not link.close_reason.done(), "it may come back"

        thaw(link)
        await asyncio.wait_for(app.streams[1].cancelled.wait(), 20)
        app.streams[0].sink.on_data(b"ok")
        app.streams[0].sink.on_end([])
        await asyncio.wait_for(answered.done.wait(), 20)
        assert answered.body == b"ok"
        app.serve = answer(b"again")
        client = Client()
        where.upstream().open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        assert client.body == b"again"


async def test_a_slow_app_on_a_laptop_that_answers_pings_is_waited_for() -> None:
    app, loop = App(), asyncio.get_running_loop()
    async with tunnel(app) as (where, _):
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        (proxy_link,) = where.tunnels.links
        late = loop.time() + IDLE_SECONDS + PONG_SECONDS
        await eventually(lambda: proxy_link.heartbeat.pinged_at > late, "another ping")
        assert proxy_link.heartbeat.round_trip is not None
        assert not client.done.is_set()
        answer(b"slow")(app.streams[0])
        await asyncio.wait_for(client.done.wait(), 20)
        assert client.body == b"slow"


@pytest.mark.parametrize("pinged", [False, True])
async def test_a_proxy_that_has_stood_still_itself_waits_for_the_reply_to_its_ping(
    pinged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one whose CPU is limited: it finds its own timers late, and what has arrived unread."""
    app, loop = App(), asyncio.get_running_loop()
    async with tunnel(app) as (where, link):
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        (proxy_link,) = where.tunnels.links
        if pinged:
            freeze(link)
            await eventually(lambda: proxy_link.heartbeat.pinged_at > 0)
        time = loop.time
        monkeypatch.setattr(loop, "time", lambda: time() + 2 * (IDLE_SECONDS + PONG_SECONDS))
        for _ in range(3):  # turns of the loop, in which its timers run
            await asyncio.sleep(0)
        thaw(link)
        await eventually(lambda: proxy_link.heartbeat.round_trip is not None)
        assert not client.done.is_set()
        answer(b"slow")(app.streams[0])
        await asyncio.wait_for(client.done.wait(), 20)
        assert client.body == b"slow"


async def test_bytes_after_a_ping_prove_the_laptop_alive_while_its_reply_waits_behind_them() -> None:
    """As over a slow uplink that is full."""
    app, loop = App(), asyncio.get_running_loop()
    async with tunnel(app) as (where, link):
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        freeze(link)
        (proxy_link,) = where.tunnels.links
        proxy_link.heartbeat.ping()
        proxy_link.heartbeat.pinged_at -= IDLE_SECONDS + PONG_SECONDS
        proxy_link.heartbeat.last_received = began = loop.time()
        await asyncio.wait_for(client.done.wait(), PATIENCE_S)
        assert loop.time() - began > IDLE_SECONDS + PONG_SECONDS / 2
        assert isinstance(client.error, UpstreamReset)


@pytest.mark.parametrize(
    ("usual", "queued", "seconds"),
    [
        (None, 0, 1.0),
        (0.02, 0, 1.0),
        (0.9, 0, 2.7),  # a satellite
        (0.02, 1024 * 1024, 5.0),  # an upload over a slow network
    ],
)
def test_how_long_a_pong_may_take(usual: float | None, queued: int, seconds: float) -> None:
    assert pong_seconds(usual, queued) == pytest.approx(seconds)
