"""Who may use the page and the API of administrators: by a token, or by the session that a browser got for a
link that was made with one.

A browser sends a session's cookie by itself, so each request with one is checked for its Host (a site whose
name leads here), and for who sent it (Origin and Fetch Metadata; SameSite=Strict does not keep other ports of
the same host out). Requests that change something need an Origin.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Protocol

from aiohttp import web

from devroute.auth.identity import Authenticate, Identity
from devroute.auth.sessions import (
    CODE_SECONDS,
    SESSION_SECONDS,
    Session,
    SessionTable,
    digest,
    is_origin,
    new_code,
    new_cookie,
)
from devroute.errors import (
    DevrouteError,
    LoginLinkInvalid,
    OriginDenied,
    RequestMalformed,
    SessionEnded,
)
from devroute.pages.origin import is_own_origin
from devroute.proxy.control.http import peer_certificate
from devroute.proxy.telemetry.audit_events import RecordEvent, refusal_fields

#: The cookie's name: with the prefix, browsers accept it over https only, and from no other host (RFC 6265bis
#: §4.1.3). A port follows, since browsers send the cookies of a host to all its ports.
COOKIE: Final = "devroute-dashboard"
SECURE_PREFIX: Final = "__Host-"
#: The form of a code and of a cookie.
SECRET: Final = re.compile(r"[A-Za-z0-9_-]{16,64}")


class SharedSessions(Protocol):
    """The sessions and codes of all replicas (shared.py), by digest."""

    codes: SessionTable
    sessions: SessionTable

    async def take_code(self, key: str) -> Session | None:
        """That another replica has made, once."""

    async def find_session(self, key: str) -> Session | None:
        """That another replica knows."""

    def publish(self, key: str, session: Session) -> None:
        """A session has begun here."""

    def end(self, key: str) -> None:
        """A session has ended by its user, here."""


class Access:
    """`check_current(identity, now)` raises the reason why an identity is not valid any more."""

    def __init__(
        self,
        authenticate: Authenticate,
        check_current: Callable[[Identity, float], object],
        shared: SharedSessions,
        record: RecordEvent,
    ) -> None:
        self._authenticate = authenticate
        self._check_current = check_current
        self._shared = shared
        self._record = record

    # --- opening a session

    async def new_code(self, request: web.Request, origin: object) -> str:
        """A code for the identity of a request with a token, for the page at `origin`. Raises
        RequestMalformed, and what `identify` raises."""
        with self._recording_refusals(request):
            identity = await self._by_token(request)
        if not is_origin(origin) or not isinstance(origin, str):
            raise RequestMalformed("origin is to be the server's URL as the browser has it, without a path")
        host = request.headers.get("host", "")
        if not is_origin(f"http://{host}"):
            raise RequestMalformed("the Host of this request is none that a browser would send")
        now = time.time()
        code = new_code()
        session = Session(identity, origin, host, now + CODE_SECONDS)
        self._shared.codes.put(digest(code), session, now)
        return code

    async def redeem(self, request: web.Request, code: str, origin: str | None) -> tuple[str, Session]:
        """A cookie's value and its session, for a code, which is then no longer valid. `origin`: of the
        request, None where it has none. Raises LoginLinkInvalid, OriginDenied, or the reason why the identity
        is not valid any more."""
        with self._recording_refusals(request):
            session = await self._session_for(code, request.headers.get("host", ""), origin)
        cookie = new_cookie()
        self._shared.sessions.put(digest(cookie), session, time.time())
        self._shared.publish(digest(cookie), session)
        return cookie, session

    async def _session_for(self, code: str, host: str, origin: str | None) -> Session:
        shared, now = self._shared, time.time()
        if SECRET.fullmatch(code) is None:
            raise LoginLinkInvalid("this link has no valid code")
        found = shared.codes.take(digest(code), now) or await shared.take_code(digest(code))
        if found is None:
            raise LoginLinkInvalid("this link was used before, or is older than a minute")
        if host != found.host or origin not in (None, found.origin):
            raise OriginDenied("this link was made for another URL of the server")
        self._check_current(found.identity, now)
        expires = min(now + SESSION_SECONDS, found.identity.expires or float("inf"))
        return Session(found.identity, found.origin, found.host, expires)

    # --- each request

    async def identify(self, request: web.Request, *, changes: bool = False) -> Identity:
        """Whose request it is. `changes`: it may change something. Raises SessionEnded and OriginDenied for
        a request with a session, and what `authenticate` raises for one with a token."""
        cookie = cookie_of(request)
        with self._recording_refusals(request):
            if request.headers.get("authorization") or (cookie is None and peer_certificate(request)):
                return await self._by_token(request)
            if cookie is None:
                raise SessionEnded("this browser has not opened the page's link, or its session has ended")
            return (await self._by_session(request, *cookie, changes=changes)).identity

    @contextmanager
    def _recording_refusals(self, request: web.Request) -> Iterator[None]:
        """Into the audit trail."""
        try:
            yield
        except DevrouteError as error:
            self._record("refusal", at="api", **refusal_fields(error, peer=request.remote))
            raise

    async def _by_token(self, request: web.Request) -> Identity:
        """By a token; or by a client certificate, which a browser sends by itself, so not for another
        site."""
        authorization = request.headers.get("authorization", "")
        site = request.headers.get("sec-fetch-site", "none")
        if site not in ("none", "same-origin") or (not authorization and "origin" in request.headers):
            raise OriginDenied("other sites may not use this server's API")
        return await self._authenticate(authorization, peer_certificate(request))

    async def _by_session(self, request: web.Request, name: str, cookie: str, *, changes: bool) -> Session:
        shared, key, now = self._shared, digest(cookie), time.time()
        session = shared.sessions.get(key, now)
        if session is None and (session := await shared.find_session(key)) is not None:
            shared.sessions.put(key, session, now)
        if session is None or session.expires <= now or session.secure != name.startswith(SECURE_PREFIX):
            raise SessionEnded("the session of this browser has ended")
        if request.headers.get("host") != session.host:
            raise OriginDenied("the Host of this request is not the one for which the session was opened")
        if not is_own_origin(request.headers, session.origin, changes=changes):
            raise OriginDenied("other sites may not use the page")
        self.check_current(session.identity)
        return session

    def check_current(self, identity: Identity) -> None:
        """Raises SessionEnded once a session's token has expired or was revoked, or its subject blocked."""
        try:
            self._check_current(identity, time.time())
        except DevrouteError as error:
            raise SessionEnded(error.message, hint=error.hint) from None

    async def end(self, request: web.Request) -> None:
        """End the session of a request, on all replicas."""
        cookie = cookie_of(request)
        if cookie is not None:
            with self._recording_refusals(request):
                await self._by_session(request, *cookie, changes=True)
            self._shared.sessions.take(digest(cookie[1]), time.time())
            self._shared.end(digest(cookie[1]))


def cookie_name(host: str, *, secure: bool) -> str:
    """The name of the cookie for a page at this Host."""
    port = host.rpartition(":")[2] if re.search(r":[0-9]{1,5}\Z", host) else ""
    return f"{SECURE_PREFIX if secure else ''}{COOKIE}{port and f'-{port}'}"


def cookie_of(request: web.Request) -> tuple[str, str] | None:
    """Name and value of a request's cookie, None if it has none."""
    for secure in (True, False):
        name = cookie_name(request.headers.get("host", ""), secure=secure)
        value = request.cookies.get(name, "")
        if SECRET.fullmatch(value):
            return name, value
    return None
