"""A replica that stops hands its laptops over: WELCOME says how many there are, and requests that were sent
to the replica which had the laptop find it at the other one."""

import asyncio

import pytest

from devroute.errors import LaptopOffline
from devroute.replicas.store import Store
from devroute.tunnel.protocol.handshake import MOVE_SERVICE, Welcome, decode
from tests.replicas.replicas import Replica, replicas
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, answer, get, site
from tests.support.loopback import connect as dialled
from tests.support.redis_server import RedisServer

APP = {"foo": App(answer(b"before"))}
AFTER = {"foo": App(answer(b"after"))}


async def test_the_welcome_names_the_replica_and_how_many_there_are(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 2) as both:
        for each in both:
            link = await each.connect(APP, instance="a1")
            welcome = decode(Welcome, link.welcome.result())
            assert (welcome.replica, welcome.replicas) == (each.shared.id, 2)


async def test_with_the_registry_in_memory_the_welcome_names_no_replica() -> None:
    async with site() as where:
        link = await dialled(where, APP)
        welcome = decode(Welcome, await link.welcome)
        assert (welcome.replica, welcome.replicas) == (None, 1)


async def test_a_request_for_a_laptop_that_has_just_moved_follows_it(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 2) as (one, two):
        await one.connect(APP, instance="a1")
        await eventually(lambda: two.names() == ["alice"])
        earlier = two.upstream()  # leads to the first replica
        await two.connect(AFTER, instance="a1")
        await eventually(lambda: one.registry.lookup("alice", "foo").owner == two.place)
        client = Client()
        earlier.open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        assert (client.error, client.body) == (None, b"after")
        await earlier.check_reachable(2.0)


async def test_a_service_that_the_laptop_has_no_longer_leads_nowhere(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 2) as (one, two):
        await one.connect(APP, instance="a1")
        await eventually(lambda: two.names() == ["alice"])
        earlier = two.upstream()
        await two.connect({"bar": App(answer(b"other"))}, instance="a1")
        await eventually(lambda: one.registry.processes("alice")[0].remote)
        client = Client()
        earlier.open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        assert isinstance(client.error, LaptopOffline)


async def test_a_link_that_is_to_be_handed_over_ends_by_itself_once_the_laptop_is_elsewhere(
    redis_server: RedisServer,
) -> None:
    app = App()
    async with replicas(redis_server, 2) as (one, two):
        services = {"foo": app, MOVE_SERVICE: App(answer(b""))}
        old = await one.connect(services, offered=["foo"], instance="a1")
        client = Client()
        one.upstream().open(get(), client)
        await eventually(lambda: app.streams, "the request")
        moving = asyncio.get_running_loop().create_task(one.site.tunnels.hand_over(0))
        await two.connect(AFTER, instance="a1")
        await eventually(lambda: old.goaway, "the GOAWAY")
        assert old.close_error is None
        answer(b"before")(app.streams[0])
        await asyncio.wait_for(moving, 20)
        assert (client.error, client.body) == (None, b"before")


async def test_a_laptop_that_moves_is_served_where_it_was_until_its_new_replica_has_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late that replica reads that its claim of the name was written."""
    claim, written, read = Store.claim, asyncio.Event(), asyncio.Event()

    async def late(store: Store, name: str, value: bytes, seen: dict[str, bytes]) -> dict[str, bytes] | None:
        found = await claim(store, name, value, seen)
        if name == "alice":
            written.set()
            await read.wait()
        return found

    async def body(replica: Replica) -> bytes:
        client = Client()
        replica.upstream().open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        return bytes(client.body)

    async with replicas(redis_server, 3) as (one, two, three):
        services = {**APP, MOVE_SERVICE: App(answer(b""))}
        old = await one.connect(services, offered=["foo"], instance="a1")
        for each in (two, three):
            await eventually(lambda each=each: each.names() == ["alice"])
        monkeypatch.setattr(Store, "claim", late)
        moving = asyncio.ensure_future(one.site.tunnels.hand_over(0))
        connecting = asyncio.ensure_future(two.connect(AFTER, instance="a1"))
        await asyncio.wait_for(written.wait(), 20)
        await three.connect(APP, token="bob-token")
        await eventually(lambda: "bob" in one.names() and "bob" in two.names())  # they have read until here
        assert not old.goaway
        assert [await body(each) for each in (one, two, three)] == [b"before"] * 3
        read.set()
        await connecting
        await asyncio.wait_for(moving, 20)
        await eventually(lambda: three.registry.lookup("alice", "foo").owner == two.place)
        assert [await body(each) for each in (one, two, three)] == [b"after"] * 3
