"""The device authorization grant (RFC 8628): a person enters a code in a browser, on any device, while this
process polls for the tokens. Owns the requests' fields, the polling interval, and what each error means.

Reads no clock and sends nothing itself: `post`, `sleep` and `now` are given.
"""

import base64
import hashlib
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from devroute.auth.tls import is_exposed, is_local
from devroute.errors import LoginFailed, LoginRequired, ServerUnreachable
from devroute.quoting import printable, quote

DEVICE_GRANT: Final = "urn:ietf:params:oauth:grant-type:device_code"
#: Seconds between two polls if the issuer names none (§3.2), and what `slow_down` adds to them (§3.5).
DEFAULT_INTERVAL: Final = 5.0
SLOW_DOWN: Final = 5.0
#: Limits of the interval, in seconds: an issuer may name 0, and failures double it (§3.5).
LEAST_INTERVAL: Final = 1.0
MOST_INTERVAL: Final = 60.0
#: A scope that asks for a refresh token (OpenID Connect Core 1.0 §11), which some issuers refuse and do not
#: need.
OFFLINE: Final = "offline_access"

#: Sends a form to a URL; returns the status and the JSON object of the response. Raises ServerUnreachable.
Post = Callable[[str, Mapping[str, str]], Awaitable[tuple[int, dict[str, Any]]]]
Sleep = Callable[[float], Awaitable[object]]
_Text = Annotated[str, Field(min_length=1, max_length=64 * 1024)]


class _Foreign(BaseModel):
    """A document of a server: fields that are not named here are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class LoginSettings(_Foreign):
    """What the proxy publishes at /api/login: its issuer, the client that laptops are there, and the token
    that it accepts."""

    issuer: _Text
    client_id: _Text
    client_secret: str | None = None
    scopes: tuple[str, ...] = ("openid",)
    token: Literal["id_token", "access_token"] = "id_token"

    def check(self) -> None:
        """Raises LoginFailed for an issuer that others could be."""
        _check_url(self.issuer, f"the issuer {quote(self.issuer)}")

    def check_named_by(self, server: str) -> None:
        """Raises LoginFailed for an issuer that `server` may not name."""
        _check_url(self.issuer, f"{server} names the issuer {quote(self.issuer)}", named_by=server)


class Provider(_Foreign):
    """The issuer's discovery document (OpenID Connect Discovery 1.0 §3, RFC 8628 §4)."""

    issuer: str
    token_endpoint: _Text
    device_authorization_endpoint: str | None = None
    revocation_endpoint: str | None = None
    scopes_supported: tuple[str, ...] | None = None
    code_challenge_methods_supported: tuple[str, ...] = ()

    def check(self, issuer: str) -> None:
        """Raises LoginFailed for the document of another issuer (§4.3), and for endpoints that others could
        read, or that are programs of this laptop: an issuer elsewhere has none there."""
        if self.issuer != issuer:
            raise LoginFailed(f"the discovery document of '{issuer}' is that of {quote(self.issuer)}")
        for url in (self.token_endpoint, self.device_authorization_endpoint, self.revocation_endpoint):
            if url is not None:
                _check_url(url, f"the issuer {quote(issuer)} names {quote(url)}", named_by=issuer)


class DeviceAuthorization(_Foreign):
    """The response of the device authorization endpoint (§3.2). Google spells `verification_url`."""

    device_code: _Text
    user_code: _Text
    verification_uri: Annotated[
        _Text, Field(validation_alias=AliasChoices("verification_uri", "verification_url"))
    ]
    verification_uri_complete: str | None = None
    expires_in: Annotated[float, Field(gt=0, le=86_400)]
    interval: Annotated[float, Field(ge=0, le=600)] = DEFAULT_INTERVAL


class TokenResponse(_Foreign):
    """RFC 6749 §5.1, OpenID Connect Core 1.0 §3.1.3.3."""

    id_token: str | None = Field(None, repr=False)
    access_token: str | None = Field(None, repr=False)
    refresh_token: str | None = Field(None, repr=False)
    expires_in: Annotated[float, Field(gt=0)] | None = None


def _check_url(url: str, what: str, named_by: str | None = None) -> None:
    """Raises LoginFailed for a URL that others could read, and for one of this laptop's that something
    elsewhere has named: it would have devroute send requests to the programs here."""
    try:
        exposed, local = is_exposed(url), is_local(url)
    except ValueError:
        raise LoginFailed(f"{what}, which is no URL") from None
    if not url.startswith(("https://", "http://")) or exposed:
        raise LoginFailed(f"{what}, which is not https")
    if local and named_by is not None and not is_local(named_by):
        raise LoginFailed(f"{what}, which is a program of this laptop")


_D = TypeVar("_D", bound=_Foreign)


def read(kind: type[_D], document: object, source: str) -> _D:
    """A document of a server's. Raises LoginFailed naming the field, and no content."""
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "it"
        raise LoginFailed(f"{source}: {field}: {first['msg'].lower()}") from None


@dataclass(frozen=True, slots=True)
class Started:
    """A device code that waits for its person. `verifier`: of PKCE, where the issuer demanded it."""

    authorization: DeviceAuthorization
    verifier: str | None


async def start(provider: Provider, settings: LoginSettings, post: Post) -> Started:
    """Ask for a code. Raises LoginFailed and ServerUnreachable.

    RFC 8628 has no PKCE, and issuers differ: Keycloak can demand it, others refuse fields that they do not
    know. So it is added where the first request is refused as invalid, by an issuer that lists S256 (RFC 7636
    §4.2).
    """
    url = provider.device_authorization_endpoint
    if url is None:
        raise LoginFailed(
            f"the issuer '{provider.issuer}' offers no device authorization (RFC 8628)",
            hint="get a token by its own program: --token-command (docs/sso.md)",
        )
    form = _client(settings) | {"scope": " ".join(scopes(provider, settings))}
    status, document = await post(url, form)
    verifier = None
    if document.get("error") == "invalid_request" and "S256" in provider.code_challenge_methods_supported:
        verifier = secrets.token_urlsafe(48)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        pkce = {"code_challenge": challenge, "code_challenge_method": "S256"}
        status, document = await post(url, form | pkce)
    if status != 200 or "error" in document:
        raise refusal(status, document, provider.issuer, settings)
    return Started(read(DeviceAuthorization, document, f"the response of {url}"), verifier)


def scopes(provider: Provider, settings: LoginSettings) -> list[str]:
    """The scopes to ask for, without the one for a refresh token where the issuer does not list it."""
    listed = provider.scopes_supported
    return [each for each in settings.scopes if each != OFFLINE or listed is None or OFFLINE in listed]


async def poll(
    provider: Provider,
    settings: LoginSettings,
    started: Started,
    post: Post,
    sleep: Sleep,
    now: Callable[[], float],
) -> TokenResponse:
    """The tokens, once the person has agreed (§3.4, §3.5). Raises LoginFailed."""
    authorization = started.authorization
    form = _client(settings) | {"grant_type": DEVICE_GRANT, "device_code": authorization.device_code}
    if started.verifier is not None:
        form["code_verifier"] = started.verifier
    interval = max(LEAST_INTERVAL, authorization.interval)
    end = now() + authorization.expires_in
    while True:
        await sleep(interval)
        if now() >= end:
            raise refusal(400, {"error": "expired_token"}, provider.issuer, settings)
        try:
            status, document = await post(provider.token_endpoint, form)
        except ServerUnreachable:  # a laptop may change its network while its person signs in
            interval = min(MOST_INTERVAL, 2 * interval)
            continue
        error = document.get("error")
        if status == 200 and error is None:
            return read(TokenResponse, document, f"the response of {provider.token_endpoint}")
        if error == "slow_down":
            interval = min(MOST_INTERVAL, interval + SLOW_DOWN)
        elif status >= 500 or error in ("server_error", "temporarily_unavailable"):
            interval = min(MOST_INTERVAL, 2 * interval)
        elif error != "authorization_pending":
            raise refusal(status, document, provider.issuer, settings)


async def refresh(provider: Provider, settings: LoginSettings, token: str, post: Post) -> TokenResponse:
    """Newer tokens by a refresh token (RFC 6749 §6). Raises LoginRequired where it is not accepted any more,
    LoginFailed and ServerUnreachable."""
    form = _client(settings) | {"grant_type": "refresh_token", "refresh_token": token}
    status, document = await post(provider.token_endpoint, form)
    if status == 200 and "error" not in document:
        return read(TokenResponse, document, f"the response of {provider.token_endpoint}")
    if status >= 500:
        raise ServerUnreachable(f"the issuer '{provider.issuer}' responds with status {status}")
    if document.get("error") == "invalid_grant":
        raise LoginRequired(f"your login at '{provider.issuer}' has ended{_description(document)}")
    raise refusal(status, document, provider.issuer, settings)


async def revoke_token(provider: Provider, settings: LoginSettings, token: str, post: Post) -> bool:
    """End a refresh token (RFC 7009), if the issuer can; whether it could. Raises what `post` does."""
    if provider.revocation_endpoint is None:
        return False
    form = _client(settings) | {"token": token, "token_type_hint": "refresh_token"}
    status, _ = await post(provider.revocation_endpoint, form)
    return status == 200


def _client(settings: LoginSettings) -> dict[str, str]:
    """Who asks (RFC 6749 §2.3.1): a public client has no secret."""
    secret = {} if settings.client_secret is None else {"client_secret": settings.client_secret}
    return {"client_id": settings.client_id, **secret}


_AGAIN: Final = "run it again: devroute login"
_TEAM: Final = "for the platform team: "
#: What each error of an issuer means, and what to do (RFC 8628 §3.5, RFC 6749 §5.2); {client} is the client's
#: id.
_MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    "access_denied": ("the login was refused, by you or by a rule of the issuer", _AGAIN),
    "expired_token": ("the code expired before it was entered", _AGAIN),
    "invalid_grant": ("the issuer does not know the code any more", _AGAIN),
    "invalid_client": (
        "the issuer does not accept the client {client}",
        _TEAM + "oidc_client_id names no public client, or oidc_client_secret is missing or wrong",
    ),
    "unauthorized_client": (
        "the client {client} may not use the device authorization grant",
        _TEAM + "it has to be enabled for this client at the issuer",
    ),
    "unsupported_grant_type": (
        "the issuer does not know the device authorization grant",
        _TEAM + "it has to be enabled at the issuer; else --token-command (docs/sso.md)",
    ),
    "invalid_scope": (
        "the issuer refuses the scopes",
        _TEAM + "oidc_scopes names one that the client {client} may not have",
    ),
    "invalid_request": ("the issuer refuses the request", _TEAM + "what the issuer says above"),
}
#: The same with the names that Entra has for two of them.
MEANINGS: Final[Mapping[str, tuple[str, str]]] = {
    **_MEANINGS,
    "authorization_declined": _MEANINGS["access_denied"],
    "bad_verification_code": _MEANINGS["invalid_grant"],
}


def refusal(status: int, document: Mapping[str, object], issuer: str, settings: LoginSettings) -> LoginFailed:
    """What an error response of the issuer's means."""
    code = document.get("error")
    where = f" (the issuer is '{issuer}')"
    if not isinstance(code, str) or code not in MEANINGS:
        named = f"the error {quote(code)}" if isinstance(code, str) else f"status {status}"
        return LoginFailed(f"the issuer responds with {named}{_description(document)}{where}", hint=_AGAIN)
    problem, hint = MEANINGS[code]
    client = quote(settings.client_id)
    return LoginFailed(
        f"{problem.format(client=client)}{_description(document)}{where}", hint=hint.format(client=client)
    )


def _description(document: Mapping[str, object]) -> str:
    """The issuer's own explanation, untrusted text."""
    text = document.get("error_description")
    return f": {printable(text)}" if isinstance(text, str) and text.strip() else ""
