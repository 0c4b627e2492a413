"""Several registries that are one, over a real Redis."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.client import PubSub

from devroute.errors import LaptopOffline, LinkReplaced, NameTaken, TooManyLinks
from devroute.replicas import store
from devroute.replicas.certificate import Certificate
from devroute.replicas.record import MAX_VALUE, ReplicaRecord, encode_processes
from devroute.replicas.shared_registry import REFRESH_SECONDS
from devroute.routing.registration import Registration
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol.handshake import Hello, Offer
from tests.replicas.replicas import Replica, replicas
from tests.support.eventually import eventually, quiet
from tests.support.loopback import App, answer, connect, get, response_to
from tests.support.redis_server import RedisServer, running_redis
from tests.support.relay import wire

APP = {"foo": App(answer(b"hello"))}


async def body(replica: Replica, name: str = "alice") -> bytes:
    return bytes((await response_to(replica.upstream(name), get())).body)


async def known(*everywhere: Replica, names: list[str]) -> None:
    for each in everywhere:
        await eventually(lambda each=each: each.names() == names, f"{names} at each replica")


async def ended(link: AgentLink) -> str:
    """The code of the error that ends a link, as the agent sees it."""
    await asyncio.wait_for(link.disconnected, 20)
    return "" if link.goaway is None else link.goaway.code


async def test_a_laptop_is_known_and_served_everywhere_and_gone_everywhere(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        link = await one.connect(APP)
        await known(two, three, names=["alice"])
        for each in (one, two, three):
            assert await body(each) == b"hello"
            assert each.registry.lookup("alice", "foo").owner == one.place
        assert two.registry.lookup("alice", "foo") is two.registry.lookup("alice", "foo")
        assert [each["name"] for each in three.registry.listing()] == ["alice"]
        link.drain("leaving", "the test is over")
        await known(one, two, three, names=[])
        with pytest.raises(LaptopOffline):
            two.registry.lookup("alice", "foo")


async def test_a_replica_that_starts_later_knows_all_before_it_serves(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 1) as (one,):
        await one.connect(APP)
        async with replicas(redis_server, 1) as (two,):
            assert two.names() == ["alice"]
            await eventually(lambda: two.linked(one))
            assert await body(two) == b"hello"


async def test_meshes_with_other_prefixes_share_a_redis_but_no_laptop(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 1, "a") as (one,), replicas(redis_server, 1, "b") as (two,):
        await one.connect(APP)
        await two.connect(APP, token="bob-token")
        assert (one.names(), two.names()) == (["alice"], ["bob"])


async def test_changes_that_arrive_after_all_was_read_change_nothing_and_have_nothing_read_again(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        version = two.shared.remote.known[one.shared.id].version
        reads = redis_server.client.info("commandstats")["cmdstat_hscan"]["calls"]
        for late in range(version - 20, version + 1):
            change = f"{one.shared.id}\n{late}\nalice\n"
            redis_server.client.publish("{test}:changes", change.encode())
        await one.connect(APP, token="bob-token")
        await known(two, names=["alice", "bob"])
        # A regular comparison may have come between; had each message been followed by one, they were 21.
        assert redis_server.client.info("commandstats")["cmdstat_hscan"]["calls"] < reads + 5


# --- taking a name ------------------------------------------------------------------------------------------


async def test_a_process_that_dials_another_replica_takes_its_own_place(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        old = await one.connect(APP, instance="a1")
        await two.connect({"foo": App(answer(b"new"))}, instance="a1")
        assert await ended(old) == LinkReplaced.code
        for each in (one, two):
            await eventually(lambda each=each: each.registry.lookup("alice", "foo").owner == two.place)
            assert await body(each) == b"new"
        assert len(two.registry.registrations()) == 1


async def test_a_service_at_another_replica_is_taken(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await one.connect(APP, instance="a1")
        link = await connect(two.site, APP, instance="b2")
        assert await ended(link) == NameTaken.code
        assert "serves 'foo' already: another devroute up of 'alice'" in str(link.goaway)
        assert await body(two) == b"hello"


async def test_a_holder_that_does_not_respond_at_another_replica_loses_its_service(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server) as (one, two):
        gone = await one.connect(APP, instance="a1")
        await known(two, names=["alice"])
        gone.transport.pause_reading()  # it has lost its network
        (member,) = one.site.tunnels.links
        member.heartbeat.last_received -= 10
        await two.connect({"foo": App(answer(b"back"))}, instance="b2")
        await eventually(lambda: [each.remote for each in one.registry.processes("alice")] == [True])
        assert await body(one) == b"back"


async def test_the_limit_of_links_counts_those_at_all_replicas(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        one.registry.max_links = two.registry.max_links = 2
        await one.connect(APP, name="alice--1")
        await two.connect(APP, name="alice--2")
        await known(one, two, names=["alice--1", "alice--2"])
        assert await ended(await connect(one.site, APP, name="alice--3")) == TooManyLinks.code
        await two.connect(APP, token="bob-token")


async def test_of_two_that_take_a_name_at_the_same_moment_one_holds_it_and_the_other_knows(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server) as (one, two):
        for _ in range(10):
            links = await asyncio.gather(
                connect(one.site, APP, instance="a1"), connect(two.site, APP, instance="b2")
            )
            first, _ = await asyncio.wait(
                [each.disconnected for each in links], return_when="FIRST_COMPLETED"
            )
            (lost,) = [each for each in links if each.disconnected in first]
            (held,) = [each for each in links if each is not lost]
            assert lost.goaway is not None
            assert lost.goaway.code == NameTaken.code
            for each in (one, two):
                await eventually(lambda each=each: len(each.registry.registrations()) == 1)
                assert await body(each) == b"hello"
            held.drain("leaving", "next")
            await known(one, two, names=[])


# --- Redis fails --------------------------------------------------------------------------------------------


async def test_an_emptied_redis_is_filled_again_and_nothing_is_lost(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        served = two.registry.lookup("alice", "foo")
        redis_server.client.flushall()
        await eventually(
            lambda: redis_server.client.keys("{test}:replica:*") and len(full(redis_server)) == 2
        )
        assert two.registry.lookup("alice", "foo") is served
        async with replicas(redis_server, 1) as (three,):
            assert three.names() == ["alice"]


def full(server: RedisServer) -> list[bytes]:
    return server.client.keys("{test}:replica:*")  # type: ignore[no-any-return]


async def test_without_redis_everything_known_is_served_and_what_comes_is_written_later(
    own_redis: RedisServer,
) -> None:
    async with replicas(own_redis) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        assert one.shared.lag < 10 * REFRESH_SECONDS
        own_redis.stop()
        await eventually(lambda: one.shared.problem and two.shared.problem, "both to say so")
        without = one.shared.lag
        assert await body(two) == b"hello"
        await two.connect(APP, token="bob-token")
        assert await body(two, "bob") == b"hello"
        assert one.names() == ["alice"]
        await eventually(lambda: one.shared.lag > without, "the lag to grow")
        last = one.shared.lag
        own_redis.start()
        await known(one, two, names=["alice", "bob"])
        assert await body(one, "bob") == b"hello"
        await eventually(lambda: one.shared.problem is None, "the end of the problem")
        await eventually(lambda: one.shared.lag < last, "it to compare again")


async def test_two_that_took_a_name_without_redis_are_one_again_with_it(own_redis: RedisServer) -> None:
    async with replicas(own_redis) as (one, two):
        own_redis.stop()
        await eventually(lambda: one.shared.problem and two.shared.problem)
        older = await one.connect(APP, instance="a1")
        await two.connect({"foo": App(answer(b"newer"))}, instance="b2")
        own_redis.start()
        assert await ended(older) == LinkReplaced.code
        for each in (one, two):
            await eventually(lambda each=each: len(each.registry.registrations()) == 1)
            assert await body(each) == b"newer"


async def test_a_redis_that_hangs_delays_no_request_and_registrations_once(
    own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []  # of Redis, besides what is compared regularly

    def counted(method: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any) -> Any:
            asked.append(method.__name__)
            return method(*arguments)

        return count

    for method in (store.Store.claim, store.Store.look, store.Store.run, store.Store.scan):
        monkeypatch.setattr(store.Store, method.__name__, counted(method))
    async with replicas(own_redis) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        own_redis.signal(signal.SIGSTOP)
        try:
            asked.clear()
            for _ in range(50):
                assert await body(two) == b"hello"
                assert two.registry.lookup("alice", "foo").owner == one.place
            assert asked == []
            await two.connect(APP, token="bob-token")
            assert two.shared.problem is not None
            await two.connect(APP, token="bob-token", name="bob--2")
            assert asked == ["claim"], "one of two registrations waited for Redis"
        finally:
            own_redis.signal(signal.SIGCONT)
        await known(one, names=["alice", "bob", "bob--2"])


async def test_a_subscription_is_lost_where_nothing_comes_of_a_ping_and_only_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Packets that are lost end no connection, and without a change there is nothing to send."""
    monkeypatch.setattr(store, "LISTEN_SECONDS", 2.0)
    with running_redis(tmp_path) as server:
        async with wire(server.socket) as way:
            listener = store.Store(f"redis://127.0.0.1:{way.port}", "test", "0" * 16)
            async with listener.changes() as changes:
                first = asyncio.ensure_future(anext(changes))
                await eventually(lambda: pings(server) > 1, task=first)
                assert not first.done()
                server.client.publish("{test}:changes", b"id\n1\nalice\nvalue")
                assert (await first).name == "alice"
                way.silence()
                with pytest.raises(store.RegistryUnavailable, match="has sent nothing"):
                    await anext(changes)
            await listener.close()


@pytest.mark.parametrize("command", ["subscribe", "ping"])
async def test_listening_ends_although_redis_py_loses_the_cancellation(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """As asyncio.wait_for does before Python 3.12 when the command has just been sent: a replica that was to
    stop listened forever."""
    sent = asyncio.Event()

    async def lose(*arguments: object, **options: object) -> None:
        sent.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    monkeypatch.setattr(PubSub, command, lose)
    monkeypatch.setattr(store, "LISTEN_SECONDS", 0.05)
    listener = store.Store(redis_server.url, "test", "0" * 16)

    async def listen() -> None:
        async with listener.changes() as changes:
            async for _ in changes:
                pass

    listening = asyncio.ensure_future(listen())
    await asyncio.wait_for(sent.wait(), 20)
    listening.cancel()
    await asyncio.wait({listening}, timeout=20)
    assert listening.cancelled()
    await listener.close()


async def test_the_others_hear_of_a_claim_once_it_is_registered(redis_server: RedisServer) -> None:
    own, listener = (store.Store(redis_server.url, "test", digit * 16) for digit in "10")
    await own.announce(b"{}", 1, {})
    async with listener.changes() as changes:
        assert await own.claim("alice", b"claimed", {}) is None
        assert await listener.look("alice") == {"1" * 16: b"claimed"}
        await own.write([("bob", b"written")])
        assert await anext(changes) == store.Change("1" * 16, 2, "bob", b"written")
    await own.close()
    await listener.close()


def pings(server: RedisServer) -> int:
    commands = server.client.info("commandstats")
    return int(commands.get("cmdstat_ping", {}).get("calls", 0))  # type: ignore[union-attr]


# --- replicas end -------------------------------------------------------------------------------------------


async def test_a_replica_that_ends_takes_its_laptops_along_at_once(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        await one.stop()
        await known(two, names=[])
        assert two.shared.replicas == 1


async def test_a_replica_that_is_killed_is_gone_before_its_key_expires(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        await one.kill()
        await known(two, names=[])
        assert len(full(redis_server)) == 2, "its key is still there"


async def test_a_replica_without_a_key_is_known_as_long_as_its_link_is_open(
    redis_server: RedisServer,
) -> None:
    """It cannot reach Redis, but the others reach it."""
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        await one.shared.tasks.close()
        key = f"{{test}}:replica:{one.shared.id}"
        redis_server.client.delete(key)
        known_one = two.shared.remote.known[one.shared.id]
        await eventually(lambda: known_one.missing_since is not None)
        known_one.missing_since = 1.0  # long ago
        await quiet(lambda: two.names())
        assert await body(two) == b"hello"


# --- what others have put into Redis ------------------------------------------------------------------------


def value(name: str = "alice", subject: str = "alice") -> bytes:
    hello = Hello(agent="1", name=name, services=(Offer(service="foo"),), instance="ff")
    link = None
    return encode_processes([Registration(name, subject, link, hello, 1.0, generation=1)])  # type: ignore[arg-type]


def replica(number: int, certificate: bytes) -> bytes:
    return ReplicaRecord(
        id=f"{number:016}",
        data="127.0.0.1:1",
        peer="127.0.0.1:1",
        version="1",
        started=1.0,
        certificate=certificate,
    ).encode()


async def test_a_foreign_replica_is_ignored(redis_server: RedisServer) -> None:
    foreign: list[dict[str, str | bytes]] = [
        {"@": "not json", "v": "5"},
        {"@": json.dumps({"id": "0000000000000001"}), "v": "5"},
        {"v": "9" * 400},
        {"x": b"\xff\x00"},
        {"@": replica(4, certificate=Certificate("x").der.replace(b"\2\1\2", b"\2\1\1", 1)), "v": "5"},
        {"@": replica(5, certificate=b"\0"), "v": "5"},
    ]
    client = redis_server.client
    for number, fields in enumerate(foreign):
        client.sadd("{test}:replicas", f"{number:016}")
        client.hset(f"{{test}}:replica:{number:016}", mapping=fields)  # type: ignore[arg-type]
    client.sadd("{test}:replicas", b"\xfe", "x" * 1000, "a string")
    client.set("{test}:replica:a string", "no hash")
    async with replicas(redis_server) as (one, two):
        await one.connect(APP)
        await known(two, names=["alice"])
        assert two.shared.problem is None
        assert two.shared.replicas == 2


async def test_a_foreign_laptop_is_ignored_and_all_others_are_known(redis_server: RedisServer) -> None:
    written = {
        "bytes": b"\xff",
        "nothing": b"[]",
        "deep": b"[" * 100_000,
        "bob": value("bob", "alice"),
        "no such name!": value(),
        "carol": b" " * MAX_VALUE + value("carol", "carol"),
        "dave": value("dave", "dave"),
    }
    client = redis_server.client
    async with replicas(redis_server) as (one, two):
        key = f"{{test}}:replica:{one.shared.id}"
        for name, each in written.items():
            client.hset(key, f"n:{name}", each)
        client.hincrby(key, "v", 1)
        client.publish("{test}:changes", b"nonsense")
        client.publish("{test}:changes", b"x\ny\nz\n\xff")
        await one.connect(APP)
        await known(two, names=["alice", "dave"])
        assert await body(two) == b"hello"


def test_a_search_of_redis_finds_names_and_values_of_each_type(redis_server: RedisServer) -> None:
    client = redis_server.client
    client.set("string", "in a string")
    client.hset("hash", "in a field", "in a hash")
    client.sadd("set", "in a set")
    client.rpush("list", "in a list")
    client.zadd("zset", {"in a zset": 1})
    found = redis_server.everything().decode().splitlines()
    types = ("string", "hash", "set", "list", "zset")
    assert sorted(found) == sorted(["in a field", *types, *(f"in a {each}" for each in types)])


async def test_nothing_secret_stands_in_redis(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, _):
        await one.connect(APP)
        everything = redis_server.everything()
    for public in (b"alice", b"{test}:replicas", b"{test}:replica:" + one.shared.id.encode()):
        assert public in everything
    for secret in (b"alice-token", b"PRIVATE KEY"):
        assert secret not in everything
