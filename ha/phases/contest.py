"""Two laptops register the same name at two replicas at the same moment. In the end one of them has it,
everywhere, and the other one knows.
"""

import asyncio
from dataclasses import dataclass

from devroute.agent.registration import WELCOME_SECONDS, receive_welcome, rejection
from devroute.errors import DevrouteError, LinkReplaced, NameTaken
from devroute.tunnel.agent_link import AgentLink
from ha.figures import Report
from ha.links import hello_of, register
from ha.mesh import Mesh, Replica
from ha.scale import Scale
from tests.support.eventually import eventually

NAME = "one name, twice"
CONTESTED = "ha--both-{}"
#: Contests at the same time.
AT_ONCE = 10


@dataclass(frozen=True, slots=True)
class Result:
    one_holder: bool
    everywhere: bool
    informed: bool


async def run(ours: Mesh, scale: Scale, report: Report) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(number: int) -> Result:
        async with gate:
            return await _contest(ours, number)

    results = await asyncio.gather(*map(one, range(scale.contests)))
    report.add(NAME, "names", scale.contests)
    report.at_least(NAME, "held by exactly one", sum(r.one_holder for r in results), scale.contests)
    report.at_least(NAME, "by the same one everywhere", sum(r.everywhere for r in results), scale.contests)
    report.at_least(NAME, "the other one was informed", sum(r.informed for r in results), scale.contests)


async def _contest(ours: Mesh, number: int) -> Result:
    """Every other one with `--takeover`, where the newer one wins, and without, where it is refused."""
    name = CONTESTED.format(number)
    places = [ours.exposed[number % 3], ours.exposed[(number + 1) % 3]]
    attempts = [
        register(each.proxy.server, ours.secret, hello_of(name, takeover=number % 2 == 0)) for each in places
    ]
    links = await asyncio.gather(*attempts)
    await asyncio.gather(*(receive_welcome(each, WELCOME_SECONDS) for each in links), return_exceptions=True)
    try:
        await eventually(lambda: sum(map(_is_open, links)) == 1, "one holder")
        holder = places[[_is_open(each) for each in links].index(True)]
        everywhere = await _is_known(ours, name, holder)
        one_holder = sum(map(_is_open, links)) == 1
    except AssertionError:
        everywhere = one_holder = False
    losers = [each for each in links if not _is_open(each)]
    informed = bool(losers) and all(isinstance(rejection(each), LinkReplaced | NameTaken) for each in losers)
    for each in links:
        each.close_with(DevrouteError("the contest is over"))
    return Result(one_holder, everywhere, informed)


def _is_open(link: AgentLink) -> bool:
    return link.close_error is None and link.goaway is None


async def _is_known(ours: Mesh, name: str, holder: Replica) -> bool:
    """Whether all replicas name the holder's as the owner in the end. Raises AssertionError."""
    owner = f"{holder.proxy.data.host}:{holder.proxy.data.port}"

    async def is_owner(replica: Replica) -> bool:
        return (await ours.resolve(replica, name)).get("owner") == owner

    for each in ours.exposed:
        await eventually(lambda each=each: is_owner(each), "the owner everywhere")  # type: ignore[misc]
    return True
