"""The team's page of two real replicas: a browser reaches either, and sees and does the same."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from devroute.auth.sessions import digest
from devroute.errors import RegistrationEnded, SubjectBlocked
from devroute.routing.route import Route
from tests.proxy.dashboard.team import JSON, Exchange, Team, team
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer, needs_redis, running_redis

pytestmark = [pytest.mark.asyncio(loop_scope="module"), needs_redis]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Team, Team, RedisServer]]:
    """With the same tokens and policy."""
    folder = tmp_path_factory.mktemp("replicas")
    with running_redis(folder) as server:
        settings = {"registry": server.url, "advertise_host": "127.0.0.1"}
        async with team(folder / "one", **settings) as one, team(folder / "two", like=one, **settings) as two:
            for each in (one, two):
                peers = each.proxy.replication.peers
                await eventually(lambda peers=peers: len(peers.linked) == 1, "a link to the other one")
            yield one, two, server


async def test_a_link_and_its_session_are_good_at_either_replica(
    both: tuple[Team, Team, RedisServer],
) -> None:
    one, two, server = both
    code = await one.code("alice", "http://devroute.example", host="devroute.example")
    opening = {"sec-fetch-site": "none", "host": "devroute.example"}
    status, text, headers = await two.ask("GET", f"/dashboard/?code={code}", opening)
    assert status == 303, text
    for here in both[:2]:  # once, wherever it was used
        assert (await here.ask("GET", f"/dashboard/?code={code}", opening))[0] == 401
    cookie = {"cookie": headers["set-cookie"].partition(";")[0], "host": "devroute.example"}
    for here in both[:2]:
        status, answer, _ = await here.ask("GET", "/dashboard/status", cookie)
        assert (status, answer["you"], answer["replicas"]) == (200, "alice", 2)
    # Nothing of it stands in Redis.
    value = cookie["cookie"].partition("=")[2]
    kept = server.everything().decode()
    assert kept.count(":replica:") == 2
    assert not [each for each in (value, code, digest(value), digest(code)) if each in kept]
    assert (await one.ask("POST", "/dashboard/logout", cookie | {"origin": "http://devroute.example"}))[
        0
    ] == 200

    async def ended() -> bool:
        return (await two.ask("GET", "/dashboard/status", cookie))[0] == 401

    await eventually(ended)


async def test_a_page_shows_laptops_requests_and_fallbacks_of_all_replicas(
    both: tuple[Team, Team, RedisServer],
) -> None:
    one, two, _ = both
    link = await one.laptop("alice", "shop")
    for here in both[:2]:
        for _ in range(3):
            route = Route(None, "shop", "alice", "laptop", "")  # type: ignore[arg-type]
            here.proxy.telemetry.activity.count(Exchange(route))  # type: ignore[arg-type]
        await here.ask("GET", "/resolve", {"x-devroute": '{"shop": "dora"}', "x-devroute-candidates": "shop"})
    async with two.events(two.token("bob")) as stream:
        await stream.until(lambda each: [r for r in each.of("laptop") if r["services"][0]["requests"] == 6])
        await stream.until(lambda each: [r for r in each.of("fallback") if r["times"] == 2])
        await stream.until(lambda each: each.of("laptop")[0]["round_trip_ms"] is not None)
    link.transport.abort()


async def test_an_administrator_at_one_replica_ends_and_blocks_at_the_other(
    both: tuple[Team, Team, RedisServer],
) -> None:
    one, two, _ = both
    carol = two.token("carol") | JSON
    link = await one.laptop("alice", "shop")
    await eventually(lambda: two.proxy.registry.processes("alice"))
    assert (await two.ask("DELETE", "/api/laptops/alice", carol, {"reason": "the demo"}))[0] == 200
    await link.close_reason
    assert link.goaway is not None
    assert (link.goaway.code, link.goaway.message.rpartition(": ")[2]) == (RegistrationEnded.code, "the demo")
    link = await one.laptop("alice", "shop")
    assert (await two.ask("PUT", "/api/blocks/alice", carol, {"seconds": 600}))[0] == 200
    await link.close_reason
    assert link.goaway is not None
    assert link.goaway.code == SubjectBlocked.code
    assert (await one.ask("GET", "/api/laptops", one.token("alice")))[1]["code"] == "subject-blocked"
    assert (await one.ask("DELETE", "/api/blocks/alice", one.token("carol") | JSON))[0] == 200

    async def admitted() -> bool:
        return (await two.ask("GET", "/api/laptops", two.token("alice")))[0] == 200

    await eventually(admitted)
