"""What ./devroute.yaml may say. Pure; cli/config/sources.py asks.

It comes with a repository, and is read where `devroute up` is started: whoever wrote it must not be able to
run a command, to have a token sent elsewhere (cli/config/credentials.py), to open a way into the networks of
the laptop, to have its requests sent to another machine, or to have more of a request kept or shown.
"""

import ipaddress
from collections.abc import Mapping, Sequence, Set
from typing import Final

from devroute.cli.config.credentials import Source
from devroute.errors import ConfigInvalid

#: A list of what is permitted: a new setting is refused until somebody has thought about it.
PERMITTED: Final = frozenset({
    "except_methods", "except_status", "ignore", "inspector", "inspector_body_mb",
    "inspector_memory_mb", "name", "only_path", "output", "proxy", "redact", "server", "services", "shadow",
    "shadow_methods", "token",
})  # fmt: skip

#: Whether requests are recorded, and how much of them: people may have said so for all that they work on.
_RECORDING: Final = ("inspector", "inspector_memory_mb", "inspector_body_mb")


def check(key: str, value: object, source: str) -> None:
    """Raises ConfigInvalid for a setting that a repository's file may not have."""
    if key not in PERMITTED:
        raise ConfigInvalid(
            f"{source}: {key} may not stand in a file that comes with a repository",
            hint="write it into ~/.config/devroute/config.yaml",
        )
    if key == "redact" and any(str(rule).startswith("-") for rule in _rules(value)):
        raise ConfigInvalid(
            f"{source}: redact: a file that comes with a repository may list more fields, and take none off",
            hint="write -x-api-key into ~/.config/devroute/config.yaml",
        )
    if key == "services":
        for place in map(str, value.values() if isinstance(value, Mapping) else _rules(value)):
            if not _is_here(place):
                raise ConfigInvalid(
                    f"{source}: services: '{place}' leads beyond this laptop, which a file that comes with a"
                    " repository may not",
                    hint="if you want that, say it yourself: devroute up SERVICE=HOST:PORT, or in"
                    " ~/.config/devroute/config.yaml",
                )


def _is_here(place: str) -> bool:
    """Whether a service's place is on this laptop: a port, or a loopback address with one."""
    host = place.rpartition("=")[2].rpartition("://")[2].rpartition(":")[0].lower().strip("[]")
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def restrict_recording(sources: Sequence[Source]) -> list[Source]:
    """The sources, in which what a person has said of recording counts more than what a repository says, and
    the fields that it lists for redaction stand beside a person's own, not in their place."""
    own = [each for each in sources if each.own]
    said = {key for key in _RECORDING if any(each.values.get(key) is not None for each in own)}
    sources = [
        each if each.own else Source(each.name, _without(each.values, said), own=False) for each in sources
    ]
    listed = [rule for each in sources if not each.own for rule in _rules(each.values.get("redact"))]
    mine = next((each for each in own if each.values.get("redact") is not None), None)
    if mine is None:
        return list(sources)
    together = Source(mine.name, {"redact": [*_rules(mine.values["redact"]), *listed]})
    return [together, *sources]


def _without(values: Mapping[str, object], keys: Set[str]) -> Mapping[str, object]:
    return {key: value for key, value in values.items() if key not in keys}


def _rules(value: object) -> list[object]:
    """Of a list, or of words. What is neither stays as it is: the settings' validation says what is wrong."""
    if isinstance(value, str):
        return [*value.replace(",", " ").split()]
    return [*value] if isinstance(value, list | tuple) else [] if value is None else [value]
