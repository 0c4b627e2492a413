"""The configuration that is read again while the proxy runs: policy, tokens, and keys.

Owns the sources and what the audit trail records about them; proxy/app.py applies what has changed.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

from devroute.auth.jwks import RemoteKeys
from devroute.contract.keys import Keys
from devroute.policy.policy import Policy
from devroute.proxy.identity_sources import IdentitySources
from devroute.proxy.public_keys import PublicKeySource
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.audit_events import RecordEvent
from devroute.proxy.watched_file import WatchedFile

#: What `refresh` and the audit trail call the sources whose changes others depend on.
POLICY: Final = "policy"
SIGNING_KEYS: Final = "contract-keys"

#: Seconds between two fetches, unless a contract names an unknown key: so long a withdrawn key stays valid.
REFRESH_SECONDS: Final = 30.0
#: Seconds that fetched keys stay valid while the URL cannot be reached.
MAX_AGE_SECONDS: Final = 8 * 3600.0


class LiveConfig:
    """`start` begins to fetch keys, `stop` ends it; `refresh` is to be called periodically."""

    def __init__(self, settings: ProxySettings) -> None:
        """Raises ConfigInvalid for a file that cannot be used."""
        self._policy = WatchedFile(settings.policy, Policy.parse, Policy())
        self.identities = IdentitySources(settings)
        self.signing_keys = signing_keys(settings.contract_keys)
        self._keys_in_force = self.signing_keys.current()
        self._fetched = [each for each in (self.identities.keys, self.signing_keys) if each is not None]

    def policy(self) -> Policy:
        return self._policy.current

    @property
    def policy_problem(self) -> str | None:
        """Why the policy file could not be read the last time, None if it was."""
        return self._policy.problem

    @property
    def policy_loaded_at(self) -> float:
        """When the policy in force was read, in seconds since the epoch."""
        return self._policy.loaded_at

    def start(self, record: RecordEvent) -> None:
        for source in self._fetched:
            source.start()
        for name, file in self._files():
            if file.path is not None:
                record("change", what=name, outcome="loaded", path=str(file.path), reason="")

    async def stop(self) -> None:
        for source in self._fetched:
            await source.stop()

    def refresh(self, record: RecordEvent) -> set[str]:
        """Read what has changed. Returns the names of the sources with a new value."""
        changed = {name for name, file in self._files() if _refresh(name, file, record)}
        if (keys := self.signing_keys.current()) is not self._keys_in_force:
            self._keys_in_force = keys
            changed.add(SIGNING_KEYS)
        return changed

    def status(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "policy_problem": self._policy.problem,
            "policy_age_s": self._policy.age_s,
            "contract_keys_problem": self.signing_keys.problem,
            "contract_keys_age_s": self.signing_keys.age_s,
        } | self.identities.status()

    def _files(self) -> list[tuple[str, WatchedFile[Any]]]:
        """The files, by their names in the audit trail."""
        return [(POLICY, self._policy), *self.signing_keys.files(), *self.identities.files()]


def _refresh(name: str, file: WatchedFile[Any], record: RecordEvent) -> bool:
    problem = file.problem
    changed = file.refresh()
    if changed or file.problem not in (None, problem):
        outcome = "loaded" if changed else "rejected"
        record("change", what=name, outcome=outcome, path=str(file.path), reason=file.problem or "")
    return changed


def signing_keys(location: str | None) -> PublicKeySource[Keys]:
    """The keys that contracts may be signed with: `location` is a file or a URL; without one no key is
    accepted. Raises ConfigInvalid."""
    if location is None or "://" not in location:
        path = None if location is None else Path(location)
        return PublicKeySource(SIGNING_KEYS, WatchedFile(path, Keys.parse, Keys()))
    remote = RemoteKeys(
        issuer=location,
        url=location,
        max_age=MAX_AGE_SECONDS,
        clock=asyncio.get_running_loop().time,
        parse=Keys.parse,
        empty=Keys(),
        interval=REFRESH_SECONDS,
    )
    return PublicKeySource(SIGNING_KEYS, remote)
