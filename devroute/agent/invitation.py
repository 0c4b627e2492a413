"""How people send requests to this laptop: the contract, a command for a shell, and a link for browsers.
Pure.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from devroute.contract.entry_urls import entry_for, join_link, requested_url
from devroute.contract.service_spec import ServiceSpec
from devroute.quoting import Shell, shell_word
from devroute.tunnel.protocol.handshake import Welcome

#: Stands for the URL where the proxy does not state one.
UNKNOWN_URL = "URL"


@dataclass(frozen=True, slots=True)
class Invitation:
    """`command` sends a request by `url`, which is None if no entry is known; `link` sets the contract in a
    browser, None where the entry has no edge. `entries` are all URLs by name, `others` all but `url`."""

    contract: str
    command: str
    url: str | None = None
    link: str | None = None
    entries: Mapping[str, str] = field(default_factory=dict)

    @property
    def others(self) -> dict[str, str]:
        return {name: url for name, url in self.entries.items() if url != self.url}


def invitation(welcome: Welcome, services: Sequence[ServiceSpec], shell: Shell) -> Invitation:
    """For the laptop that was welcomed with these services. Of several entries that of a service itself is
    preferred, then the first."""
    contract = json.dumps({spec.service: welcome.name for spec in services})
    entries = welcome.entries
    chosen = entry_for([spec.service for spec in services], entries)
    if chosen is None:
        return Invitation(contract, command(contract, UNKNOWN_URL, shell))
    link = join_link(entries[chosen], contract) if welcome.entry_links else None
    shown = command(contract, requested_url(entries[chosen]), shell)
    return Invitation(contract, shown, entries[chosen], link, entries)


def command(contract: str, url: str, shell: Shell) -> str:
    """A request with a contract. PowerShell passes double quotes to other programs differently by version, so
    that one of its own commands sends the request there."""
    if shell == "powershell":
        header = f"@{{'X-devroute' = {shell_word(contract, shell)}}}"
        return f"Invoke-WebRequest -UseBasicParsing {url} -Headers {header}"
    return f"curl -H {shell_word(f'X-devroute: {contract}', shell)} {url}"
