"""`devroute up` with several replicas behind one address: it has a link to each of two, and keeps them."""

import asyncio
import contextlib
import io
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from devroute.agent import link_monitor, network, second_link
from devroute.agent.control import client
from devroute.agent.control.running import all_running
from devroute.agent.doctor.tunnel import Echo, examine_replicas, open_tunnel
from devroute.agent.link_monitor import LinkMonitor
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.errors import LinkReplaced
from devroute.replicas import redis_url
from devroute.tunnel.liveness import Liveness
from tests.agent.test_app import app, settings, up
from tests.replicas.replicas import Replica, replicas
from tests.replicas.test_shared_registry import body
from tests.support.agent_output import Said
from tests.support.eventually import PATIENCE_S, eventually, quiet
from tests.support.loopback import App, answer, connect
from tests.support.redis_server import RedisServer
from tests.support.relay import Wire, wire
from tests.support.remote_host import RemoteHost


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Said:
    return Said(monkeypatch)


@contextlib.asynccontextmanager
async def laptop(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, count: int, reachable: int = 3
) -> AsyncIterator[tuple[list[Replica], Wire, list[dict[str, Any]], "asyncio.Task[int]"]]:
    """An agent, so many replicas, of which some can be reached, and their audit trails in one. The last is
    the agent's task."""
    monkeypatch.setattr(second_link, "SPREAD_SECONDS", 0.0)
    audit: list[dict[str, Any]] = []
    async with replicas(redis_server, count) as all_of_them, wire() as service, app() as port:
        for each in all_of_them:
            each.site.tunnels.record = lambda event, **fields: audit.append({"event": event, **fields})
        lead_to(service, *all_of_them[:reachable])
        async with up(settings(service.url, f"foo=127.0.0.1:{port}", output="json")) as running:
            await eventually(lambda: all_of_them[0].names() == ["alice"], task=running)
            yield all_of_them, service, audit, running


def lead_to(service: Wire, *found: Replica) -> None:
    service.targets = [("127.0.0.1", each.site.port) for each in found]


async def diagnosis(service: Wire) -> tuple[str, str]:
    """What `devroute doctor` says."""
    of = settings(service.url)
    async with open_tunnel(of, "alice--doctor", "doctor", Echo(b"")) as link:
        finding = await examine_replicas(of, link)
    assert finding is not None
    return finding.result, finding.text.partition(":")[0]


def owners(found: list[Replica]) -> list[Replica]:
    """The replicas with a link of the laptop."""
    return [each for each in found if any(not link.remote for link in each.registry.registrations())]


async def two_links(*found: Replica) -> list[Replica]:
    """The replicas with one, once all know of both."""

    def known() -> list[Replica] | None:
        listed = [[each["links"] for each in replica.registry.listing()] for replica in found]
        with_one = owners(list(found))
        return with_one if all(each == [2] for each in listed) and len(with_one) == 2 else None

    return await eventually(known, "two links, known everywhere")


async def test_a_laptop_has_two_links_and_loses_one_after_the_other_without_being_offline(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    async with laptop(redis_server, monkeypatch, 3) as (found, service, audit, _):
        for turn in itertools.count():
            first, second = await two_links(*found)
            (third,) = [each for each in found if each not in (first, second)]
            assert [await body(each) for each in found] == [b"from the laptop"] * 3
            if turn == 2:
                break
            lost, stays = ((first, second), (second, first))[turn]
            lead_to(service, stays, third)
            if turn:
                lost.drop_agents()
            else:  # as a proxy of before does, for which the newer link replaces the older one
                (link,) = lost.site.tunnels.links
                link.reject(LinkReplaced("another devroute up took its place"))
            await eventually(lambda lost=lost: lost not in owners(found))
            assert [await body(each) for each in found] == [b"from the laptop"] * 3
            assert stays in await two_links(*found)
        lead_to(service, third)
        moving = asyncio.get_running_loop().create_task(first.site.tunnels.hand_over(0))
        await asyncio.wait_for(moving, PATIENCE_S)
        assert await two_links(*found) == [each for each in found if each is not first]
        assert [await body(each) for each in found] == [b"from the laptop"] * 3
        assert [each["event"] for each in audit] == ["registration"]
        joined = await third.connect({"bar": App()}, instance="b2")
        await eventually(lambda: said('"joined"'))
        joined.drain("leaving", "the test goes on")
        await eventually(lambda: len(audit) == 3)
        assert said.count('"joined"') == 1
        del audit[1:]
    assert not said('"offline"')
    await eventually(lambda: audit[1:], "the end")
    assert [each["event"] for each in audit[1:]] == ["leave"]


async def test_a_process_that_takes_both_links_over_ends_devroute_up(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with laptop(redis_server, monkeypatch, 3) as (found, service, audit, running):
        await two_links(*found)
        await found[0].connect({"foo": App(answer(b"another laptop"))}, instance="b2", takeover=True)
        with pytest.raises(LinkReplaced, match="took over foo"):
            await asyncio.wait_for(running, PATIENCE_S)
        await eventually(lambda: [each["event"] for each in audit] == ["registration", "takeover"])
        await eventually(lambda: sum(service.open.values()) == 0, "the end of its links")
        await quiet(lambda: sum(service.open.values()))
        assert [await body(each) for each in found] == [b"another laptop"] * 3


async def test_where_no_connection_leads_to_another_replica_there_is_one_link(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, said: Said
) -> None:
    monkeypatch.setattr(second_link, "LAST_DELAY", 0.05)
    async with laptop(redis_server, monkeypatch, 2, reachable=1) as (found, service, audit, _):
        one = found[0]
        await eventually(lambda: said("no connection led to another replica"))
        await eventually(lambda: [each.registry.listing()[0]["links"] for each in found] == [1, 1])
        assert [each["event"] for each in audit] == ["registration"]
        assert await diagnosis(service) == ("warn", "16 connections led to the same one of 2 replicas")
        lead_to(service, *found)
        assert await diagnosis(service) == ("ok", "a second link leads to another one of 2 replicas")
        one.drop_agents()
        await eventually(lambda: said('"back"'))


async def test_where_there_is_one_replica_nothing_else_is_dialled(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with laptop(redis_server, monkeypatch, 1) as ((one,), service, _, _):
        await quiet(lambda: service.accepted)
        assert service.accepted == 1
        assert one.registry.listing()[0]["links"] == 1


@dataclass
class Laptop:
    """What may happen to it."""

    monitor: LinkMonitor
    clock: list[float]
    monkeypatch: pytest.MonkeyPatch
    peer: RemoteHost | None

    async def sleeps(self) -> None:
        self.clock[0] += link_monitor.SLEPT_SECONDS + 1
        await eventually(self.monitor.woken.is_set)

    async def has_another_address(self) -> None:
        self.monkeypatch.setattr(network, "source_address", lambda peer: "127.0.0.2")
        await eventually(self.monitor.woken.is_set)

    async def has_an_interface_less(self) -> None:
        assert self.peer is not None
        await asyncio.to_thread(self.peer.ip, "link", "set", "wifi", "down")
        await eventually(self.monitor.woken.is_set)

    async def stays_as_it_is(self) -> None:
        """The round trip is measured all the same."""


CHANGES = [Laptop.sleeps, Laptop.has_another_address, Laptop.has_an_interface_less, Laptop.stays_as_it_is]


@pytest.mark.parametrize("changes", CHANGES)
async def test_a_network_that_changes_while_a_laptop_registers_does_not_end_its_link(
    changes: Callable[[Laptop], Awaitable[None]],
    own_redis: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    peer = request.getfixturevalue("remote_host") if changes is Laptop.has_an_interface_less else None
    monkeypatch.setattr(link_monitor, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(redis_url, "TIMEOUT_SECONDS", PATIENCE_S)
    clock = [0.0]
    reporter = LineReporter("text", TerminalWriter(io.StringIO()))
    async with replicas(own_redis, 1) as (one,):
        own_redis.signal(signal.SIGSTOP)  # WELCOME comes once it goes on
        monitor = LinkMonitor(reporter, asyncio.get_running_loop(), lambda: clock[0])
        never = Liveness(ping_after=PATIENCE_S, dead_after=2 * PATIENCE_S)
        link = await connect(one.site, {"foo": App()}, liveness=never)
        monitor.follow(link)
        try:
            with monitor.on_the_network():
                monitor.start()
                await changes(Laptop(monitor, clock, monkeypatch, peer))
                await quiet(lambda: link.close_error)
                assert not link.welcome.done()
        finally:
            own_redis.signal(signal.SIGCONT)
            monitor.stop()
            reporter.close()
        await asyncio.wait({link.welcome, link.close_reason}, return_when=asyncio.FIRST_COMPLETED)
        assert link.close_error is None
        assert one.names() == ["alice"]


async def test_services_change_while_there_are_two_links_and_no_request_is_lost(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(second_link, "SPREAD_SECONDS", 0.05)
    async with replicas(redis_server, 2) as found, wire() as service, app() as port:
        lead_to(service, *found)
        async with up(settings(service.url, f"foo=127.0.0.1:{port}", inspector=False), tmp_path):
            await two_links(*found)
            (it,) = await eventually(lambda: all_running(tmp_path))
            done, bodies = asyncio.Event(), list[bytes]()

            async def steadily(replica: Replica) -> None:
                while not done.is_set():
                    bodies.append(await body(replica))

            async with asyncio.TaskGroup() as clients:
                for each in found:
                    clients.create_task(steadily(each))
                for path, method, document in (
                    ("/v1/services", "POST", {"services": [f"bar=127.0.0.1:{port}"]}),
                    ("/v1/services/bar", "DELETE", None),
                ):
                    await asyncio.to_thread(client.request, it, method, path, document)
                    await two_links(*found)
                done.set()
            assert len(bodies) > 4
            assert set(bodies) == {b"from the laptop"}
            assert {str(each["services"]).count("bar") for each in found[0].registry.listing()} == {0}
