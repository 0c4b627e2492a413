"""Sessions of the team's page, and the codes that open one, kept as hashes only. Pure.

A code is made with the subject's own token, opens one session, once, within a minute. A session is what a
browser has instead of the token: it ends with the token, and is bound to the URL at which the code was asked
for.
"""

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import Field, TypeAdapter, ValidationError

from devroute.auth.identity import Identity

#: Random bytes of a code and of a cookie: neither can be guessed, so that a plain hash is safe to keep.
CODE_BYTES: Final = 16
COOKIE_BYTES: Final = 32
#: Seconds in which a code has to be used: a browser opens it at once.
CODE_SECONDS: Final = 60.0
#: Seconds that a session lasts at most: a working day.
SESSION_SECONDS: Final = 8 * 3600.0
#: Of one subject, and in all: beyond it the oldest ends. A person has a few browsers.
MAX_OF_SUBJECT: Final = 8
MAX_KEPT: Final = 8192
#: Characters of an encoded session: an identity may have many groups.
MAX_ENCODED: Final = 64 * 1024
#: Characters of an origin.
MAX_ORIGIN: Final = 300

_Text = Annotated[str, Field(max_length=MAX_ORIGIN)]


@dataclass(frozen=True, slots=True)
class Session:
    """Who uses the page, `expires` when (seconds since the epoch). `origin`: the page's, as the browser knows
    it. `host`: the Host of requests to it."""

    identity: Identity
    origin: _Text
    host: _Text
    expires: float

    @property
    def secure(self) -> bool:
        """Whether its cookie is for https alone."""
        return self.origin.startswith("https://")

    def encode(self) -> bytes:
        """For other replicas."""
        return _SESSION.dump_json(self)


_SESSION: Final = TypeAdapter(Session)


def decode_session(raw: bytes) -> Session | None:
    """None for what no replica would send."""
    if len(raw) > MAX_ENCODED:
        return None
    try:
        return _SESSION.validate_json(raw)
    except ValidationError:
        return None


def is_origin(text: object) -> bool:
    """Whether this is an origin as browsers write it, `https://devroute.example`."""
    if not isinstance(text, str) or len(text) > MAX_ORIGIN or not text.isascii() or not text.isprintable():
        return False
    try:
        url = urlsplit(text)
        return (
            url.scheme in ("http", "https")
            and bool(url.hostname)
            and text == f"{url.scheme}://{url.netloc}"
            and url.port != 0
            and not set("@\\ ") & set(url.netloc)
        )
    except ValueError:
        return False


def new_code() -> str:
    return secrets.token_urlsafe(CODE_BYTES)


def new_cookie() -> str:
    return secrets.token_urlsafe(COOKIE_BYTES)


def digest(secret: str) -> str:
    """What is kept of a code or cookie."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


class SessionTable:
    """Sessions by the digest of their secret. `now`: seconds since the epoch."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Session]] = {}  # by the start of the digest, the oldest first

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, key: str, session: Session, now: float) -> None:
        self._drop_expired(now)
        own = [each for each, (_, kept) in self._kept.items() if _subject(kept) == _subject(session)]
        if len(own) >= MAX_OF_SUBJECT:
            del self._kept[own[0]]
        elif len(self._kept) >= MAX_KEPT:
            del self._kept[next(iter(self._kept))]
        self._kept[_start(key)] = key, session

    def get(self, key: str, now: float) -> Session | None:
        """A dictionary finds an entry by a part of the digest; the rest is compared in constant time."""
        found = self._kept.get(_start(key))
        if found is None or not hmac.compare_digest(found[0].encode(), key.encode()):
            return None
        return found[1] if found[1].expires > now else None

    def take(self, key: str, now: float) -> Session | None:
        """The same, once."""
        session = self.get(key, now)
        if session is not None:
            del self._kept[_start(key)]
        return session

    def _drop_expired(self, now: float) -> None:
        for key in [each for each, (_, session) in self._kept.items() if session.expires <= now]:
            del self._kept[key]


def _start(key: str) -> str:
    return key[:16]


def _subject(session: Session) -> str:
    return session.identity.subject
