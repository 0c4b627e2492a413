"""A freshly started app, a restarted server and a woken laptop serve their first request within half a second
of being able to: no negative cache, and no delay between attempts, outlives its cause by more."""

import asyncio
import json
import re
from functools import partial

import pytest

from devroute.agent import app as agent
from devroute.agent.link_keeper import EAGER_DELAY
from devroute.agent.link_monitor import WATCH_SECONDS, LinkMonitor
from devroute.errors import AppUnreachable, CircuitOpen, DevrouteError, TargetUnreachable
from devroute.routing.decision import FALLBACK_TTL_MS, LAPTOP_TTL_MS
from devroute.upstream.circuit_breaker import FAILURES, OPEN_SECONDS
from devroute.upstream.dialer import Dialer
from tests.agent.test_app import app, fetch, online, settings, up
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import Site, site, start_site
from tests.support.paths import ROOT

pytestmark = pytest.mark.asyncio

#: Seconds; the second is for a machine whose cores are all in use.
BOUND_S = 0.5
BUSY_S = 10.0


async def first_success(where: Site) -> float:
    """The seconds until a request is answered, asking all the time."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def answered() -> bool:
        try:
            return (await fetch(where)).body == b"from the laptop"
        except DevrouteError:
            return False  # the laptop is not online

    await eventually(answered)
    return loop.time() - began


async def test_no_negative_cache_of_a_sidecar_or_an_address_lasts_longer() -> None:
    rule = (ROOT / "lua" / "parts" / "rule.lua").read_text()
    (failure_ttl,) = re.findall(r"FAILURE_TTL_MS = (\d+)", rule)
    assert int(failure_ttl) / 1000 <= BOUND_S
    assert FALLBACK_TTL_MS / 1000 + OPEN_SECONDS <= BOUND_S  # one after the other
    assert max(LAPTOP_TTL_MS / 1000, EAGER_DELAY, WATCH_SECONDS) <= BOUND_S


async def test_a_restarted_server_after_many_failed_attempts(said: Said, unused_tcp_port: int) -> None:
    where = await start_site(unused_tcp_port)
    async with app() as port, up(settings(where.url, f"foo=127.0.0.1:{port}", output="json")) as task:
        await online(where, task)
        await where.stop()
        await eventually(lambda: said.count('"retry"') >= 8)
        again = await start_site(where.port)
        try:
            assert await first_success(again) < BOUND_S + BUSY_S
        finally:
            await again.stop()
        await eventually(lambda: said('"back"'))
    events = [json.loads(line) for line in said.output.splitlines()]
    assert max(each["delay_s"] for each in events if each["event"] == "retry") == EAGER_DELAY


async def test_an_app_that_has_just_started_gets_the_very_next_request(unused_tcp_port: int) -> None:
    service = f"foo=127.0.0.1:{unused_tcp_port}"
    async with site() as where, up(settings(where.url, service, retry_refused=0.0)) as task:
        await online(where, task)
        for _ in range(FAILURES + 1):
            assert isinstance((await fetch(where)).error, AppUnreachable)
        async with app(port=unused_tcp_port):
            assert (await fetch(where)).body == b"from the laptop"


async def test_an_app_at_an_address_that_has_just_started(unused_tcp_port: int) -> None:
    loop = asyncio.get_running_loop()
    dialer = Dialer("127.0.0.1", unused_tcp_port, permit=lambda host, port: None)
    for _ in range(FAILURES):
        with pytest.raises(TargetUnreachable):
            await dialer.connect(asyncio.Protocol)

    async def refused_at_once() -> bool:
        with pytest.raises((CircuitOpen, TargetUnreachable)) as caught:
            await dialer.connect(asyncio.Protocol)
        return caught.type is CircuitOpen

    await eventually(refused_at_once)  # on a busy machine it may be half-open by now, and open again
    async with app(port=unused_tcp_port):
        began = loop.time()

        async def connects() -> bool:
            try:
                await dialer.connect(asyncio.Protocol)
            except CircuitOpen:
                return False
            return True

        await eventually(connects)
        assert loop.time() - began < BOUND_S - FALLBACK_TTL_MS / 1000 + BUSY_S


async def test_a_laptop_that_wakes_up_on_a_dead_link(monkeypatch: pytest.MonkeyPatch, said: Said) -> None:
    """The link was lost in its sleep with no FIN or reset, as a NAT forgets connections."""
    now = 0.0
    monkeypatch.setattr(agent, "LinkMonitor", partial(LinkMonitor, wall_clock=lambda: now))
    async with site() as where, app() as port, up(settings(where.url, f"foo=127.0.0.1:{port}")) as task:
        await online(where, task)
        await eventually(lambda: said("alice is online"))
        (dead,) = where.tunnels.links
        dead.transport.pause_reading()
        now += 3600
        loop = asyncio.get_running_loop()
        began = loop.time()
        await eventually(lambda: any(each.link is not dead for each in where.registry.registrations()))
        await first_success(where)
        assert loop.time() - began < BOUND_S + BUSY_S
        dead.transport.abort()
