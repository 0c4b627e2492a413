"""Authentication and its end: a real proxy, a real issuer, real links."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from devroute.auth.jwks import COOLDOWN_SECONDS, RemoteKeys
from devroute.auth.oidc import IssuerKeys
from devroute.auth.tokens import TokenRecord, new_token
from devroute.errors import DevrouteError, KeysUnavailable, NameNotOwned, TokenExpired, TokenInvalid
from devroute.mesh import testbed
from devroute.proxy.settings import ProxySettings
from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.dial import dial
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket
from tests.support.eventually import eventually
from tests.support.issuer import AUDIENCE, Issuer, SigningKey, issuing, jwks

pytestmark = pytest.mark.asyncio(loop_scope="module")

#: Seconds within which the tunnel of an expired or revoked token has to end (issue 5).
END_S = 10.0
#: By which our clock and the issuer's may differ.
SKEW_S: float = ProxySettings.model_fields["oidc_clock_skew"].default


@dataclass
class Place:
    """A proxy and requests to it."""

    proxy: testbed.RunningProxy
    folder: Path
    issuer: Issuer
    session: aiohttp.ClientSession

    async def status(self, token: str) -> dict[str, Any]:
        """The response of /api/status to this token."""
        fields = {"authorization": f"Bearer {token}"}
        async with self.session.get(f"{self.proxy.server}/api/status", headers=fields) as response:
            return {"status": response.status, **await response.json()}

    async def ready(self) -> dict[str, Any]:
        port = self.proxy.admin.port
        async with self.session.get(f"http://127.0.0.1:{port}/readyz") as response:
            return {"status": response.status, **await response.json()}

    async def link(self, token: str, name: str | None = None) -> AgentLink:
        """A registered link. Raises the error that the server sends instead."""

        def make(websocket: WebSocket, loop: asyncio.AbstractEventLoop) -> AgentLink:
            link = AgentLink(websocket, loop, {}, lambda finished: None)
            offer = handshake.Offer(service="foo")
            link.send_hello(handshake.Hello(agent="test", name=name, services=(offer,)).encode())
            return link

        link = await dial(self.proxy.server, token, make)
        await asyncio.wait({link.welcome, link.close_reason}, return_when=asyncio.FIRST_COMPLETED)
        if link.goaway is not None:
            raise link.goaway.as_error(DevrouteError)
        return link


def oidc(issuer: Issuer, **more: str) -> Mapping[str, str]:
    settings = {"OIDC_ISSUER": issuer.url, "OIDC_AUDIENCE": AUDIENCE} | more
    return {f"DEVROUTE_{name}": value for name, value in settings.items()}


@asynccontextmanager
async def placed(
    folder: Path, issuer: Issuer, *records: TokenRecord, **settings: str
) -> AsyncIterator[Place]:
    async with (
        testbed.proxy(folder, records, environment=oidc(issuer, **settings)) as proxy,
        aiohttp.ClientSession() as session,
    ):
        yield Place(proxy, folder, issuer, session)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with (
        issuing(SigningKey("one"), SigningKey("rsa", "RS256"), SigningKey("ec", "ES256")) as issuer,
        placed(tmp_path_factory.mktemp("place"), issuer) as place,
    ):
        yield place


def write(place: Place, *records: TokenRecord) -> None:
    """At once, since the proxy may read it meanwhile."""
    (place.folder / "tokens.new").write_text("".join(each.as_yaml() for each in records))
    os.replace(place.folder / "tokens.new", place.folder / "tokens.yaml")


async def known(place: Place, secret: str, wanted: bool = True) -> None:
    """Wait until the proxy has read the token file."""

    async def look() -> bool:
        return ((await place.status(secret))["status"] == 200) is wanted

    await eventually(look)


# --- tokens of an issuer ------------------------------------------------------------------------------


async def test_a_good_token_of_each_algorithm_is_let_in_with_its_groups(place: Place) -> None:
    for key in place.issuer.keys:
        status = await place.status(place.issuer.token(key=key, groups=["qa"]))
        assert (status["status"], status["you"], status["groups"]) == (200, "alice", ["qa"])
        assert 0 < status["token_expires_s"] <= 605
    link = await place.link(place.issuer.token())
    link.close_with(DevrouteError("the test is over"))


@pytest.mark.parametrize(
    ("changes", "status", "code", "words"),
    [
        ({"iss": "https://evil.test"}, 401, "token-invalid", "was issued by 'https://evil.test'"),
        ({"aud": "other"}, 401, "token-invalid", "is for 'other'"),
        ({"exp": time.time() - 60}, 401, "token-expired", "expired"),
        ({"nbf": time.time() + 3600}, 401, "token-invalid", "not valid for another"),
        ({"sub": "Not a label"}, 403, "subject-invalid", "'Not a label'"),
        ({"groups": ["g" * 100] * 100}, 401, "token-invalid", "longer than"),
    ],
)
async def test_a_token_that_is_not_good_is_refused_alike_by_the_api_and_the_tunnel(
    place: Place, changes: dict[str, Any], status: int, code: str, words: str
) -> None:
    token = place.issuer.token(**changes)
    answer = await place.status(token)
    assert (answer["status"], answer["code"]) == (status, code)
    assert words in answer["message"]
    with pytest.raises(DevrouteError) as caught:
        await place.link(token)
    assert (caught.value.code, words in caught.value.message) == (code, True)


def forged(claims: dict[str, Any], secret: bytes, **header: str) -> str:
    """A forged token, made from public data only."""

    def encoded(document: dict[str, Any] | bytes) -> str:
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        return base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    text = f"{encoded(header)}.{encoded(claims)}"
    mac = hmac.new(secret, text.encode(), hashlib.sha256).digest() if secret else b""
    return f"{text}.{encoded(mac)}"


async def test_a_token_that_was_made_of_what_is_public_is_refused_by_the_api_and_the_tunnel(
    place: Place,
) -> None:
    for key in place.issuer.keys:
        assert key.kid is not None
        public = (key.pem(), jwks(key).encode(), json.dumps(key.jwk).encode())
        tokens = [forged(place.issuer.claims(), b"", alg=alg, kid=key.kid) for alg in ("none", "None", "")]
        tokens += [
            forged(place.issuer.claims(), secret, alg=alg, kid=key.kid)
            for secret in public
            for alg in ("HS256", key.algorithm)
        ]
        for token in tokens:
            answer = await place.status(token)
            assert (answer["status"], answer["code"]) == (401, "token-invalid"), token
        for token in tokens[0], tokens[3]:
            with pytest.raises(TokenInvalid):
                await place.link(token)
    assert (await place.status(place.issuer.token()))["status"] == 200


async def test_a_token_just_within_the_clock_s_skew_is_good(place: Place) -> None:
    async def expired_a_second_ago() -> dict[str, Any] | None:
        """The response; None where it came so late that the skew may have passed as well."""
        expired = time.time() - 1
        status = await place.status(place.issuer.token(exp=expired))
        return status if time.time() < expired + SKEW_S else None

    assert (await eventually(expired_a_second_ago))["status"] == 200
    assert (await place.status(place.issuer.token(nbf=time.time() + 2)))["status"] == 200


async def test_keys_may_change_while_it_runs(place: Place) -> None:
    old, new = place.issuer.keys[0], SigningKey("new")
    try:
        assert (await place.status(place.issuer.token(key=old)))["status"] == 200
        place.issuer.keys = [new]
        assert (await place.status(place.issuer.token(key=new)))["status"] == 200
        assert (await place.status(place.issuer.token(key=old)))["code"] == "token-invalid"
    finally:
        place.issuer.keys = [old, *place.issuer.keys[1:], new]


async def test_a_flood_of_unknown_key_ids_does_not_flood_the_issuer(place: Place) -> None:
    before = len(place.issuer.asked)
    started = time.monotonic()
    tokens = [place.issuer.token(key=SigningKey(f"unknown-{n}")) for n in range(60)]
    answers = await asyncio.gather(*(place.status(token) for token in tokens))
    assert {answer["code"] for answer in answers} == {"token-invalid"}
    fetches = (len(place.issuer.asked) - before) / 2  # discovery and keys
    assert fetches <= 2 + (time.monotonic() - started) / COOLDOWN_SECONDS


async def test_while_the_issuer_is_down_known_keys_are_good_and_readiness_says_so(place: Place) -> None:
    place.issuer.down = True
    try:
        unknown = await place.status(place.issuer.token(key=SigningKey("unknown")))
        assert unknown["code"] == "token-invalid"
        assert (await place.status(place.issuer.token()))["status"] == 200
        ready = await place.ready()
        assert (ready["status"], ready["oidc"]["usable"]) == (200, True)
        assert "responded with 503" in ready["oidc"]["problem"]
    finally:
        place.issuer.down = False


async def test_a_proxy_that_starts_without_its_issuer_refuses_at_once_and_recovers(tmp_path: Path) -> None:
    secret, record = new_token("bob")
    async with issuing() as issuer:
        issuer.down = True
        async with placed(tmp_path, issuer, record) as place:
            async with asyncio.timeout(END_S):
                answer = await place.status(issuer.token())
            assert (answer["status"], answer["code"]) == (503, "keys-unavailable")
            with pytest.raises(KeysUnavailable):
                await place.link(issuer.token())
            assert (await place.status(secret))["you"] == "bob", "static tokens need no issuer"
            ready = await place.ready()
            assert (ready["status"], ready["oidc"]["usable"]) == (200, False)
            issuer.down = False

            async def look() -> bool:
                return (await place.status(issuer.token()))["status"] == 200

            await eventually(look)


async def test_keys_may_be_in_a_file_and_are_read_again(tmp_path: Path) -> None:
    first, second = SigningKey("first"), SigningKey("second")
    file = tmp_path / "keys.json"
    file.write_text(jwks(first))
    async with issuing(first) as issuer:
        issuer.down = True
        async with placed(tmp_path, issuer, OIDC_JWKS=str(file), RELOAD_INTERVAL="0.5") as place:
            assert (await place.status(issuer.token(key=first)))["status"] == 200
            assert (await place.status(issuer.token(key=second)))["status"] == 401
            file.write_text(jwks(second))

            async def look() -> bool:
                return (await place.status(issuer.token(key=second)))["status"] == 200

            await eventually(look)
            file.write_text("{")

            async def complains() -> bool:
                return (await place.ready())["oidc"]["problem"] is not None

            await eventually(complains)
            assert (await place.status(issuer.token(key=second)))["status"] == 200
        assert issuer.asked == []


# --- how long a tunnel lasts --------------------------------------------------------------------------


async def test_the_tunnel_of_an_expired_token_ends_with_that_reason(place: Place) -> None:
    for left in (1, 4, 16):  # seconds of the 5 by which clocks may differ
        with suppress(TokenExpired):
            link = await place.link(place.issuer.token("carol", exp=time.time() - 5 + left))
            break
    async with asyncio.timeout(left + END_S):
        await link.close_reason
    assert link.goaway is not None
    assert link.goaway.code == TokenExpired.code
    assert "--token-command" in link.goaway.hint


async def test_the_tunnel_of_a_revoked_or_expired_static_token_ends_and_others_stay(place: Place) -> None:
    for left in (6, 12, 24):  # seconds in which a slow machine may not have the first link
        (secret, alice), (other, bob) = new_token("alice"), new_token("bob")
        soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + left))
        (short, carol) = new_token("carol", expires=soon)
        write(place, alice, bob, carol)
        await known(place, secret)
        with suppress(TokenExpired):
            links = [await place.link(each) for each in (short, secret, other)]
            break
    write(place, bob, carol)
    async with asyncio.timeout(left + END_S):
        await asyncio.gather(links[0].close_reason, links[1].close_reason)
    assert [link.goaway and link.goaway.code for link in links] == ["token-expired", "token-invalid", None]
    assert links[1].goaway is not None
    assert "was revoked" in links[1].goaway.message
    with pytest.raises(TokenInvalid):
        await place.link(secret)
    links[2].close_with(DevrouteError("the test is over"))


# --- names --------------------------------------------------------------------------------------------


async def test_a_name_of_another_subject_is_refused_in_either_order(place: Place) -> None:
    for name in ("dora-home", "dora-home--ci"):
        with pytest.raises(NameNotOwned) as caught:
            await place.link(place.issuer.token("dora"), name=name)
        assert "--name dora--home" in caught.value.hint
    theirs = await place.link(place.issuer.token("dora-home"))
    theirs.close_with(DevrouteError("the test is over"))
    holder = await place.link(place.issuer.token("dora"), name="dora--home")
    again = await place.link(place.issuer.token("dora"), name="dora--home")
    async with asyncio.timeout(END_S):
        await holder.close_reason
    assert holder.goaway is not None
    assert holder.goaway.code == "link-replaced", "the same subject may take its own name back"
    again.close_with(DevrouteError("the test is over"))


# --- the keys' source itself --------------------------------------------------------------------------


OF_ISSUER: Any = {"parse": IssuerKeys.parse, "empty": IssuerKeys()}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_old_keys_are_good_for_a_bounded_time_only() -> None:
    clock = Clock()
    async with issuing() as issuer:
        keys = RemoteKeys(issuer=issuer.url, url=None, max_age=100, clock=clock, **OF_ISSUER)
        assert list((await keys.keys("one")).by_id) == ["one"]
        issuer.down = True
        clock.now += 100
        assert list((await keys.keys("one")).by_id) == ["one"]
        clock.now += 1
        with pytest.raises(KeysUnavailable, match="responded with 503"):
            await keys.keys("one")
        issuer.down = False
        clock.now += COOLDOWN_SECONDS
        assert list((await keys.keys("one")).by_id) == ["one"]


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (lambda: aiohttp.web.Response(body=b"x" * 300_000), "longer than"),
        (lambda: aiohttp.web.Response(text="<html>"), "not JSON"),
        (lambda: aiohttp.web.Response(body=b"\xff"), "invalid start byte"),
        (lambda: aiohttp.web.Response(status=302, headers={"location": "/keys"}), "responded with 302"),
        (lambda: aiohttp.web.Response(text=json.dumps({"keys": []})), "it has no key for"),
    ],
)
async def test_a_response_that_is_no_key_set_is_a_problem_and_not_a_crash(
    answer: Callable[[], aiohttp.web.Response], problem: str
) -> None:
    async with issuing() as issuer:
        issuer.answer = answer()
        keys = RemoteKeys(issuer=issuer.url, url=None, max_age=100, clock=Clock(), **OF_ISSUER)
        with pytest.raises(KeysUnavailable, match=problem):
            await keys.keys("one")


async def test_a_discovery_document_of_another_issuer_is_rejected() -> None:
    async with issuing() as issuer:
        keys = RemoteKeys(issuer=issuer.url + "/tenant", url=None, max_age=100, clock=Clock(), **OF_ISSUER)
        with pytest.raises(KeysUnavailable, match="not the document of the issuer"):
            await keys.keys("one")
