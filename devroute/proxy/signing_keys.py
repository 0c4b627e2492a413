"""The keys that contracts may be signed with, from the file or URL that the settings name."""

import asyncio
from pathlib import Path
from typing import Final

from devroute.auth.jwks import RemoteKeys
from devroute.contract.keys import Keys
from devroute.proxy.public_keys import PublicKeySource
from devroute.proxy.watched_file import WatchedFile

#: Seconds between two fetches, unless a contract names an unknown key: so long a withdrawn key stays valid.
REFRESH_SECONDS: Final = 30.0
#: Seconds that fetched keys stay valid while the URL cannot be reached.
MAX_AGE_SECONDS: Final = 8 * 3600.0


def signing_keys(location: str | None) -> PublicKeySource[Keys]:
    """`location` is a file or a URL; without one no key is accepted. Raises ConfigInvalid."""
    if location is None or "://" not in location:
        path = None if location is None else Path(location)
        return PublicKeySource("contract-keys", WatchedFile(path, Keys.parse, Keys()))
    remote = RemoteKeys(
        issuer=location,
        url=location,
        max_age=MAX_AGE_SECONDS,
        clock=asyncio.get_running_loop().time,
        parse=Keys.parse,
        empty=Keys(),
        interval=REFRESH_SECONDS,
    )
    return PublicKeySource("contract-keys", remote)
