"""The laptop's token: the one that was given, or what `token_command` prints, kept while it is good.

Runs the command without a shell, and reads when a JWT expires without verifying it: that is for the server.
The token stays in memory and is never written down.
"""

import asyncio
import base64
import binascii
import contextlib
import json
import time
from collections.abc import Callable, Sequence
from typing import Final

from pydantic import SecretStr

from devroute.agent.settings import ClientSettings, ServerCredentials
from devroute.errors import ConfigInvalid, TokenCommandFailed
from devroute.platforms import runnable

#: Seconds for the command: some ask a server, and start slowly.
COMMAND_SECONDS: Final = 30.0
#: Seconds for it to be gone once it was killed.
KILL_SECONDS: Final = 1.0
#: Bytes that it may print; a token has 8 KiB at most.
MAX_OUTPUT: Final = 64 * 1024
#: Seconds after which a token that does not say when it expires is asked for again.
UNKNOWN_LIFETIME: Final = 600.0
#: A token is renewed when a fifth of its life is left, or so many seconds if that is less.
LATEST: Final = 300.0
#: And never again within so many seconds, as where the command gives the same token until it has expired.
LEAST_PAUSE: Final = 1.0
#: Characters of what a command complained that are repeated.
MAX_COMPLAINT: Final = 200


def renewal_delay(lifetime: float) -> float:
    """After how many seconds a token that is good for `lifetime` has to be renewed."""
    return max(LEAST_PAUSE, lifetime - min(LATEST, lifetime / 5))


class TokenSource:
    """`fresh`: the last `get` ran the command. `renewable`: there is one."""

    def __init__(self, settings: ServerCredentials, now: Callable[[], float] = time.time) -> None:
        self._given = settings.token.get_secret_value()
        self._command = settings.token_command
        self._now = now
        self._kept = ""
        self._good_until = 0.0
        self.fresh = False

    @property
    def renewable(self) -> bool:
        return bool(self._command)

    def forget(self) -> None:
        """The next `get` runs the command: the token is to be renewed, or was refused."""
        self._kept = ""

    async def get(self) -> str:
        """A token, "" where there is none. Raises ConfigInvalid and TokenCommandFailed."""
        if not self._command:
            return self._given
        self.fresh = not self._kept or self._now() >= self._good_until
        if self.fresh:
            token = await run_command(self._command)
            now = self._now()
            expires = expiry(token)
            self._kept = token
            self._good_until = now + renewal_delay(UNKNOWN_LIFETIME if expires is None else expires - now)
        return self._kept


async def with_fetched_token(settings: ClientSettings) -> ClientSettings:
    """The same settings with a token for several requests, so that the command runs once. Raises what `get`
    does."""
    if not settings.token_command:
        return settings
    token = await TokenSource(settings).get()
    return settings.model_copy(update={"token": SecretStr(token), "token_command": ()})


def expiry(token: str) -> float | None:
    """When a JWT says that it expires, in seconds since the epoch; nobody vouches for it. None for others."""
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
    """What the command prints, without white space around it. Raises ConfigInvalid where it cannot be run,
    TokenCommandFailed where it fails, takes too long or prints no token."""
    name = f"token_command '{command[0]}'"
    try:
        process = await asyncio.create_subprocess_exec(
            *runnable(command),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=MAX_OUTPUT,
        )
    except FileNotFoundError:
        raise ConfigInvalid(f"{name}: there is no such command") from None
    except OSError as error:
        raise ConfigInvalid(f"{name}: {error.strerror}") from None
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
                # What it had printed has to be read for its pipes to close.
                async with asyncio.timeout(KILL_SECONDS):
                    await asyncio.gather(_read(process.stdout), _read(process.stderr), process.wait())
    if code != 0:
        raise TokenCommandFailed(f"{name} failed with exit code {code}{_said(complaint)}")
    token = output.decode("utf-8", "replace").strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise TokenCommandFailed(f"{name} did not print a token, one word alone{_said(complaint)}")
    return token


async def _read(stream: asyncio.StreamReader | None) -> bytes:
    """All of it, of which MAX_OUTPUT bytes are kept."""
    kept = b""
    while stream is not None and (piece := await stream.read(MAX_OUTPUT)):
        kept += piece[: MAX_OUTPUT - len(kept)]
    return kept


def _said(complaint: bytes) -> str:
    """The last line of what it wrote to stderr."""
    lines = complaint.decode("utf-8", "replace").strip().splitlines()
    last = "".join(c if c.isprintable() else " " for c in lines[-1]) if lines else ""
    return f": {last[:MAX_COMPLAINT]}" if last else ""
