"""The laptop's token: the configured one, the output of `token_command`, or that of `devroute login`, cached
until it is about to expire.

Runs the command without a shell. Reads the expiry of a JWT without verifying it, which the server does. The
command's token stays in memory and is never written to a file.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

from pydantic import SecretStr

from devroute.agent.settings import ClientSettings
from devroute.errors import TokenCommandFailed

if TYPE_CHECKING:
    from devroute.agent.login.stored_login import LoginTokens

_S = TypeVar("_S", bound=ClientSettings)

#: Seconds for the command, which may query a server.
COMMAND_SECONDS: Final = 30.0
#: Seconds until it has ended once it was killed.
KILL_SECONDS: Final = 1.0
#: Bytes of its output that are read; a token has at most 8 KiB.
MAX_OUTPUT: Final = 64 * 1024
#: Seconds for which a token of unknown expiry is cached.
UNKNOWN_LIFETIME: Final = 600.0
#: A token is renewed when a fifth of its lifetime is left, or so many seconds if that is less.
LATEST: Final = 300.0
#: Least time between two renewals, in seconds: a command may print the same token until it has expired.
LEAST_PAUSE: Final = 1.0
#: Characters of a command's own error message that are shown.
MAX_COMPLAINT: Final = 200


def renewal_delay(lifetime: float) -> float:
    """Seconds after which a token that expires in `lifetime` seconds is renewed."""
    return max(LEAST_PAUSE, lifetime - min(LATEST, lifetime / 5))


class TokenSource:
    """`fresh`: the last `get` ran the command, or took a newer token of the login. `renewable`: there is one
    of the two."""

    def __init__(self, settings: ClientSettings, now: Callable[[], float] = time.time) -> None:
        self._given = settings.token.get_secret_value()
        self._command = settings.token_command
        self._now = now
        self._kept = ""
        self._good_until = 0.0
        self._lock = asyncio.Lock()
        self.fresh = False
        self._login: LoginTokens | None = None
        self._forgotten = False
        if settings.login is not None:
            from devroute.agent.login import stored_login  # most users have a token

            self._login = stored_login.LoginTokens(settings.login, settings, now)

    @property
    def renewable(self) -> bool:
        return bool(self._command) or self._login is not None

    def forget(self) -> None:
        """Make the next `get` fetch another token: this one is to be renewed, or was refused."""
        self._kept = ""
        self._forgotten = True

    @property
    def kept(self) -> str:
        """The last token of the command or the login, "" if that is to be renewed."""
        return self._kept

    async def newer(self, than: str) -> str:
        """As `get`, but not `than`: the token that another link has fetched since, or another one of the
        command or the login."""
        if self._kept == than:
            self.forget()
        return await self.get()

    async def get(self) -> str:
        """A token, "" if none is configured. Raises ConfigInvalid, TokenCommandFailed, and what
        LoginTokens.get does."""
        if self._login is not None:
            self._kept, self.fresh = await self._login.get(newer=self._forgotten)
            self._forgotten = False
            return self._kept
        if not self._command:
            return self._given
        async with self._lock:
            self.fresh = not self._kept or self._now() >= self._good_until
            if self.fresh:
                token = await run_command(self._command)
                now = self._now()
                expires = expiry(token)
                self._kept = token
                self._good_until = now + renewal_delay(UNKNOWN_LIFETIME if expires is None else expires - now)
            return self._kept


async def with_fetched_token(settings: _S) -> _S:
    """The settings with the token in place of the command or login that it is of, for several requests.
    Raises what `get` does."""
    source = TokenSource(settings)
    if not source.renewable:
        return settings
    return with_token(settings, await source.get())


def with_token(settings: _S, token: str) -> _S:
    """The settings with this token in place of any other, and of what would fetch one."""
    return settings.model_copy(update={"token": SecretStr(token), "token_command": (), "login": None})


def expiry(token: str) -> float | None:
    """The expiry of a JWT in seconds since the epoch, not verified; None for other tokens."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (ValueError, binascii.Error, RecursionError):
        return None
    expires = claims.get("exp") if isinstance(claims, dict) else None
    if isinstance(expires, bool) or not isinstance(expires, int | float) or not 0 <= expires < 1e12:
        return None
    return float(expires)


async def run_command(command: Sequence[str], seconds: float = COMMAND_SECONDS) -> str:
    """The command's output without surrounding white space. Raises ConfigInvalid if it cannot be run,
    TokenCommandFailed if it fails, takes too long or prints no token."""
    from devroute.agent.child_process import start_process  # takes a while, and most have a token

    name = f"token_command '{command[0]}'"
    process = await start_process(
        name,
        command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=MAX_OUTPUT,
    )
    try:
        async with asyncio.timeout(seconds):
            output, complaint = await asyncio.gather(
                *(_read(each) for each in (process.stdout, process.stderr))
            )
            code = await process.wait()
    except TimeoutError:
        raise TokenCommandFailed(f"{name} printed no token within {seconds:g} s") from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError, TimeoutError):
                process.kill()
                # Its pipes close only once their content has been read.
                async with asyncio.timeout(KILL_SECONDS):
                    await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
    if code != 0:
        raise TokenCommandFailed(f"{name} failed with exit code {code}{_last_line(complaint)}")
    token = output.decode("utf-8", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenCommandFailed(
            f"{name} did not print a token, which is a single word{_last_line(complaint)}"
        )
    return token


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """Read to the end; returns the first MAX_OUTPUT bytes."""
    kept = b""
    while stream is not None and (piece := await stream.read(MAX_OUTPUT)):
        kept += piece[: MAX_OUTPUT - len(kept)]
    return kept


def _last_line(complaint: bytes) -> str:
    """The last line that it wrote to stderr, after a colon."""
    lines = complaint.decode("utf-8", "replace").strip().splitlines()
    last = "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else ""
    return f": {last[:MAX_COMPLAINT]}" if last else ""
