"""Saved contracts at several replicas, with a real Redis."""

import asyncio
import json
import time

import pytest

from devroute.errors import ContractNotOwned, ContractsUnavailable, ContractUnknown
from devroute.replicas.contract_store import ContractKey
from devroute.replicas.record import decode_contract, encode_contract
from devroute.replicas.shared_contracts import GRACE_SECONDS, SharedContracts
from devroute.replicas.store import Store
from devroute.routing.named_contracts import NamedContract, NamedContracts
from tests.replicas.replicas import Replica, replicas
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, needs_redis

pytestmark = needs_redis

TEXT = '{"foo": "alice"}'


def saved(
    name: str = "checkout",
    owner: str = "alice",
    text: str = TEXT,
    ttl: float = 3600,
    now: float | None = None,
) -> NamedContract:
    now = time.time() if now is None else now
    return NamedContract.of(name, text, owner, now, now + ttl)


def names(replica: Replica) -> list[str]:
    return [each.name for each in replica.contracts.listing(time.time())]


async def known(*those: Replica, as_: list[str]) -> None:
    for each in those:
        await eventually(lambda each=each: names(each) == as_, f"contracts {as_}")


async def test_what_is_saved_at_one_replica_is_known_at_all_and_changed_at_any(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server) as (one, two):
        heard: list[str] = []
        one.contracts.observers.append(heard.append)
        assert await one.shared.contracts.save(saved(), admin=False) is None
        await known(one, two, as_=["checkout"])
        with pytest.raises(ContractNotOwned):
            await two.shared.contracts.save(saved(owner="bob"), admin=False)
        before = await two.shared.contracts.save(saved(text='{"foo": "bob"}'), admin=False)
        assert before is not None
        await eventually(lambda: one.contracts.find("checkout", time.time()).text == '{"foo": "bob"}')
        await one.shared.contracts.delete("checkout", "alice", admin=False)
        await known(one, two, as_=[])
        with pytest.raises(ContractUnknown, match="alice was deleted"):
            two.contracts.find("checkout", time.time())
        assert set(heard) == {"checkout"}
        ttl = redis_server.client.pttl("{test}:contracts")
        assert 3600_000 < ttl <= 3_600_000 + 60_000


async def test_a_replica_that_starts_later_knows_them_before_it_serves(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 1) as (one,):
        for number in range(120):
            await one.shared.contracts.save(saved(f"c{number}", f"s{number % 9}"), admin=False)
        async with replicas(redis_server, 1) as (late,):
            assert names(late) == names(one)
            assert late.contracts.complete


async def test_of_two_that_save_a_name_at_the_same_moment_one_has_it(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        outcomes = await asyncio.gather(
            one.shared.contracts.save(saved(owner="alice"), admin=False),
            two.shared.contracts.save(saved(owner="bob"), admin=False),
            return_exceptions=True,
        )
        (lost,) = [each for each in outcomes if each is not None]
        assert isinstance(lost, ContractNotOwned)
        await known(one, two, as_=["checkout"])
        owners = {each.contracts.find("checkout", time.time()).owner for each in (one, two)}
        assert len(owners) == 1


async def test_a_redis_that_was_emptied_gets_them_back(redis_server: RedisServer) -> None:
    async with replicas(redis_server) as (one, two):
        await one.shared.contracts.save(saved("a"), admin=False)
        await two.shared.contracts.save(saved("b"), admin=False)
        await known(one, two, as_=["a", "b"])
        redis_server.client.flushall()
        await eventually(lambda: redis_server.client.hlen("{test}:contracts") == 4)
        await two.shared.contracts.save(saved("c"), admin=False)
        await known(one, two, as_=["a", "b", "c"])


async def test_without_redis_they_stand_and_cannot_be_changed(own_redis: RedisServer) -> None:
    async with replicas(own_redis, 1) as (one,):
        await one.shared.contracts.save(saved(), admin=False)
        own_redis.stop()
        await eventually(lambda: one.shared.problem is not None)
        assert names(one) == ["checkout"]
        with pytest.raises(ContractsUnavailable):
            await one.shared.contracts.save(saved("b"), admin=False)
        with pytest.raises(ContractsUnavailable):
            await one.shared.contracts.delete("checkout", "alice", admin=False)
        async with replicas(own_redis.url, 1) as (late,):
            with pytest.raises(ContractsUnavailable):
                late.contracts.find("checkout", time.time())
        own_redis.start()
        await eventually(lambda: one.shared.problem is None)
        await one.shared.contracts.save(saved("b"), admin=False)
        found = set(own_redis.client.hkeys("{test}:contracts"))
        assert found == {b"g", b"v", b"n:checkout", b"n:b"}


class Clocked:
    """Saved contracts of one replica without its other parts, at a time of the test's."""

    def __init__(self, server: RedisServer, now: list[float]) -> None:
        self.names = NamedContracts()
        self.store = Store(server.url, "clocked", "0" * 16)
        self.shared = SharedContracts(self.names, self.store, lambda: now[0])
        self.key = ContractKey(self.store)


async def test_what_has_expired_is_free_for_others_and_leaves_redis(redis_server: RedisServer) -> None:
    now = [time.time()]
    one = Clocked(redis_server, now)
    await one.shared.save(saved("brief", ttl=10, now=now[0]), admin=False)
    await one.shared.save(saved("taken", ttl=10, now=now[0]), admin=False)
    now[0] += 10 + GRACE_SECONDS + 1
    await one.shared.save(saved("taken", "bob", now=now[0]), admin=False)
    assert one.names.find("taken", now[0]).owner == "bob"
    assert set(await one.key.read()) == {"taken"}
    await one.store.close()


async def test_values_of_others_are_left_alone(redis_server: RedisServer) -> None:
    now = [time.time()]
    one = Clocked(redis_server, now)
    await one.shared.save(saved("mine", now=now[0]), admin=False)
    newer = json.dumps({"text": {"to": "another form"}, "owner": "bob", "saved": 1, "expires": now[0] + 60})
    for name in ("newer", "No Name"):
        redis_server.client.hset("{clocked}:contracts", f"n:{name}", newer)
    redis_server.client.hincrby("{clocked}:contracts", "v", 1)
    await one.shared.refresh()
    assert [each.name for each in one.names.listing(now[0])] == ["mine"]
    with pytest.raises(ContractNotOwned, match="newer release"):
        await one.shared.save(saved("newer", now=now[0]), admin=True)
    assert set(await one.key.read()) == {"mine", "newer", "No Name"}
    await one.store.close()


def test_a_record_is_read_as_it_was_written() -> None:
    contract = saved(text='{"foo": {"to": "alice", "path": "/a/"}}')
    assert decode_contract("checkout", encode_contract(contract)) == contract
    more = json.loads(encode_contract(contract)) | {"later": 1}
    assert decode_contract("checkout", json.dumps(more).encode()) == contract


@pytest.mark.parametrize(
    "change",
    [
        {"text": "nonsense"},
        {"text": "@other"},
        {"text": '{"foo": "' + "a" * 9000 + '"}'},
        {"owner": "Alice"},
        {"owner": "a--b"},
        {"expires": -1},
        {"expires": "soon"},
        {"saved": None},
    ],
)
def test_what_no_replica_would_write_is_no_contract(change: dict[str, object]) -> None:
    record = json.loads(encode_contract(saved())) | change
    with pytest.raises(ValueError):  # noqa: PT011 - which rule it breaks is pydantic's to say
        decode_contract("checkout", json.dumps(record).encode())
