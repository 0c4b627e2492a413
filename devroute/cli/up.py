"""`devroute up`: receives requests for services on this laptop, and runs the app beside it."""

import asyncio
from typing import Annotated

import typer

from devroute.cli.config.sources import agent_settings
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.invocation import Invocation
from devroute.cli.output import Output


@exits_with_code
@connecting
def up(
    context: typer.Context,
    services: Annotated[
        list[str] | None,
        typer.Argument(metavar="SERVICE=PORT", help="Service, and the app's local port or URL"),
    ] = None,
    server: Server = None,
    token: Token = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the laptop; default: your own [DEVROUTE_NAME]")
    ] = None,
    direct: Annotated[
        str | None,
        typer.Option(
            metavar="HOST[:PORT]", help="Address to which requests are sent directly, without the tunnel"
        ),
    ] = None,
    only_path: Annotated[
        list[str] | None,
        typer.Option(metavar="/PATH", help="Receive only requests below this path; repeatable"),
    ] = None,
    except_status: Annotated[
        str | None,
        typer.Option(metavar="404,503", help="On these statuses the service in the mesh responds instead"),
    ] = None,
    except_methods: Annotated[
        str | None,
        typer.Option(metavar="GET,POST", help="Methods for --except-status; default: the idempotent ones"),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(metavar="25%", help="Only compare: receive copies of this share of the requests"),
    ] = None,
    shadow_methods: Annotated[
        str | None,
        typer.Option(
            metavar="GET,POST", help="Methods that are copied; default: the safe ones (GET, HEAD, ...)"
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(metavar="$.PATH|HEADER", help="Differences to ignore with --shadow; repeatable"),
    ] = None,
    inspector: Annotated[
        str | None,
        typer.Option(metavar="PORT|off", help="Port of the inspector; default: the first free one from 4040"),
    ] = None,
    output: Output = None,
) -> int:
    """Receive requests for services on this laptop.

    The command after -- is run as the app, and its exit code is passed on.

    \b
    Example: devroute up foo=8001 bar=grpc://localhost:9000 -- uvicorn app:app
    Example: devroute up foo=8001 --only-path /api/ --except-status 404,503
    Example: devroute up foo=8001 --shadow 25% --ignore '$.timestamp'
    """
    # Longer than 40 lines: one parameter per flag.
    invocation: Invocation = context.obj
    flags = {
        "services": services or None,
        "server": server,
        "token": token,
        "name": name,
        "direct": direct,
        "only_path": only_path or None,
        "except_status": except_status,
        "except_methods": except_methods,
        "shadow": shadow,
        "shadow_methods": shadow_methods,
        "ignore": ignore or None,
        "inspector": inspector,
        "output": output,
    }
    settings = agent_settings(invocation.sources(flags)).model_copy(update={"command": invocation.command})
    from devroute import log
    from devroute.agent import app
    from devroute.platforms import loop_factory

    log.configure("console", "warning")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(app.run(settings))
