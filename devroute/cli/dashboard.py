"""`devroute dashboard` and `devroute admin`: the team's page, and what administrators do."""

import asyncio
import sys
from typing import Annotated
from urllib.parse import quote, urlsplit

import typer

from devroute.cli.config.sources import client_settings
from devroute.cli.connection import Server, Token, ask, connecting
from devroute.cli.durations import seconds_of
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import argument, group, option
from devroute.cli.output import Output, print_json
from devroute.cli.table import cell, objects, table
from devroute.quoting import visible

admin_app = group("End registrations, and block people for a time; for administrators")

Reason = Annotated[str, option("Reason that they and the audit trail get", "TEXT")]


@exits_with_code
@connecting
def dashboard(
    context: typer.Context,
    browser: Annotated[
        bool | None,
        typer.Option("--open/--no-open", help="Whether to open it in a browser; default: on a terminal"),
    ] = None,
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """Open your team's page in a browser: who is on what, live.

    The link that it prints opens the page once, and within a minute.

    \b
    Example: devroute dashboard
    """
    from devroute.agent.api_client import change, web_url

    settings = context.obj.settings(client_settings, context.params)
    url = web_url(settings)
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(url))
    made = asyncio.run(change(settings, "POST", "/api/login", {"origin": origin}))
    link = visible(f"{url}{made.get('path')}?code={made.get('code')}")
    if settings.output == "json":
        print_json({"url": link, "expires_s": made.get("expires_s")})
        return
    typer.echo(link)
    if browser if browser is not None else sys.stdout.isatty():
        import webbrowser

        webbrowser.open(link)


@admin_app.command("end")
@exits_with_code
@connecting
def end(
    context: typer.Context,
    laptop: Annotated[str, argument("Name of the laptop", "LAPTOP")],
    reason: Reason = "",
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """End the registration of a laptop. Its owner may start it again.

    \b
    Example: devroute admin end alice --reason 'the demo begins'
    """
    ended = ask(context, "DELETE", f"/api/laptops/{quote(laptop, safe='')}", {"reason": reason})
    if context.params["output"] == "json":
        print_json(ended)
    else:
        typer.echo(f"the registration of {laptop} is ended")


@admin_app.command("block")
@exits_with_code
@connecting
def block(
    context: typer.Context,
    subject: Annotated[str, argument("Subject of the token", "SUBJECT")],
    time: Annotated[str, option("How long, such as 30m, 2h or 1d", "TIME", "--for")] = "1h",
    reason: Reason = "",
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """Refuse a subject's token for a time, and end its laptops and pages.

    \b
    Example: devroute admin block bob --for 2h
    """
    wanted: dict[str, object] = {"seconds": seconds_of(time, "--for"), "reason": reason}
    made = ask(context, "PUT", f"/api/blocks/{quote(subject, safe='')}", wanted)
    if context.params["output"] == "json":
        print_json(made)
    else:
        typer.echo(f"{subject} is blocked until {cell(made.get('until'))}")
        if made.get("laptops") == 0:
            typer.echo(
                f"{subject} had no laptop online: if that surprises you, compare the name with devroute ls",
                err=True,
            )


@admin_app.command("unblock")
@exits_with_code
@connecting
def unblock(
    context: typer.Context,
    subject: Annotated[str, argument("Subject of the token", "SUBJECT")],
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """End a block before its time.

    \b
    Example: devroute admin unblock bob
    """
    ask(context, "DELETE", f"/api/blocks/{quote(subject, safe='')}", {})
    if context.params["output"] == "json":
        print_json({})
    else:
        typer.echo(f"{subject} is no longer blocked")


@admin_app.command("blocks")
@exits_with_code
@connecting
def blocks(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> None:
    """List who is blocked, by whom and until when.

    \b
    Example: devroute admin blocks
    """
    document = ask(context, "GET", "/api/blocks")
    rows = objects(document.get("blocks"))
    if context.params["output"] == "json":
        print_json(document)
    else:
        typer.echo(table(rows) if rows else "no one is blocked")
