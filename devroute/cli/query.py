"""`devroute ls`, `status`, `trace` and `version`: what the server reports of laptops, of the user, of one
request, and of itself."""

import shlex
import sys
from typing import Annotated

import typer

from devroute import __version__
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.output import Output, print_json
from devroute.cli.status import describe_running, describe_status
from devroute.cli.table import cell, objects, table
from devroute.errors import DevrouteError


@exits_with_code
@connecting
def ls(
    context: typer.Context,
    watch: Annotated[bool, option("Follow who is on what, live, with requests and fallbacks")] = False,
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """List the laptops that are online.

    \b
    Example: devroute ls --output json
    Example: devroute ls --watch
    """
    import asyncio

    from devroute.agent.api_client import fetch
    from devroute.cli.config.sources import client_settings

    settings = context.obj.settings(client_settings, context.params)
    if watch:
        from devroute.cli.watch import watch as follow

        asyncio.run(follow(settings, sys.stdout))
        return
    document = asyncio.run(fetch(settings, "/api/laptops"))
    if settings.output == "json":
        print_json(document)
        return
    rows = [_row(each) for each in objects(document.get("laptops"))]
    typer.echo(table(rows) if rows else "no laptop is online; start one with: devroute up SERVICE=PORT")


@exits_with_code
@connecting
def status(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> None:
    """Show what runs on this laptop, your identity at the server, and its rules.

    \b
    Example: devroute status
    """
    import asyncio

    from devroute.agent.api_client import fetch
    from devroute.agent.control.client import statuses
    from devroute.cli.config.sources import client_settings

    settings = context.obj.settings(client_settings, context.params)
    running = statuses(context.obj.state_folder)
    as_json = settings.output == "json"
    if running and not as_json:
        typer.echo("\n".join([*describe_running(running), ""]))
    document = asyncio.run(fetch(settings, "/api/status"))
    if as_json:
        print_json({"server": settings.server} | document | {"up": running})
        return
    typer.echo("\n".join(describe_status(settings.server, document)))


@exits_with_code
@connecting
def trace_(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> int:
    """Send one request, and show which services saw its contract and who answered.

    With --output json, standard output is the report alone; what the command printed is in its member
    "output".

    \b
    Example: devroute trace -- curl -H 'X-devroute: {"b": "alice"}' http://a.qa.example/
    """
    import asyncio

    from devroute.agent import trace, trace_report
    from devroute.cli.config.sources import client_settings

    if context.args:
        program = ["curl"] if "://" in context.args[0] else []
        traced_command = shlex.join([*program, *context.args, *context.obj.command])
        raise typer.BadParameter(f"write -- before the command: devroute trace -- {traced_command}")
    settings = context.obj.settings(client_settings, context.params)
    trace_id, as_json = trace.new_trace(), settings.output == "json"
    arguments = trace.with_trace_headers(context.obj.command, trace_id)
    traced = asyncio.run(trace.run(settings, trace_id, arguments, capture=as_json))
    if traced.problem is not None:
        raise traced.problem
    if as_json:
        print_json(trace_report.as_document(traced))
    else:  # the command's own output is on stdout
        typer.echo("\n".join(trace_report.describe(traced)), err=True)
    return traced.exit_code


@connecting
@exits_with_code
def version(context: typer.Context, server: Server = None, token: Token = None) -> None:
    """Print the version, and that of the server if it can be reached.

    \b
    Example: devroute version
    """
    typer.echo(f"devroute {__version__}")
    if not context.obj.may_know_a_server(context.params):
        return
    import asyncio

    from devroute.cli.config.sources import given_settings

    settings = given_settings(context.obj.sources(context.params))
    if not settings.server or not settings.has_credential:
        return
    from devroute.agent.api_client import fetch

    try:
        document = asyncio.run(fetch(settings, "/api/status"))
        typer.echo(f"server   {cell(document.get('version'))} at {settings.server}")
    except DevrouteError as error:
        typer.echo(f"server   unknown: {error.message}")


def _row(laptop: dict[str, object]) -> dict[str, object]:
    """A laptop of the API as a line of `ls`: its services as people write them."""
    services = laptop.get("services")
    if not isinstance(services, list):
        return laptop
    served = [
        f"{each.get('service')} ({each.get('address') or each.get('via')})" for each in objects(services)
    ]
    return laptop | {"services": served}
