"""A login that is kept: who renews it and when, and what happens where that fails. The issuer is a double on
a real socket, which ends a login whose refresh token is used twice; tests/sso has a real one."""

import asyncio
import base64
import json
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from devroute.agent.login import stored_login
from devroute.agent.login.device_flow import LoginSettings, TokenResponse
from devroute.agent.login.stored_login import LoginTokens, StoredLogin, granted
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import TokenSource, with_fetched_token
from devroute.errors import ConfigInvalid, LoginFailed, LoginRequired, ServerUnreachable

pytestmark = pytest.mark.asyncio

SERVER = "https://devroute.example:443"
LIFETIME = 1000.0


def id_token(number: int, expires: float) -> str:
    claims = json.dumps({"exp": expires, "n": number}).encode()
    return f"e30.{base64.urlsafe_b64encode(claims).rstrip(b'=').decode()}.c2ln"


class Issuer:
    """`now` is the time of all clocks; `status` of the token endpoint; `uses`: the refresh tokens that were
    sent."""

    def __init__(self) -> None:
        self.url = ""
        self.now = 0.0
        self.status = 200
        self.rotates = True
        self.uses: list[str] = []

    async def discovery(self, request: web.Request) -> web.Response:
        endpoints = {"token_endpoint": f"{self.url}/token", "revocation_endpoint": f"{self.url}/revoke"}
        return web.json_response({"issuer": self.url, **endpoints})

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        assert set(form) == {"client_id", "grant_type", "refresh_token"}
        if self.status != 200:
            return web.json_response({"error": "temporarily_unavailable"}, status=self.status)
        used = str(form["refresh_token"])
        if used in self.uses and self.rotates:
            return web.json_response({"error": "invalid_grant"}, status=400)
        self.uses.append(used)
        tokens: dict[str, Any] = {"id_token": id_token(len(self.uses), self.now + LIFETIME)}
        if self.rotates:
            tokens["refresh_token"] = f"refresh-{len(self.uses)}"
        return web.json_response(tokens)

    async def revoke(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.uses.append(f"revoked {form['token']}")
        return web.Response()

    def login(self, **changes: Any) -> StoredLogin:
        made = StoredLogin(
            server=SERVER,
            issuer=self.url,
            client_id="devroute",
            scopes=("openid",),
            token=id_token(0, LIFETIME),
            refresh_token="refresh-0",
            obtained=0.0,
            expires=LIFETIME,
        )
        return replace(made, **changes)


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    app = web.Application()
    app.router.add_get("/.well-known/openid-configuration", issuer.discovery)
    app.router.add_post("/token", issuer.token)
    app.router.add_post("/revoke", issuer.revoke)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield issuer
    await runner.cleanup()


class Laptop:
    def __init__(self, issuer: Issuer, folder: Path, **changes: Any) -> None:
        self.issuer = issuer
        self.file = stored_login.file_of(folder / "logins", SERVER)
        stored_login.save(self.file, issuer.login(**changes))
        self.settings = ClientSettings(server=SERVER, login=self.file)

    def process(self) -> LoginTokens:
        return LoginTokens(self.file, self.settings, lambda: self.issuer.now)

    @property
    def saved(self) -> StoredLogin:
        found = stored_login.load(self.file)
        assert found is not None
        return found


async def test_a_login_survives_on_disk_for_its_owner_only_and_hides_its_tokens(
    issuer: Issuer, tmp_path: Path
) -> None:
    laptop = Laptop(issuer, tmp_path)
    assert laptop.saved == issuer.login()
    assert stat.S_IMODE(laptop.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(laptop.file.parent.stat().st_mode) == 0o700
    assert "refresh-0" not in repr(laptop.saved)
    assert id_token(0, LIFETIME) not in repr(laptop.saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"server": "x"}', "[" * 5000])
async def test_a_file_that_cannot_be_read_is_no_login(text: str, issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path)
    laptop.file.write_text(text)
    assert stored_login.load(laptop.file) is None
    assert list(stored_login.all_logins(laptop.file.parent)) == []
    with pytest.raises(LoginRequired):
        await laptop.process().get()


async def test_a_token_is_renewed_when_a_fifth_of_its_time_is_left_and_not_before(
    issuer: Issuer, tmp_path: Path
) -> None:
    laptop = Laptop(issuer, tmp_path)
    tokens = laptop.process()
    assert await tokens.get() == (id_token(0, LIFETIME), True)
    issuer.now = 0.79 * LIFETIME
    assert await tokens.get() == (id_token(0, LIFETIME), False)
    assert issuer.uses == []
    issuer.now = 0.8 * LIFETIME
    assert await tokens.get() == (id_token(1, issuer.now + LIFETIME), True)
    assert (laptop.saved.refresh_token, laptop.saved.obtained) == ("refresh-1", issuer.now)


async def test_of_many_processes_one_renews_and_all_have_its_token(issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path)
    issuer.now = 0.9 * LIFETIME
    found = await asyncio.gather(*(laptop.process().get() for _ in range(8)))
    assert {token for token, _ in found} == {id_token(1, issuer.now + LIFETIME)}
    assert issuer.uses == ["refresh-0"]


async def test_a_refused_token_is_replaced_once_for_all_who_were_refused(
    issuer: Issuer, tmp_path: Path
) -> None:
    laptop = Laptop(issuer, tmp_path)
    sources = [TokenSource(laptop.settings, lambda: issuer.now) for _ in range(3)]
    assert {await each.get() for each in sources} == {id_token(0, LIFETIME)}
    for each in sources:
        each.forget()
        assert await each.get() == id_token(1, LIFETIME)
        assert (each.fresh, each.renewable) == (True, True)
    assert issuer.uses == ["refresh-0"]


async def test_a_refresh_token_that_is_not_replaced_stays(issuer: Issuer, tmp_path: Path) -> None:
    issuer.rotates = False
    laptop = Laptop(issuer, tmp_path)
    tokens = laptop.process()
    for _ in range(2):
        issuer.now += LIFETIME
        await tokens.get()
    assert issuer.uses == ["refresh-0", "refresh-0"]


async def test_while_the_issuer_is_down_a_token_is_used_until_it_expires(
    issuer: Issuer, tmp_path: Path
) -> None:
    laptop = Laptop(issuer, tmp_path)
    issuer.status, issuer.now = 503, 0.9 * LIFETIME
    tokens = laptop.process()
    assert (await tokens.get())[0] == id_token(0, LIFETIME)
    issuer.now = LIFETIME
    with pytest.raises(ServerUnreachable, match="503"):
        await tokens.get()
    issuer.status = 200
    assert (await tokens.get())[0] == id_token(1, issuer.now + LIFETIME)


async def test_a_login_without_a_refresh_token_ends_with_its_token(issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path, refresh_token=None)
    tokens = laptop.process()
    issuer.now = 0.9 * LIFETIME
    assert (await tokens.get())[0] == (await tokens.get(newer=True))[0] == id_token(0, LIFETIME)
    issuer.now = LIFETIME
    with pytest.raises(LoginRequired, match="no refresh token") as caught:
        await tokens.get()
    assert caught.value.hint == "log in again: devroute login"


async def test_a_login_that_the_issuer_has_ended_has_to_be_made_again(issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path)
    issuer.uses.append("refresh-0")
    issuer.now = LIFETIME
    with pytest.raises(LoginRequired, match="has ended"):
        await laptop.process().get()


async def test_several_requests_of_one_command_read_it_once(issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path)
    once = await with_fetched_token(laptop.settings)
    assert (once.token.get_secret_value(), once.login) == (laptop.saved.token, None)


async def test_a_token_that_one_link_has_renewed_is_new_enough_for_the_other(
    issuer: Issuer, tmp_path: Path
) -> None:
    source = TokenSource(Laptop(issuer, tmp_path).settings, lambda: issuer.now)
    first = await source.get()
    assert source.kept == first
    second = await source.newer(first)
    assert await source.newer(first) == second != first
    assert await source.newer(second) not in (first, second)
    assert issuer.uses == ["refresh-0", "refresh-1"]


async def test_logout_ends_the_login_at_the_issuer(issuer: Issuer, tmp_path: Path) -> None:
    laptop = Laptop(issuer, tmp_path)
    assert await stored_login.revoke(laptop.saved, laptop.settings)
    assert issuer.uses == ["revoked refresh-0"]
    stored_login.forget(laptop.file)
    assert stored_login.load(laptop.file) is None
    assert not await stored_login.revoke(issuer.login(issuer="http://127.0.0.1:1"), laptop.settings)
    assert not await stored_login.revoke(issuer.login(refresh_token=None), laptop.settings)


@pytest.mark.parametrize(
    ("kind", "response", "expected"),
    [
        ("id_token", {"id_token": id_token(1, 50), "expires_in": 7}, ("id", 50)),
        ("access_token", {"id_token": "a.b.c", "access_token": "opaque", "expires_in": 7}, ("opaque", 107)),
        ("access_token", {"access_token": "opaque"}, ("opaque", None)),
    ],
)
async def test_the_token_of_the_settings_is_kept_with_the_time_that_it_has(
    kind: str, response: dict[str, Any], expected: tuple[str, float | None]
) -> None:
    settings = LoginSettings(issuer="https://id.example", client_id="x", token=kind)
    login = granted(SERVER, settings, TokenResponse(**response), 100)
    assert (login.token.replace(id_token(1, 50), "id"), login.expires) == expected


@pytest.mark.parametrize("token", [None, "", "two words", "a\r\nb", "\N{LATIN SMALL LETTER E WITH ACUTE}"])
async def test_a_response_without_a_token_is_no_login(token: str | None) -> None:
    settings = LoginSettings(issuer="https://id.example", client_id="x")
    with pytest.raises(LoginFailed, match="sent no id_token"):
        granted(SERVER, settings, TokenResponse(id_token=token), 0)


async def test_a_folder_that_cannot_be_written_is_named(issuer: Issuer, tmp_path: Path) -> None:
    (tmp_path / "logins").write_text("a file")
    with pytest.raises(ConfigInvalid, match="logins"):
        stored_login.save(tmp_path / "logins" / "x.json", issuer.login())
