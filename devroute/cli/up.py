"""`devroute up`: the laptop answers for its services, and the app runs with it."""

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
        list[str] | None, typer.Argument(metavar="SERVICE=PORT", help="service and local port, or URL")
    ] = None,
    server: Server = None,
    token: Token = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="the laptop's, if not the token's [DEVROUTE_NAME]")
    ] = None,
    direct: Annotated[
        str | None, typer.Option(metavar="HOST[:PORT]", help="have requests sent here, not through a tunnel")
    ] = None,
    only_path: Annotated[
        list[str] | None, typer.Option(metavar="/PATH", help="take only requests under it; repeatable")
    ] = None,
    except_status: Annotated[
        str | None, typer.Option(metavar="404,503", help="hand such answers back: the real service answers")
    ] = None,
    except_methods: Annotated[
        str | None,
        typer.Option(metavar="GET,POST", help="which may be asked twice; default all that are idempotent"),
    ] = None,
    shadow: Annotated[
        str | None,
        typer.Option(metavar="25%", help="the real service answers; compare copies with its answers"),
    ] = None,
    shadow_methods: Annotated[
        str | None, typer.Option(metavar="GET,POST", help="which may be copied; default GET and the like")
    ] = None,
    ignore: Annotated[
        list[str] | None, typer.Option(metavar="$.PATH|HEADER", help="what may differ; repeatable")
    ] = None,
    inspector: Annotated[
        str | None, typer.Option(metavar="PORT|off", help="where the inspector is; default 4040 or above")
    ] = None,
    output: Output = None,
) -> int:
    """Answer requests for services on this laptop.

    What stands after -- is run as the app, and its exit code is passed on.

    \b
    Example: devroute up foo=8001 bar=grpc://localhost:9000 -- uvicorn app:app
    Example: devroute up foo=8001 --only-path /api/ --except-status 404,503
    Example: devroute up foo=8001 --shadow 25% --ignore '$.timestamp'
    """
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
