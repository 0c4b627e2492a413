"""`devroute init`: asks for server and token, checks them, and saves them for later commands."""

import asyncio
import getpass
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final, TypeVar, cast

import typer

from devroute.agent.settings import ClientSettings
from devroute.auth.tls import is_exposed
from devroute.cli.config import project_file
from devroute.cli.config.names import COMMAND_LINE, ENV_PREFIX
from devroute.cli.config.sources import (
    Source,
    check_not_exposed,
    client_settings,
    given_settings,
    read_file,
)
from devroute.cli.config.yaml_edit import with_settings
from devroute.cli.connection import CONNECTION_OPTIONS, connecting
from devroute.cli.exit_codes import exits_with_code, print_error
from devroute.cli.help import option
from devroute.cli.invocation import (
    PROJECT_FILE,
    Invocation,
    read_text,
    replace_file,
    replace_home_file,
)
from devroute.cli.status import you_are
from devroute.errors import ConfigInvalid, DevrouteError, ServerUnreachable, TokenInvalid

T = TypeVar("T")

_OTHER: Final = {"http": "https", "https": "http"}

#: Attempts at a prompt.
ATTEMPTS: Final = 3


@connecting
@exits_with_code
def init(
    context: typer.Context,
    server: Annotated[str | None, option("URL of the control port; default: ask for it", "URL")] = None,
    token_stdin: Annotated[bool, option("Read the token from standard input", None, "--token-stdin")] = False,
    project: Annotated[
        list[str] | None, option("Add a service to ./devroute.yaml instead; repeatable", "SERVICE=PORT")
    ] = None,
) -> None:
    """Set up this laptop: ask for server and token, check them, and save them.

    They are saved in ~/.config/devroute/config.yaml (on Windows, %APPDATA%\\devroute\\config.yaml), which
    only you can read. With --project, the services of a repository are saved in its devroute.yaml, so that
    devroute up needs no arguments there.

    \b
    Example: devroute init
    Example: devroute init --server https://devroute.qa.example --token-stdin < token.txt
    Example: devroute init --token-command 'gcloud auth print-identity-token'
    Example: devroute init --project b=8001 --project c=grpc://localhost:9000
    """
    invocation: Invocation = context.obj
    if project:
        if server is not None or token_stdin or _own_flags(context):
            raise typer.BadParameter("a project file holds neither server nor token", param_hint="--project")
        _init_project(project)
        return
    _init_home(invocation, server, token_stdin, _own_flags(context))


def _init_home(
    invocation: Invocation, server: str | None, token_stdin: bool, flags: dict[str, object]
) -> None:
    file = invocation.home_file
    if file is None:
        raise ConfigInvalid("there is no home directory to save settings in", hint="set HOME")
    known = read_text(file) or ""
    before = read_file(known, str(file))
    kept = _ask(server, token_stdin, flags, before)
    text = with_settings(known, kept, str(file))
    replace_home_file(file, text)
    typer.echo(f"wrote {short_path(file, invocation.environment)}, readable by you only")
    for name in ("SERVER", "TOKEN"):
        if invocation.environment.get(ENV_PREFIX + name):
            typer.echo(f"note: {ENV_PREFIX}{name} is set, and takes precedence over this file", err=True)
    typer.echo("next: devroute up SERVICE=PORT")


def _init_project(services: list[str]) -> None:
    given_settings([Source(COMMAND_LINE, {"services": services})])  # or ConfigInvalid
    known = read_text(PROJECT_FILE) or ""
    before = read_file(known, str(PROJECT_FILE), own=False)
    given_settings([before])
    kept = before.values.get("services") or []
    given = dict(kept) if isinstance(kept, Mapping) else _places(map(str, cast(list[object], kept)))
    places = given | _places(services)
    project_file.check("services", places, str(PROJECT_FILE))
    replace_file(PROJECT_FILE, with_settings(known, {"services": places}, str(PROJECT_FILE)), mode=0o644)
    typer.echo(
        f"wrote {PROJECT_FILE} ({', '.join(places)}); commit it, and devroute up works here without arguments"
    )
    if "reach" not in before.values:
        typer.echo(
            "what your app calls in the mesh may stand there, too: reach: [c.shop:80, tcp://orders-db:5432]"
        )


def _places(services: Iterable[str]) -> dict[str, object]:
    pairs = (text.partition("=")[::2] for text in services)
    return {service: int(place) if place.isdigit() else place for service, place in pairs}


def _own_flags(context: typer.Context) -> dict[str, object]:
    """The flags of the connection that were given. Paths are made absolute: the settings apply in every
    folder."""
    given = {n: context.params[n] for n in CONNECTION_OPTIONS if context.params[n] not in (None, False)}
    return {name: str(each.absolute()) if isinstance(each, Path) else each for name, each in given.items()}


def _ask(
    server: str | None, token_stdin: bool, flags: dict[str, object], before: Source
) -> dict[str, object]:
    """Settings that the server has accepted. Raises the last error once no attempt is left."""
    without_token = bool(flags.get("token_command") or flags.get("client_cert"))
    if (sys.stdin is None or not sys.stdin.isatty()) and not (server and (token_stdin or without_token)):
        raise typer.BadParameter(
            "standard input is not a terminal: give --server, and --token-stdin or --token-command"
        )
    secret = _token_on_stdin() if token_stdin else None
    trust = {name: before.values.get(name) for name in ("ca_file", "client_cert", "client_key")}
    given = {**trust, **flags}
    default = given_settings([before]).server or None

    def ask_server() -> str:
        nonlocal default
        text = server or str(typer.prompt("Server (URL)", default=default, err=True)).strip()
        try:
            return find_server(text, given, sends_token=not flags.get("client_cert"))
        except ServerUnreachable:
            default = text  # perhaps after the VPN was switched on
            raise

    def ask_token() -> str | None:
        token = secret or (None if without_token else _hidden("Token (not shown): "))
        _check(client_settings([Source("what you gave", {**given, "token": token, "server": found})]))
        return token

    found = _again(ask_server, () if server else (ConfigInvalid, ServerUnreachable))
    token = _again(ask_token, () if secret or without_token else (TokenInvalid,))
    return {"server": found, "token": token, "token_command": None, **flags}


def _again(ask: Callable[[], T], on: tuple[type[DevrouteError], ...]) -> T:
    """What `ask` returns. Errors of these kinds are printed, and it asks again, ATTEMPTS times in all."""
    for _ in range(ATTEMPTS - 1):
        try:
            return ask()
        except on as error:
            print_error(error)
    return ask()


def _token_on_stdin() -> str:
    token = "" if sys.stdin is None else sys.stdin.readline().strip()
    if not token:
        raise ConfigInvalid("--token-stdin: standard input is empty", hint="devroute init ... < token.txt")
    return token


def find_server(text: str, given: Mapping[str, object], *, sends_token: bool) -> str:
    """The URL of a server as people write it, also without its scheme: https, unless the server is on this
    machine or responds to http alone. Raises ConfigInvalid and ServerUnreachable."""
    from devroute.agent.api_client import probe

    named = "://" in text
    settings = given_settings([Source("server", {**given, "server": text if named else f"https://{text}"})])
    scheme, _, place = settings.server.partition("://")
    if not named and not is_exposed(f"http://{place}"):
        scheme = "http"
    servers = [f"{each}://{place}" for each in (scheme, _OTHER.get(scheme)) if each]
    errors = asyncio.run(probe(settings, servers))
    server = next((each for each, error in errors.items() if error is None), servers[0])
    if (error := errors[servers[0]]) is not None and (named or server == servers[0]):
        if server != servers[0]:
            error.hint = f"it responds at {server}"
        raise error
    settings = settings.model_copy(update={"server": server})
    if sends_token:
        check_not_exposed(settings)
    return server


def _hidden(prompt: str) -> str:
    """By getpass: typer.prompt asks before the echo is off, so that a token pasted at once would show."""
    try:
        return getpass.getpass(prompt).strip()
    except EOFError:
        raise typer.Abort from None


def _check(settings: ClientSettings) -> None:
    from devroute.agent.api_client import fetch

    status = asyncio.run(fetch(settings, "/api/status"))
    typer.echo(you_are(settings.server, status))


def short_path(file: Path, environment: Mapping[str, str]) -> str:
    home = environment.get("HOME")
    return f"~/{file.relative_to(home)}" if home and file.is_relative_to(home) else shlex.quote(str(file))
