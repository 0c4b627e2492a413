"""The device authorization grant against a strict double of an issuer, which refuses what RFC 8628 does not
permit. tests/sso runs all of it against a real one."""

import base64
import hashlib
from collections.abc import Mapping
from typing import Any

import pytest

from devroute.agent.login.device_flow import (
    DEVICE_GRANT,
    MEANINGS,
    MOST_INTERVAL,
    DeviceAuthorization,
    LoginSettings,
    Provider,
    TokenResponse,
    poll,
    read,
    refresh,
    start,
)
from devroute.errors import DevrouteError, LoginFailed, LoginRequired, ServerUnreachable

pytestmark = pytest.mark.asyncio

ISSUER = "https://id.example"
SETTINGS = LoginSettings(issuer=ISSUER, client_id="devroute", scopes=("openid", "email", "offline_access"))
PROVIDER = Provider(
    issuer=ISSUER,
    token_endpoint=f"{ISSUER}/token",
    device_authorization_endpoint=f"{ISSUER}/device",
)
TOKENS = {"id_token": "a.b.c", "access_token": "x", "refresh_token": "r", "expires_in": 300}
Answer = tuple[int, dict[str, Any]] | DevrouteError


def error(code: str, status: int = 400, **more: str) -> tuple[int, dict[str, Any]]:
    return status, {"error": code, **more}


class StrictIssuer:
    """Its clock goes on only while the client sleeps. `polls`: its responses, one after another."""

    def __init__(self, *polls: Answer, interval: float | None = None, expires_in: float = 600) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.polls = list(polls)
        self.granted: dict[str, Any] = {
            "device_code": "dev",
            "user_code": "WDJB-MJHT",
            "verification_uri": f"{ISSUER}/activate",
            "expires_in": expires_in,
            **({} if interval is None else {"interval": interval}),
        }
        self.first: list[Answer] = []
        self.challenge: str | None = None
        self.secret: str | None = None
        self.forms: list[dict[str, str]] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def post(self, url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        self.forms.append(dict(form))
        if form.get("client_id") != "devroute" or form.get("client_secret") != self.secret:
            return error("invalid_client", 401)
        answer = self._device(form) if url == PROVIDER.device_authorization_endpoint else self._token(form)
        if isinstance(answer, DevrouteError):
            raise answer
        return answer

    def _device(self, form: Mapping[str, str]) -> Answer:
        assert set(form) <= {"client_id", "client_secret", "scope", "code_challenge", "code_challenge_method"}
        self.challenge = form.get("code_challenge")
        return self.first.pop(0) if self.first else (200, self.granted)

    def _token(self, form: Mapping[str, str]) -> Answer:
        pkce = {"code_verifier"} if self.challenge else set()
        assert set(form) - {"client_secret"} == {"client_id", "grant_type", "device_code", *pkce}
        assert (form["grant_type"], form["device_code"]) == (DEVICE_GRANT, "dev")
        if self.challenge:
            digest = hashlib.sha256(form["code_verifier"].encode()).digest()
            assert base64.urlsafe_b64encode(digest).decode().rstrip("=") == self.challenge
        return self.polls.pop(0)

    async def log_in(
        self, provider: Provider = PROVIDER, settings: LoginSettings = SETTINGS
    ) -> TokenResponse:
        started = await start(provider, settings, self.post)
        return await poll(provider, settings, started, self.post, self.sleep, lambda: self.now)


PENDING = error("authorization_pending")


# --- polling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("polls", "interval", "slept"),
    [
        ([], None, [5]),  # §3.2: without an interval, 5 s
        ([PENDING, PENDING], 2, [2, 2, 2]),
        ([error("slow_down")], 5, [5, 10]),  # §3.5: 5 s more, for this and all later requests
        ([error("slow_down"), PENDING, error("slow_down")], 5, [5, 10, 10, 15]),
        ([error("authorization_pending", 428), error("slow_down", 403)], 5, [5, 5, 10]),  # Google's statuses
        ([ServerUnreachable("no response"), PENDING], 5, [5, 10, 10]),  # §3.5: a timeout doubles it
        ([(503, {}), (502, {}), error("temporarily_unavailable", 503)], 5, [5, 10, 20, 40]),
        ([(503, {})] * 5, 5, [5, 10, 20, 40, MOST_INTERVAL, MOST_INTERVAL]),
        ([], 0, [1]),
    ],
)
async def test_it_polls_as_often_as_the_issuer_wants(
    polls: list[Answer], interval: float | None, slept: list[float]
) -> None:
    issuer = StrictIssuer(*polls, (200, TOKENS), interval=interval)
    assert (await issuer.log_in()).id_token == "a.b.c"
    assert issuer.slept == slept


async def test_it_ends_when_the_code_has_expired_without_another_request() -> None:
    issuer = StrictIssuer(*[PENDING] * 99, expires_in=17)
    with pytest.raises(LoginFailed, match="the code expired before it was entered"):
        await issuer.log_in()
    assert issuer.now == 20
    assert len(issuer.forms) == 1 + 3


# --- errors -------------------------------------------------------------------------------------------------

#: Every error of RFC 8628 §3.5 and RFC 6749 §5.2 that ends a login, and a part of message and hint.
ENDS = {
    "access_denied": ("refused, by you or by a rule", "devroute login"),
    "expired_token": ("expired before it was entered", "devroute login"),
    "invalid_grant": ("does not know the code any more", "devroute login"),
    "invalid_client": ("does not accept the client 'devroute'", "oidc_client_id names no public client"),
    "unauthorized_client": ("may not use the device authorization grant", "enabled for this client"),
    "unsupported_grant_type": ("does not know the device authorization grant", "--token-command"),
    "invalid_scope": ("refuses the scopes", "oidc_scopes"),
    "invalid_request": ("refuses the request", "the issuer says"),
    # Entra's.
    "authorization_declined": ("refused, by you or by a rule", "devroute login"),
    "bad_verification_code": ("does not know the code any more", "devroute login"),
}


async def test_the_table_has_every_error() -> None:
    assert ENDS.keys() == MEANINGS.keys()


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize("code", ENDS)
async def test_an_error_ends_the_login_with_its_meaning_and_a_remedy(code: str, status: int) -> None:
    issuer = StrictIssuer(PENDING, error(code, status, error_description="AADSTS1: so it is"))
    with pytest.raises(LoginFailed) as caught:
        await issuer.log_in()
    message, hint = ENDS[code]
    assert message in caught.value.message
    assert "AADSTS1: so it is" in caught.value.message
    assert ISSUER in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "code", ["unauthorized_client", "invalid_scope", "invalid_client", "invalid_request"]
)
async def test_an_error_at_the_start_has_the_same_meaning(code: str) -> None:
    issuer = StrictIssuer()
    issuer.first = [error(code)]
    with pytest.raises(LoginFailed, match=ENDS[code][0]):
        await issuer.log_in()
    assert not issuer.slept


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error("consent_required"), "the error 'consent_required'"),
        (error("bad\x1b[31m", error_description="a\x1b[2Jb\nc"), r"the error 'bad\\x1b\[31m': a\?\[2Jb c"),
        ((404, {}), "status 404"),
        ((200, {"error": 7}), "status 200"),
        ((400, {"error": ["x"]}), "status 400"),
    ],
)
async def test_what_no_rfc_has_ends_it_too_and_stays_one_line_of_text(answer: Answer, message: str) -> None:
    with pytest.raises(LoginFailed, match=message) as caught:
        await StrictIssuer(answer).log_in()
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"device_code": ""},
        {"user_code": 7},
        {"verification_uri": None},
        {"expires_in": 0},
        {"expires_in": "soon"},
        {"expires_in": 1e12},
        {"interval": -1},
        {"interval": float("nan")},
    ],
    ids=str,
)
async def test_a_response_that_is_none_is_an_error_that_names_the_field(change: dict[str, Any]) -> None:
    issuer = StrictIssuer((200, TOKENS))
    issuer.granted |= change
    with pytest.raises(LoginFailed, match=next(iter(change))):
        await issuer.log_in()


# --- what issuers differ in ---------------------------------------------------------------------------------


async def test_google_spells_the_page_s_address_otherwise() -> None:
    document = {"device_code": "d", "user_code": "u", "verification_url": "https://g", "expires_in": 1800}
    assert read(DeviceAuthorization, document, "google").verification_uri == "https://g"


async def test_a_client_with_a_secret_sends_it_with_every_request() -> None:
    issuer = StrictIssuer((200, TOKENS))
    issuer.secret = "not-a-secret"
    await issuer.log_in(settings=SETTINGS.model_copy(update={"client_secret": "not-a-secret"}))


@pytest.mark.parametrize(
    ("listed", "sent"),
    [
        (None, "openid email offline_access"),
        (("openid", "offline_access"), "openid email offline_access"),
        (("openid", "email", "profile"), "openid email"),
    ],
)
async def test_a_refresh_token_is_asked_for_where_the_issuer_knows_the_scope(
    listed: tuple[str, ...] | None, sent: str
) -> None:
    issuer = StrictIssuer((200, TOKENS))
    await issuer.log_in(PROVIDER.model_copy(update={"scopes_supported": listed}))
    assert issuer.forms[0]["scope"] == sent


async def test_pkce_is_added_where_the_issuer_demands_it_and_nowhere_else() -> None:
    listing = PROVIDER.model_copy(update={"code_challenge_methods_supported": ("plain", "S256")})
    issuer = StrictIssuer((200, TOKENS))
    await issuer.log_in(listing)
    assert issuer.challenge is None
    issuer = StrictIssuer(PENDING, (200, TOKENS))
    issuer.first = [error("invalid_request", error_description="Missing parameter: code_challenge_method")]
    await issuer.log_in(listing)
    assert issuer.forms[1]["code_challenge_method"] == "S256"
    assert 43 <= len(issuer.forms[2]["code_verifier"]) <= 128  # RFC 7636 §4.1
    issuer.first = [error("invalid_request")]
    with pytest.raises(LoginFailed):
        await issuer.log_in()


async def test_an_issuer_without_the_grant_is_named() -> None:
    provider = PROVIDER.model_copy(update={"device_authorization_endpoint": None})
    with pytest.raises(LoginFailed, match="offers no device authorization") as caught:
        await StrictIssuer().log_in(provider)
    assert "--token-command" in caught.value.hint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"issuer": f"{ISSUER}/"}, "is that of"),
        ({"token_endpoint": "http://id.example/token"}, "not https"),
        ({"device_authorization_endpoint": "ftp://id.example/"}, "not https"),
        ({"revocation_endpoint": "javascript:1"}, "not https"),
        ({"token_endpoint": "http://127.0.0.1:2375/containers/create"}, "program of this laptop"),
        ({"device_authorization_endpoint": "https://localhost:8443/"}, "program of this laptop"),
        ({"revocation_endpoint": "http://[::1]:4040/"}, "program of this laptop"),
        ({"token_endpoint": "https://[x/"}, "no URL"),
    ],
)
async def test_a_discovery_document_of_another_or_with_open_endpoints_is_refused(
    change: dict[str, str], message: str
) -> None:
    with pytest.raises(LoginFailed, match=message):
        PROVIDER.model_copy(update=change).check(ISSUER)
    PROVIDER.check(ISSUER)


@pytest.mark.parametrize(
    ("server", "issuer", "message"),
    [
        ("https://devroute.example", "https://id.example", None),
        ("http://127.0.0.1:8081", "http://127.0.0.1:5556/dex", None),
        ("https://devroute.example", "http://127.0.0.1:5556/x?", "program of this laptop"),
        ("http://devroute.devroute-system:8081", "http://localhost:5556", "program of this laptop"),
        ("https://devroute.example", "http://id.example", "not https"),
        ("https://devroute.example", "https://[x", "no URL"),
        ("https://devroute.example", "file:///\x1b[31m", r"'file:///\\x1b\[31m', which is not https"),
    ],
)
async def test_a_server_names_no_issuer_that_is_a_program_of_the_laptop(
    server: str, issuer: str, message: str | None
) -> None:
    settings = SETTINGS.model_copy(update={"issuer": issuer})
    if message is None:
        settings.check_named_by(server)
        return
    with pytest.raises(LoginFailed, match=message):
        settings.check_named_by(server)


# --- renewal ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error("invalid_grant"), LoginRequired),
        (error("invalid_client", 401), LoginFailed),
        ((503, {}), ServerUnreachable),
        (ServerUnreachable("down"), ServerUnreachable),
    ],
)
async def test_a_renewal_that_fails_says_whether_another_login_helps(
    answer: Answer, kind: type[DevrouteError]
) -> None:
    async def post(url: str, form: Mapping[str, str]) -> tuple[int, dict[str, Any]]:
        assert url == PROVIDER.token_endpoint
        assert form == {"client_id": "devroute", "grant_type": "refresh_token", "refresh_token": "r"}
        if isinstance(answer, DevrouteError):
            raise answer
        return answer

    with pytest.raises(kind):
        await refresh(PROVIDER, SETTINGS, "r", post)
