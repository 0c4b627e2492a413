"""What replicas share for the team's page: two tables that ask each other as replicas do over their link."""

import time
from collections.abc import Callable

from devroute.auth.blocks import Block, Blocks
from devroute.auth.identity import Identity
from devroute.auth.sessions import Session, digest
from devroute.errors import NotFound
from devroute.proxy.dashboard.shared import ASK_BURST, SharedTeam
from devroute.replicas.node import TEAM
from tests.support.eventually import eventually, quiet


class Replica:
    """One of several; implements Peers for itself. `enforced` are the blocks of the others."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.enforced: list[Block] = []
        self.others: list[Replica] = []
        self.asked = 0
        self.team = SharedTeam(self.blocks, lambda: b"{}", self.enforced.append)
        self.team.peers = self

    @property
    def linked(self) -> frozenset[str]:
        return frozenset(str(id(each)) for each in self.others)

    async def ask_all(self, question: bytes, body: bytes = b"") -> list[bytes]:
        self.asked += 1
        found = []
        for other in self.others:
            try:
                found.append(other.team.answer(question.removeprefix(TEAM).decode(), body))
            except NotFound:
                continue
        return found


def replicas() -> tuple[Replica, Replica]:
    one, other = Replica(), Replica()
    one.others, other.others = [other], [one]
    return one, other


def session(expires: float | None = None) -> Session:
    ends = time.time() + 60 if expires is None else expires
    return Session(Identity("alice"), "https://devroute.example", "devroute.example", ends)


async def test_a_session_is_known_to_all_replicas_and_a_code_is_taken_once() -> None:
    one, other = replicas()
    opened = session()
    one.team.codes.put(digest("code"), opened, time.time())
    assert await other.team.take_code(digest("code")) == opened
    assert await other.team.take_code(digest("code")) is None
    assert one.team.codes.take(digest("code"), time.time()) is None
    other.team.publish(digest("cookie"), opened)
    other.team.sessions.put(digest("cookie"), opened, time.time())
    found: Callable[[], object] = lambda: one.team.sessions.get(digest("cookie"), time.time())  # noqa: E731
    assert await eventually(found) == opened
    other.team.end(digest("cookie"))
    await eventually(lambda: found() is None)


async def test_a_replica_that_has_just_started_asks_for_a_session() -> None:
    one, other = replicas()
    one.team.sessions.put(digest("cookie"), session(), time.time())
    assert await other.team.find_session(digest("cookie")) is not None
    assert await other.team.find_session(digest("another")) is None
    assert one.team.sessions.get(digest("cookie"), time.time()) is not None  # it is not taken


async def test_a_flood_of_invented_cookies_does_not_flood_the_other_replicas() -> None:
    one, other = replicas()
    for number in range(3 * ASK_BURST):
        assert await one.team.find_session(digest(str(number))) is None
    assert one.asked < 2 * ASK_BURST
    other.team.codes.put(digest("code"), session(), time.time())
    assert await one.team.take_code(digest("code")) is not None


async def test_blocks_reach_other_replicas_at_once_and_new_ones_when_they_are_linked() -> None:
    one, other = replicas()
    one.blocks.add("bob", 600, "carol", "", time.time())
    one.team.spread_blocks()
    (block,) = await eventually(lambda: other.enforced)
    assert block.subject == "bob"
    late = Replica()
    late.others, other.others = [other], [one, late]
    late.team.exchange_if_newly_linked()
    await eventually(lambda: late.enforced)
    before = late.asked
    late.team.exchange_if_newly_linked()
    await quiet(lambda: late.asked)
    assert late.asked == before
    await late.team.close()
