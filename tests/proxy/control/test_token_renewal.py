"""A newer token on an open link: RENEW and RENEWED, and what the proxy does with them."""

import asyncio
import time
from collections.abc import Callable

import pytest

from devroute.auth.identity import Identity, PeerCertificate
from devroute.errors import DevrouteError, ProtocolError, RegistrationDenied, TokenExpired, TokenInvalid
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.events import Broken, RenewedFrame, RenewFrame
from devroute.tunnel.protocol.frames import FrameType
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, Site, answer, connect, get, site
from tests.support.raw_frames import frame, send
from tests.support.wire import Wire

pytestmark = pytest.mark.asyncio

#: A lifetime that no test waits for.
LONG = 1000.0


async def test_renew_is_replied_to_by_renewed() -> None:
    wire = Wire()
    wire.agent.send_renew(b"token")
    assert wire.to_proxy() == [RenewFrame(b"token")]
    wire.proxy.send_renewed(b"{}")
    assert wire.to_agent() == [RenewedFrame(b"{}")]
    wire.agent.send_renew(b"another")
    assert wire.to_proxy() == [RenewFrame(b"another")]


async def test_a_second_renew_before_renewed_violates_the_protocol() -> None:
    wire = Wire()
    wire.agent.send_renew(b"token")
    with pytest.raises(ValueError, match="cannot be renewed now"):
        wire.agent.send_renew(b"token")
    wire.agent.renewing = False
    wire.agent.send_renew(b"token")
    events = wire.to_proxy()
    assert isinstance(events[1], Broken)
    assert "before the RENEWED" in events[1].error.message


async def test_renewed_without_renew_violates_the_protocol() -> None:
    wire = Wire()
    wire.proxy.send_renewed(b"{}")
    (event,) = wire.to_agent()
    assert isinstance(event, Broken)
    early = Wire(greeted=False)
    with pytest.raises(ValueError, match="cannot be renewed now"):
        early.agent.send_renew(b"token")


async def test_renewed_survives_the_wire() -> None:
    for message in (
        handshake.Renewed(expires_in=3.5),
        handshake.Renewed(error=handshake.Refusal(code="token-invalid", message="no", hint="ask")),
    ):
        assert handshake.decode(handshake.Renewed, message.encode()) == message
    with pytest.raises(ProtocolError):
        handshake.decode(handshake.Renewed, b'{"expires_in": "soon"}')


# --- with a proxy -------------------------------------------------------------------------------------


async def authenticate(authorization: str, certificate: PeerCertificate | None) -> Identity:
    """`Bearer SUBJECT SECONDS GROUP`."""
    words = authorization.split()[1:]
    if len(words) != 3:
        raise TokenInvalid("the token is not known to this server")
    return Identity(words[0], frozenset({words[2]}), time.time() + float(words[1]))


async def renewed(link: AgentLink, token: str) -> handshake.Renewed:
    async with asyncio.timeout(20):
        return handshake.decode(handshake.Renewed, await link.renew(token))


def in_force(later: float) -> Callable[[Identity, float], float | None]:
    def judge(identity: Identity, now: float) -> float | None:
        assert identity.expires is not None
        if identity.expires <= now + later:
            raise TokenExpired("the token has expired")
        return identity.expires

    return judge


async def registered(where: Site, token: str) -> AgentLink:
    link = await connect(where, {"foo": App(answer(b"fine"))}, token=token)
    async with asyncio.timeout(20):
        welcome = handshake.decode(handshake.Welcome, await link.welcome)
    assert "renew" in welcome.features
    assert welcome.expires_in == pytest.approx(float(token.split()[1]), abs=5)
    return link


async def test_a_newer_token_extends_the_link_and_requests_go_on() -> None:
    async with site(authenticate=authenticate) as where:
        link = await registered(where, "alice 100 qa")
        answered = await renewed(link, "alice 5000 qa")
        assert answered.error is None
        assert answered.expires_in == pytest.approx(5000, abs=5)
        where.tunnels.review_identities(in_force(LONG), time.time(), object())
        client = Client()
        where.upstream().open(get(), client)
        await asyncio.wait_for(client.done.wait(), 20)
        assert client.body == b"fine"
        where.tunnels.review_identities(in_force(6000), time.time(), object())
        await asyncio.wait_for(link.close_reason, 20)
        assert link.goaway is not None
        assert link.goaway.code == "token-expired"


async def test_a_second_renew_from_an_agent_that_has_not_read_the_reply_to_the_first_ends_the_link() -> None:
    """Else one that does not read would make the proxy keep a reply to each."""
    async with site(authenticate=authenticate) as where:
        link = await registered(where, "alice 100 qa")
        (proxy,) = where.tunnels.links
        proxy.pause_writing()
        renewal = link.renew("alice 5000 qa")
        await eventually(lambda: proxy.unread)
        send(link, frame(FrameType.RENEW, payload=b"alice 6000 qa"))
        async with asyncio.timeout(20):
            await proxy.disconnected
        assert isinstance(proxy.close_error, ProtocolError)
        assert "before the RENEWED" in proxy.close_error.message
        assert renewal.done()


@pytest.mark.parametrize(
    ("token", "code"),
    [("bob 5000 qa", "name-not-owned"), ("alice 5000 guests", "not-permitted"), ("x", "token-invalid")],
)
async def test_a_newer_token_that_is_not_valid_leaves_the_one_before_valid(token: str, code: str) -> None:
    def permit(subject: str, groups: frozenset[str], offer: handshake.Offer) -> None:
        if "guests" in groups:
            raise RegistrationDenied("guests may register nothing")

    async with site(authenticate=authenticate, permit=permit) as where:
        link = await registered(where, "alice 100 qa")
        answered = await renewed(link, token)
        assert answered.error is not None
        assert answered.error.code == code
        where.tunnels.review_identities(in_force(0), time.time(), object())
        assert where.registry.lookup("alice", "foo").upstream is not None
        where.tunnels.review_identities(in_force(LONG), time.time(), object())
        await asyncio.wait_for(link.close_reason, 20)


async def test_a_link_that_ends_cancels_the_renewal_on_both_sides() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def slow(authorization: str, certificate: PeerCertificate | None) -> Identity:
        if authorization != "Bearer slow":
            return await authenticate(authorization, certificate)
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError("unreachable")

    async with site(authenticate=slow) as where:
        link = await registered(where, "alice 100 qa")
        waiting = link.renew("slow")
        await asyncio.wait_for(started.wait(), 20)
        link.close_with(DevrouteError("the agent ends"))
        await asyncio.wait_for(ended.wait(), 20)
        assert waiting.cancelled()


async def test_identities_are_not_checked_again_while_nothing_has_changed() -> None:
    asked: list[str] = []
    tokens = object()

    def current_until(identity: Identity, now: float) -> float | None:
        asked.append(identity.subject)
        return identity.expires

    def look(now: float, tokens: object = tokens) -> list[str]:
        asked.clear()
        where.tunnels.review_identities(current_until, now, tokens)
        return list(asked)

    async with site(authenticate=authenticate) as where:
        link = await registered(where, "alice 100 qa")
        now = time.time()
        assert look(now) == ["alice"]
        assert look(now) == []
        assert look(now + 101) == ["alice"]
        assert look(now, object()) == ["alice"]
        assert look(now) == ["alice"]
        assert look(now) == []
        assert (await renewed(link, "alice 5000 qa")).error is None
        assert look(now) == ["alice"]
        assert look(now + 101) == []
