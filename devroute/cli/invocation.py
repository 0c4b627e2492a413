"""A command's environment and configuration files, and the files that commands read and write.

Never interprets settings: cli/config/sources.py does, which is imported where settings are read: it takes
longer to import than `devroute --help` may take.
"""

import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from devroute import private_files
from devroute.cli.config.names import COMMAND_LINE, ENV_PREFIX, LOGIN
from devroute.errors import ConfigInvalid, ServerNotConfirmed
from devroute.platforms import config_folder, state_folder

if TYPE_CHECKING:
    from devroute.cli.config.sources import Source

S = TypeVar("S")

#: A repository's settings for all who work on it. Its author is not trusted with their tokens
#: (cli/config/credentials.py).
PROJECT_FILE: Final = Path("devroute.yaml")
#: The folder of logins, in that of the state.
LOGINS: Final = "logins"


@dataclass(frozen=True, slots=True)
class Invocation:
    """`command`: the words after `--`."""

    environment: Mapping[str, str]
    command: tuple[str, ...]

    @property
    def home_file(self) -> Path | None:
        """The user's own settings file, whether or not it exists."""
        folder = config_folder(self.environment)
        return folder / "config.yaml" if folder else None

    @property
    def state_folder(self) -> Path | None:
        """The folder of what commands remember, whether or not it exists."""
        return state_folder(self.environment)

    @property
    def login_folder(self) -> Path | None:
        """The folder of what `devroute login` saves, whether or not it exists."""
        return self.state_folder / LOGINS if self.state_folder else None

    def sources(self, parameters: Mapping[str, object]) -> "list[Source]":
        """Where settings come from, in order of precedence: first the parameters of the command (the `params`
        of its context), of which those that have a setting's name count. Raises ConfigInvalid."""
        from devroute.cli.config.sources import Source, read_environment, read_file

        given = {name: value for name, value in parameters.items() if value != ()}  # (): a list without items
        files = [PROJECT_FILE, *([self.home_file] if self.home_file else [])]
        found = [
            read_file(text, str(file), own=file != PROJECT_FILE)
            for file in files
            if (text := read_text(file)) is not None
        ]
        logins = Source(LOGIN, {"servers": self.logins()})
        return [Source(COMMAND_LINE, given), read_environment(self.environment), *found, logins]

    def may_know_a_server(self, parameters: Mapping[str, object]) -> bool:
        """False where no source can name one; found out without reading any."""
        files = (PROJECT_FILE, self.home_file, self.login_folder)
        return bool(
            parameters.get("server")
            or self.environment.get(f"{ENV_PREFIX}SERVER")
            or any(file is not None and file.exists() for file in files)
        )

    def logins(self) -> dict[str, dict[str, object]]:
        """The servers that `devroute login` knows, as entries of `servers:`."""
        folder = self.login_folder
        if folder is None or not folder.is_dir():  # most users have a token
            return {}
        from devroute.agent.login.stored_login import all_logins

        return {login.server: {"login": file} for file, login in all_logins(folder)}

    def settings(self, read: "Callable[[list[Source]], S]", parameters: Mapping[str, object]) -> S:
        """What `read` makes of the sources. Asks once about a server that only a repository names. Raises
        what `read` does."""
        try:
            return read(self.sources(parameters))
        except ServerNotConfirmed as error:
            if not self._confirms(error):
                raise
        return read(self.sources(parameters))

    def _confirms(self, question: ServerNotConfirmed) -> bool:
        """Whether the user trusts the server; kept as an entry of `servers:`. No one is asked in CI."""
        file = self.home_file
        if file is None or self.environment.get("CI") or sys.stdin is None:
            return False
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return False
        print(f"devroute: {question.message}.", file=sys.stderr)
        if not typer.confirm("Do you trust this server, from now on?", err=True):
            return False
        from devroute.cli.config.sources import read_file
        from devroute.cli.config.yaml_edit import with_settings

        known = read_text(file) or ""
        listed = read_file(known, str(file)).values.get("servers")
        servers = {**(listed if isinstance(listed, Mapping) else {}), question.server: {}}
        replace_home_file(file, with_settings(known, {"servers": servers}, str(file)))
        return True


def is_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter's value is from the command line, and not its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def read_text(file: Path) -> str | None:
    """A file's text, None where there is no such file. Raises ConfigInvalid where it cannot be read."""
    try:
        return file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"{file}: not UTF-8 at byte {error.start}") from None


def require_text(file: Path, hint: str = "") -> str:
    """The text of a file that has to be there. Raises ConfigInvalid."""
    if (text := read_text(file)) is None:
        raise ConfigInvalid(f"{file}: there is no such file", hint=hint)
    return text


def read_labels(texts: Iterable[str], flag: str) -> dict[str, str]:
    """Labels of Kubernetes, written KEY=VALUE. Raises BadParameter."""
    labels = dict(text.partition("=")[::2] for text in texts)
    if not all(labels.values()):
        raise typer.BadParameter("write KEY=VALUE", param_hint=flag)
    return labels


def read_input(file: str) -> tuple[str, str]:
    """The text of a file, or of standard input for "-", and its name for messages. Raises ConfigInvalid."""
    if file != "-":
        return require_text(Path(file)), file
    if sys.stdin is None:  # `<&-`
        raise ConfigInvalid("standard input: it is closed", hint="name a file, or pipe the text in")
    try:
        return sys.stdin.buffer.read().decode("utf-8"), "standard input"
    except UnicodeDecodeError as error:
        raise ConfigInvalid(f"standard input: not UTF-8 at byte {error.start}") from None


def replace_file(file: Path, text: str, mode: int = 0o600) -> None:
    """Write a file as a whole or not at all, by default readable by its owner only. Raises ConfigInvalid."""
    try:
        private_files.replace(file, text.encode(), mode)
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be written: {error.strerror}") from error


def replace_home_file(file: Path, text: str) -> None:
    """The same for the user's own settings file, with its folder if there is none yet."""
    with contextlib.suppress(OSError):  # replace_file says why it cannot be written
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    replace_file(file, text)
