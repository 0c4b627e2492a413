"""The settings that ./devroute.yaml may have. Pure; cli/config/sources.py applies the rules.

The file comes with a repository and is read where `devroute up` starts. Its author must not be able to run a
command, to send a token elsewhere (cli/config/credentials.py), to have files from elsewhere read or sent to
callers, to reach the laptop's networks, to send its requests to another machine, or to have more of a request
recorded or shown.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from devroute.cli.config.credentials import Source
from devroute.errors import ConfigInvalid
from devroute.quoting import quote

if TYPE_CHECKING:  # the proxy's settings are read without those of the agent
    from devroute.inspector.rules.settings import RuleSettings

#: A list of permissions, so that every new setting is refused until it is added here.
PERMITTED: Final = frozenset({
    "descriptor_set", "except_methods", "except_status", "host_header", "ignore", "inspector",
    "inspector_body_mb", "inspector_memory_mb", "name", "only_path", "output", "proto", "proto_path",
    "proxy", "reach", "reach_contract", "reach_env", "reach_port", "redact", "retry_refused", "rules",
    "server", "services", "shadow", "shadow_methods", "token",
})  # fmt: skip

#: Files that are read.
_FILES: Final = ("descriptor_set", "proto", "proto_path")

#: Whether and how much of requests is recorded: the user's own choice takes precedence.
_RECORDING: Final = ("inspector", "inspector_memory_mb", "inspector_body_mb")


def check(key: str, value: object, source: str) -> None:
    """Raises ConfigInvalid for a setting that a repository may not make."""
    if key not in PERMITTED:
        raise ConfigInvalid(
            f"{source}: {key} is not permitted in a file that comes with a repository",
            hint="write it into ~/.config/devroute/config.yaml",
        )
    if key == "redact" and any(str(rule).startswith("-") for rule in _rules(value)):
        raise ConfigInvalid(
            f"{source}: redact: a file that comes with a repository may add fields, but not remove any",
            hint="write -x-api-key into ~/.config/devroute/config.yaml",
        )
    if key in _FILES:
        _check_paths(key, value, source)
    if key == "services":
        for place in map(str, value.values() if isinstance(value, Mapping) else _rules(value)):
            if not _is_here(place):
                raise ConfigInvalid(
                    f"{source}: services: '{place}' is not on this laptop, and a file that comes with a"
                    " repository may name no other machine",
                    hint="if you want that, set it yourself: devroute up SERVICE=HOST:PORT, or in"
                    " ~/.config/devroute/config.yaml",
                )


def _check_paths(key: str, value: object, source: str) -> None:
    """Raises ConfigInvalid for a file elsewhere. What is no list of paths is left for the validation of
    settings."""
    from devroute.agent.settings import file_paths

    with suppress(ValueError):
        for path in file_paths(value):
            if path.is_absolute() or path.drive or ".." in path.parts:
                raise ConfigInvalid(
                    f"{source}: {key}: {quote(str(path))} is not below the folder of this file",
                    hint="name it yourself: on the command line, or in ~/.config/devroute/config.yaml",
                )


def check_rules(rules: "Iterable[RuleSettings]", source: str) -> None:
    """Raises ConfigInvalid for a response from a file that is not in the folder of the repository's file, or
    is hidden: .env and .git/config hold secrets of the user's, not of the repository."""
    here = Path.cwd().resolve()
    for rule in rules:
        file = rule.body_file
        if file is None:
            continue
        real = file.resolve()
        if not real.is_relative_to(here):
            raise ConfigInvalid(
                f"{source}: rules: '{file}' is not in this folder: rules from a repository may only send"
                " files below it",
                hint="copy it here, or write the rule into ~/.config/devroute/config.yaml",
            )
        if any(part.startswith(".") for part in real.relative_to(here).parts):
            raise ConfigInvalid(
                f"{source}: rules: '{file}' is hidden: rules from a repository may not send hidden files",
                hint="rename it, or write the rule into ~/.config/devroute/config.yaml",
            )


def _is_here(place: str) -> bool:
    """Whether an app is on this laptop: at a port, or at a loopback address with a port."""
    host = place.rpartition("=")[2].rpartition("://")[2].rpartition(":")[0].lower().strip("[]")
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def restrict_recording(sources: Sequence[Source]) -> list[Source]:
    """The sources, with the user's settings of recording before those of a repository, and with its redacted
    fields added to the user's."""
    own = [each for each in sources if each.own]
    own_keys = {key for key in _RECORDING if any(each.values.get(key) is not None for each in own)}
    sources = [each if each.own else each.without(own_keys) for each in sources]
    listed = [rule for each in sources if not each.own for rule in _rules(each.values.get("redact"))]
    mine = next((each for each in own if each.values.get("redact") is not None), None)
    if mine is None:
        return sources
    together = Source(mine.name, {"redact": [*_rules(mine.values["redact"]), *listed]})
    return [together, *sources]


def _rules(value: object) -> list[object]:
    """The items of a list, or of words. Anything else is left for the validation of settings to report."""
    if isinstance(value, str):
        return [*value.replace(",", " ").split()]
    return [*value] if isinstance(value, list | tuple) else [] if value is None else [value]
