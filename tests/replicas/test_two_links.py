"""A laptop's process has a link at each of two replicas, over a real Redis: either carries requests, and what
is counted is the process."""

import asyncio

from devroute.errors import LinkReplaced, TooManyLinks
from devroute.tunnel.protocol.handshake import MOVE_SERVICE, NOTICE_SERVICE, Welcome, decode
from tests.replicas.replicas import Replica, replicas
from tests.replicas.test_shared_registry import body, ended, known
from tests.support.eventually import eventually, quiet
from tests.support.loopback import App, answer, connect
from tests.support.redis_server import RedisServer

ONE = {"foo": App(answer(b"by the first link"))}
TWO = {"foo": App(answer(b"by the second link"))}


async def has_links(count: int, *everywhere: Replica) -> None:
    for each in everywhere:
        await eventually(
            lambda each=each: [laptop["links"] for laptop in each.registry.listing()] == [count],
            f"one laptop with {count} links",
        )


async def test_two_links_stand_side_by_side_and_each_replica_prefers_its_own(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        first = await one.connect(ONE, instance="a1")
        second = await two.connect(TWO, instance="a1", link=1, beside=True)
        await has_links(2, one, two, three)
        owners = [each.registry.lookup("alice", "foo").owner for each in (one, two, three)]
        assert owners == [one.place, two.place, one.place], "elsewhere: the oldest, and all agree"
        bodies = [await body(each) for each in (one, two, three)]
        assert bodies == [b"by the first link", b"by the second link", b"by the first link"]
        assert first.close_error is second.close_error is None
        assert sum(each.registry.owned() for each in (one, two, three)) == 1
        first.drain("leaving", "the test goes on")
        await has_links(1, one, two, three)
        assert [await body(each) for each in (one, two, three)] == [b"by the second link"] * 3


async def test_when_a_replica_is_killed_the_other_link_takes_the_next_request(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        await one.connect(ONE, instance="a1")
        await two.connect(TWO, instance="a1", link=1, beside=True)
        await has_links(2, three)
        await one.kill()
        await eventually(lambda: not three.linked(one), "the end of the link between replicas")
        # At once: neither has its key expired, nor has its data port been found to be closed.
        assert await body(three) == b"by the second link"
        assert three.registry.lookup("alice", "foo").owner == two.place
        await has_links(1, two, three)
        assert await body(two) == b"by the second link"


async def test_another_process_takes_both_links_over(redis_server: RedisServer) -> None:
    async with replicas(redis_server, 3) as (one, two, three):
        links = [
            await one.connect(ONE, instance="a1"),
            await two.connect(TWO, instance="a1", link=1, beside=True),
        ]
        await has_links(2, three)
        new = {"foo": App(answer(b"another laptop"))}
        link = await three.connect(new, instance="b2", takeover=True)
        welcome = decode(Welcome, link.welcome.result())
        assert [each.services for each in welcome.taken_over] == [("foo",)]
        for each in links:
            assert await ended(each) == LinkReplaced.code
        await has_links(1, one, two, three)
        assert [await body(each) for each in (one, two, three)] == [b"another laptop"] * 3


async def test_a_replica_that_stops_moves_its_link_and_the_other_one_stays(redis_server: RedisServer) -> None:
    moved = {"foo": App(answer(b"by the moved link"))}
    async with replicas(redis_server, 3) as (one, two, three):
        services = {**ONE, MOVE_SERVICE: App(answer(b""))}
        first = await one.connect(services, offered=["foo"], instance="a1")
        second = await two.connect(TWO, instance="a1", link=1, beside=True)
        await has_links(2, one, two, three)
        moving = asyncio.get_running_loop().create_task(one.site.tunnels.hand_over(0))
        await three.connect(moved, instance="a1", beside=True)
        await asyncio.wait_for(moving, 20)
        assert first.goaway is not None
        assert first.goaway.code == "draining"
        await has_links(2, one, two, three)
        bodies = [await body(each) for each in (one, two, three)]
        assert bodies == [b"by the second link", b"by the second link", b"by the moved link"]
        assert second.close_error is None


async def test_a_second_link_is_no_news_to_the_other_processes_of_the_laptop(
    redis_server: RedisServer,
) -> None:
    notices = App(answer(b""))
    async with replicas(redis_server, 2) as (one, two):
        await one.connect({**ONE, NOTICE_SERVICE: notices}, offered=["foo"], instance="a1")
        other = {"bar": App(answer(b"bar"))}
        await two.connect(other, instance="b2")
        await eventually(lambda: len(notices.streams) == 1, "the notice")
        link = await one.connect(other, instance="b2", link=1, beside=True)
        welcome = decode(Welcome, link.welcome.result())
        assert [each.services for each in welcome.others] == [("foo",)]
        await eventually(lambda: len(two.registry.registrations()) == 3)
        await quiet(lambda: len(notices.streams))
        assert len(notices.streams) == 1


async def test_the_limit_of_a_subject_counts_processes_and_holds_for_those_of_the_same_moment(
    redis_server: RedisServer,
) -> None:
    async with replicas(redis_server, 3) as everywhere:
        for each in everywhere:
            each.registry.max_links = 2
        for number in (0, 1):
            await everywhere[number].connect(ONE, instance="a1", link=number, beside=bool(number))
        await known(*everywhere, names=["alice"])
        links = await asyncio.gather(
            *(
                connect(where.site, ONE, name=f"alice--{number}", instance=f"b{number}")
                for number, where in enumerate(everywhere)
            )
        )
        await eventually(lambda: sum(each.goaway is not None for each in links) == 2, "the end of two")
        for each in links:
            assert each.goaway is None or await ended(each) == TooManyLinks.code
        for each in everywhere:
            await eventually(lambda each=each: len(each.registry.listing()) == 2)
        assert sum(each.close_error is None for each in links) == 1
