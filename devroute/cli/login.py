"""`devroute login` and `logout`: a token by single sign-on, in a browser on any device, kept until it
ends."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from devroute.agent.settings import ClientSettings
from devroute.cli.config.credentials import server_key
from devroute.cli.config.sources import given_settings, read_file, server_settings
from devroute.cli.config.yaml_edit import with_settings
from devroute.cli.connection import connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.init import find_server, short_path
from devroute.cli.invocation import Invocation, read_text, replace_home_file
from devroute.cli.status import you_are
from devroute.errors import ConfigInvalid
from devroute.quoting import visible

if TYPE_CHECKING:
    from devroute.agent.login.device_flow import DeviceAuthorization

_Server = Annotated[str | None, option("URL of the control port; default: the one that is set up", "URL")]


@connecting
@exits_with_code
def login(context: typer.Context, server: _Server = None) -> None:
    """Log in by single sign-on, for a token that renews itself.

    It prints a page and a code to enter there, in a browser on any device, and waits. The token is kept in
    ~/.local/state/devroute, readable by you only, and used where no other token is given.

    \b
    Example: devroute login --server https://devroute.qa.example
    Example: devroute login
    """
    from devroute.agent.login import session, stored_login

    invocation: Invocation = context.obj
    folder = invocation.login_folder
    if folder is None:
        raise ConfigInvalid("there is no home directory to keep a login in", hint="set HOME")
    settings = _settings(context, server)
    found = asyncio.run(session.log_in(settings, _ask))
    status = asyncio.run(session.whoami(settings, found))
    stored_login.save(stored_login.file_of(folder, server_key(settings.server)), found)
    typer.echo(you_are(settings.server, status))
    if found.refresh_token is None:
        typer.echo("note: the issuer gave no refresh token: log in again when this one has expired", err=True)
    _remember(invocation, settings.server)
    _mention_other_token(context, settings)
    typer.echo("next: devroute up SERVICE=PORT")


@connecting
@exits_with_code
def logout(context: typer.Context, server: _Server = None) -> None:
    """Forget the login of this laptop, and end it at the issuer.

    \b
    Example: devroute logout
    """
    from devroute.agent.login import stored_login

    settings = _settings(context, server)
    folder = context.obj.login_folder
    file = None if folder is None else stored_login.file_of(folder, server_key(settings.server))
    found = None if file is None else stored_login.load(file)
    if file is None or found is None:
        typer.echo(f"there is no login for {settings.server}")
        return
    revoked = asyncio.run(stored_login.revoke(found, settings))
    stored_login.forget(file)
    ended = "" if revoked or found.refresh_token is None else "; the issuer has not confirmed its end"
    typer.echo(f"logged out of {settings.server}{ended}")


def _settings(context: typer.Context, server: str | None) -> ClientSettings:
    """With the server as it can be reached, if it is given."""
    parameters = dict(context.params)
    if server is not None:
        given = {name: value for name, value in parameters.items() if name != "server" and value}
        parameters["server"] = find_server(server, given, sends_token=True)
    settings: ClientSettings = context.obj.settings(server_settings, parameters)
    return settings


def _ask(authorization: "DeviceAuthorization") -> None:
    typer.echo(f"open   {visible(authorization.verification_uri)}", err=True)
    typer.echo(f"enter  {visible(authorization.user_code)}", err=True)
    if complete := authorization.verification_uri_complete:
        typer.echo(f"or open {visible(complete)} and compare the code", err=True)
    typer.echo(f"waiting, for at most {authorization.expires_in / 60:.0f} min (Ctrl-C ends it)", err=True)


def _remember(invocation: Invocation, server: str) -> None:
    """As the server of later commands, if the user's file names none."""
    file = invocation.home_file
    if file is None:
        return
    known = read_text(file) or ""
    if given_settings([read_file(known, str(file))]).server:
        return
    replace_home_file(file, with_settings(known, {"server": server}, str(file)))
    typer.echo(f"wrote {short_path(file, invocation.environment)}: {server} is the server of later commands")


def _mention_other_token(context: typer.Context, settings: ClientSettings) -> None:
    """The login is not used where another token is given."""
    chosen = given_settings(context.obj.sources({**context.params, "server": settings.server}))
    if chosen.login is None:
        typer.echo("note: a token that is set elsewhere takes precedence over this login", err=True)
