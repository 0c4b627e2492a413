"""Whose signatures count: the keys for contracts, of a file that is watched or of a URL that is asked now and
then. Owns what has to be kept up to date for that; the keys themselves are contract/keys.py's.
"""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, Final

from devroute.auth.jwks import RemoteKeys
from devroute.contract.keys import Keys
from devroute.proxy.watched_file import WatchedFile

#: Seconds between two looks at a URL, where no contract names a key that is not there: a key that was taken
#: away counts for so long.
REFRESH_SECONDS: Final = 30.0
#: Seconds for which its keys are good while it cannot be reached: the life of the contracts, at most a day's.
MAX_AGE_SECONDS: Final = 8 * 3600.0


class SigningKeySource:
    """`start` begins to ask the URL, `stop` ends it; `files` are to be looked at now and then."""

    def __init__(self, place: str | None) -> None:
        """`place` is a file or a URL; without one nobody may sign. Raises ConfigInvalid."""
        self._file: WatchedFile[Keys] | None = None
        self._remote: RemoteKeys[Keys] | None = None
        self._fetching: asyncio.Task[None] | None = None
        if place is not None and "://" in place:
            self._remote = RemoteKeys(
                issuer=place,
                url=place,
                max_age=MAX_AGE_SECONDS,
                clock=asyncio.get_running_loop().time,
                parse=Keys.parse,
                empty=Keys(),
                refresh=REFRESH_SECONDS,
            )
        else:
            self._file = WatchedFile(None if place is None else Path(place), Keys.parse, Keys())

    def keys(self) -> Keys:
        """Those in force; another object when they have changed."""
        if self._remote is not None:
            return self._remote.current
        assert self._file is not None
        return self._file.value

    def start(self) -> None:
        """A proxy does not wait for the URL: until it has answered, nobody may sign."""
        if self._remote is not None:
            self._fetching = asyncio.get_running_loop().create_task(self._remote.run())

    async def stop(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching

    def look_again(self) -> None:
        """A contract names a key that is not there: the URL may have it by now. Nobody waits for the answer:
        the contract is refused, and the next one with that key finds it."""
        if self._remote is not None and self._fetching is not None:
            self._remote.ask_again()

    def files(self) -> list[tuple[str, WatchedFile[Any]]]:
        """What is read again when it changes, as the audit trail names it."""
        return [] if self._file is None else [("contract-keys", self._file)]

    def problem(self) -> str | None:
        """For /readyz: why the newest keys are not in force."""
        if self._remote is not None:
            return self._remote.problem
        return None if self._file is None else self._file.problem
