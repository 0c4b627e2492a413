"""When an agent looks for a second link, and what becomes of it; the links are hand-written."""

import asyncio
from collections.abc import Collection

import pytest

from devroute.agent import second_link
from devroute.agent.second_link import MOVED, TRIES, Held, SecondLink, dial_next
from devroute.errors import DevrouteError, ServerUnreachable
from devroute.tunnel.dial import SameReplica
from devroute.tunnel.protocol.frames import Reason
from devroute.tunnel.protocol.handshake import FEATURES, Move, Welcome
from tests.support.eventually import eventually, quiet

pytestmark = pytest.mark.asyncio


class Link:
    def __init__(self) -> None:
        self.close_reason: asyncio.Future[DevrouteError] = asyncio.get_running_loop().create_future()
        self.close_error: DevrouteError | None = None
        self.goaway: Reason | None = None
        self.drained: list[tuple[str, ...]] = []

    def drain(self, *reason: str) -> None:
        self.drained.append(reason)

    def end(self) -> None:
        self.close_error = ServerUnreachable("it has ended")
        self.close_reason.set_result(self.close_error)


def held(
    replica: str | None, replicas: int = 3, features: Collection[str] = FEATURES, number: int = 0
) -> Held:
    welcome = Welcome(server="1", name="alice", features=tuple(features), replica=replica, replicas=replicas)
    move: asyncio.Future[Move] = asyncio.get_running_loop().create_future()
    return Held(Link(), welcome, number, move)  # type: ignore[arg-type]


class Replicas:
    """What connections lead to, in turn and then again; an error is raised."""

    def __init__(self, *found: str | DevrouteError) -> None:
        self.found = found
        self.dialled: list[tuple[int, bool, frozenset[str]]] = []
        self.made: list[Held] = []

    async def __call__(self, number: int, *, beside: bool, other_than: Collection[str]) -> Held:
        await asyncio.sleep(0)
        found = self.found[len(self.dialled) % len(self.found)]
        self.dialled.append((number, beside, frozenset(other_than)))
        if isinstance(found, DevrouteError):
            raise found
        if found in other_than:
            raise SameReplica(found)
        self.made.append(held(found, number=number))
        return self.made[-1]


class Said:
    def __init__(self) -> None:
        self.counts: list[int] = []

    def links(self, count: int, reason: str = "") -> None:
        self.counts.append(count)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first attempt after no timer, so that turns of the loop show whether there is one."""
    monkeypatch.setattr(second_link, "SPREAD_SECONDS", 0.0)
    monkeypatch.setattr(second_link, "LAST_DELAY", 0.001)


def second(replicas: Replicas, said: Said) -> SecondLink:
    return SecondLink(replicas, said, lambda link: link.close_reason.result())  # type: ignore[arg-type]


async def dials(count: int, replicas: Replicas) -> None:
    await eventually(lambda: len(replicas.dialled) >= count, f"{count} attempts")


@pytest.mark.parametrize(
    ("replica", "replicas", "features"),
    [
        (None, 1, FEATURES),  # the registry in memory
        (None, 1, ()),  # a proxy that names no replicas
        ("a", 3, ("terms", "renew", "shadow")),  # one that knows no second link
        ("a", 1, FEATURES),
    ],
)
async def test_where_there_is_no_other_replica_none_is_looked_for(
    replica: str | None, replicas: int, features: tuple[str, ...]
) -> None:
    there = Replicas("b")
    looked_for = second(there, Said())
    looked_for.beside(held(replica, replicas, features))
    await quiet(lambda: len(there.dialled))
    assert there.dialled == []
    assert await looked_for.take() is None


async def test_it_is_dialled_until_it_leads_elsewhere_and_again_when_it_has_ended() -> None:
    there, said = Replicas("a", ServerUnreachable("no"), "b"), Said()
    looked_for = second(there, said)
    looked_for.beside(held("a"))
    await dials(3, there)
    await eventually(lambda: looked_for.replica == "b")
    assert set(there.dialled) == {(1, True, frozenset({"a"}))}
    there.made[0].link.end()  # type: ignore[attr-defined]
    await dials(6, there)
    await eventually(lambda: said.counts == [2, 1, 2])
    taken = await looked_for.take()
    assert taken is there.made[1]
    looked_for.beside(taken)
    await dials(7, there)
    assert there.dialled[6] == (0, True, frozenset({"b"})), (
        "the other number, and another replica than its own"
    )
    await looked_for.close()


async def test_where_all_attempts_lead_to_the_same_replica_they_end() -> None:
    there, said = Replicas("a"), Said()
    looked_for = second(there, said)
    looked_for.beside(held("a"))
    await eventually(lambda: said.counts == [1])
    await quiet(lambda: len(there.dialled))
    assert len(there.dialled) == TRIES
    assert await looked_for.take() is None


async def test_when_the_first_one_moves_another_replica_is_looked_for_at_once() -> None:
    there, said = Replicas(*["a"] * TRIES, "c"), Said()
    looked_for = second(there, said)
    looked_for.beside(held("a"))
    await eventually(lambda: said.counts == [1])
    looked_for.beside(held("b"))
    await eventually(lambda: looked_for.replica == "c")
    await looked_for.close()


async def test_it_is_not_taken_once_it_has_ended_or_is_about_to() -> None:
    for state in ("ended", "leaving"):
        there = Replicas("b")
        looked_for = second(there, Said())
        looked_for.beside(held("a"))
        await eventually(lambda looked_for=looked_for: looked_for.replica == "b")
        link = there.made[0].link
        if state == "ended":
            link.close_error = ServerUnreachable("it has ended")
        else:
            link.goaway = Reason("draining", "", "")
        assert await looked_for.take() is None


async def test_one_that_leads_to_where_the_first_has_moved_is_let_go() -> None:
    there = Replicas("b")
    looked_for = second(there, Said())
    looked_for.beside(held("a"))
    await eventually(lambda: looked_for.replica == "b")
    looked_for.beside(held("b"))
    assert there.made[0].link.drained == [MOVED]  # type: ignore[attr-defined]
    await looked_for.close()


@pytest.mark.parametrize(
    ("found", "other", "replica"),
    [
        (("a", "b", "c"), "b", "c"),  # neither to the one that stops nor to that of the other link
        (("a", "b"), "", "b"),
        (("a", "b"), "b", None),  # the other link carries all requests
        ((ServerUnreachable("no"), "c"), "b", "c"),
    ],
)
async def test_a_link_whose_server_stops_is_dialled_at_a_third_replica(
    found: tuple[str | DevrouteError, ...], other: str, replica: str | None
) -> None:
    there, old = Replicas(*found), held("a", number=1)
    old.move.set_result(Move(within=0))
    made = await dial_next(old, there, lambda: other)
    assert (None if made is None else made.replica) == replica
    assert {(number, beside) for number, beside, _ in there.dialled} == {(1, bool(other))}


async def test_a_link_that_has_ended_is_not_dialled_as_one_that_is_about_to() -> None:
    there, old = Replicas("a"), held("a")
    old.move.set_result(Move(within=600))
    old.link.end()  # type: ignore[attr-defined]
    assert await dial_next(old, there, lambda: "") is None
    assert there.dialled == []
