"""Links on the proxy: registration, what policy takes back, and the end, over real sockets."""

import asyncio

import pytest

from devroute.contract.target import Address
from devroute.errors import (
    DevrouteError,
    NameNotOwned,
    RegistrationDenied,
    TargetDenied,
    UpstreamReset,
)
from devroute.proxy.control import tunnels
from devroute.proxy.control.tunnels import Permit
from devroute.tunnel import proxy_link
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol.handshake import Hello, Offer
from devroute.tunnel.protocol.websocket import WebSocket
from tests.support.loopback import App, Client, Site, connect, get, head, site

pytestmark = pytest.mark.asyncio


async def rejection(where: Site, link: AgentLink) -> str:
    async with asyncio.timeout(20):
        await link.close_reason
    assert link.goaway is not None
    return link.goaway.code


async def test_a_name_that_the_subject_does_not_own_is_rejected() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()}, name="bob")
        assert await rejection(where, link) == NameNotOwned.code
        assert link.welcome.cancelled()
        assert where.registry.listing() == []


@pytest.fixture
def revocable() -> tuple[set[str], Permit]:
    """Subjects that may not register, which a test changes, and the policy that refuses them."""
    refused: set[str] = set()

    def permit(subject: str, groups: frozenset[str], offer: Offer) -> None:
        if subject in refused:
            raise RegistrationDenied(f"'{subject}' may not register '{offer.service}'", hint="ask for it")

    return refused, permit


async def test_a_registration_that_policy_does_not_permit_is_rejected(
    revocable: tuple[set[str], Permit],
) -> None:
    refused, permit = revocable
    refused.add("alice")
    async with site(permit=permit) as where:
        link = await connect(where, {"foo": App()})
        assert await rejection(where, link) == "not-permitted"
        assert where.registry.listing() == []


async def test_a_new_policy_takes_a_laptop_offline_and_lets_its_open_requests_end(
    revocable: tuple[set[str], Permit],
) -> None:
    refused, permit = revocable
    app, client = App(), Client()
    async with site(permit=permit) as where:
        link, other = (
            await connect(where, {"foo": app}),
            await connect(where, {"foo": App()}, token="bob-token"),
        )
        await link.welcome
        await other.welcome
        where.upstream().open(get(), client)
        await app.opened.wait()
        refused.add("alice")
        where.tunnels.review_policy()
        assert [each["name"] for each in where.registry.listing()] == ["bob"]
        (stream,) = app.streams
        stream.sink.on_head(head(200, 2))
        stream.sink.on_data(b"ok")
        stream.sink.on_end([])
        async with asyncio.timeout(20):
            await client.done.wait()
        assert (client.error, bytes(client.body)) == (None, b"ok")
        assert await rejection(where, link) == "not-permitted"
        assert link.goaway is not None
        assert link.goaway.hint == "ask for it"
        assert not other.close_reason.done()


@pytest.mark.parametrize("sends_goaway", [False, True])
async def test_open_requests_of_a_laptop_that_policy_took_offline_end_at_the_deadline(
    revocable: tuple[set[str], Permit], sends_goaway: bool
) -> None:
    refused, permit = revocable
    app, client = App(), Client()
    async with site(permit=permit, revoked_seconds=0.05) as where:
        link = await connect(where, {"foo": app})
        await link.welcome
        where.upstream().open(get(), client)
        await app.opened.wait()
        refused.add("alice")
        where.tunnels.review_policy()
        if sends_goaway:
            link.drain("leaving", "and staying nevertheless")
        assert await rejection(where, link) == "not-permitted"
        async with asyncio.timeout(20):
            await client.done.wait()
        assert client.error is not None


async def test_a_registered_address_needs_permission() -> None:
    def permit(subject: str, groups: frozenset[str], offer: Offer) -> None:
        raise TargetDenied(f"{offer.direct} is not permitted for {offer.service}")

    def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
        link = AgentLink(websocket, loop, {}, lambda finished: None)
        offer = Offer(service="foo", direct=Address("127.0.0.1", 8001))
        link.send_hello(Hello(agent="test", services=(offer,)).encode())
        return link

    async with site(permit=permit) as where:
        link = await dial(where.url, "alice-token", make)
        assert await rejection(where, link) == "target-denied"


async def test_a_newer_link_takes_the_name_and_the_older_s_streams_end() -> None:
    app = App()
    async with site() as where:
        old = await connect(where, {"foo": app})
        await old.welcome
        client = Client()
        where.upstream().open(get(), client)
        await app.opened.wait()
        new = await connect(where, {"foo": App()})
        await new.welcome
        assert await rejection(where, old) == "link-replaced"
        await client.done.wait()
        assert isinstance(client.error, UpstreamReset)
        await app.streams[0].cancelled.wait()
        assert len(where.registry.listing()) == 1
        new.close_with(DevrouteError("the test is over"))


async def test_a_holder_that_no_longer_responds_gives_its_services_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its network is gone, so that it could not close its link; its owner has started devroute up again."""
    monkeypatch.setattr(tunnels, "GONE_SECONDS", 0.05)
    monkeypatch.setattr(proxy_link, "FRESH_SECONDS", 0.0)
    monkeypatch.setattr(proxy_link, "GONE_SECONDS", 0.0)
    async with site() as where:
        frozen = await connect(where, {"foo": App()}, instance="a1")
        await frozen.welcome
        frozen.transport.pause_reading()  # type: ignore[attr-defined]
        new = await connect(where, {"foo": App()}, instance="b2")
        async with asyncio.timeout(20):
            await new.welcome
        assert [each.hello.instance for each in where.registry.registrations()] == ["b2"]
        monkeypatch.setattr(tunnels, "GONE_SECONDS", 20.0)  # what ends this wait is the response
        again = await connect(where, {"foo": App()}, instance="c3")
        assert await rejection(where, again) == "name-taken", "the holder responds"
        new.close_with(DevrouteError("the test is over"))
        frozen.close_with(DevrouteError("the test is over"))


async def test_closing_the_listener_ends_links_and_waits_for_them() -> None:
    async with site() as where:
        link = await connect(where, {"foo": App()})
        await link.welcome
        client = Client()
        where.upstream().open(get(), client)
    assert isinstance(client.error, UpstreamReset)
    assert await rejection(where, link) == "draining"
