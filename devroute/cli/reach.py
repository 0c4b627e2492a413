"""`devroute reach`: a local port by which browsers, Postman or curl call services of the mesh."""

from typing import Annotated

import typer

from devroute.cli.config.sources import reach_settings
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.invocation import Invocation
from devroute.cli.output import Output
from devroute.cli.up import Inspector, Name, ReachDirect, run_agent


@exits_with_code
@connecting
def reach(
    context: typer.Context,
    reach: Annotated[
        list[str] | None, argument("Service with a local port of its own", "[PORT=]NAME:PORT")
    ] = None,
    reach_port: Annotated[
        str | None,
        option("Port for SOCKS and HTTP proxies; default: the first free one from 1080", "PORT", "--port"),
    ] = None,
    reach_direct: ReachDirect = None,
    server: Server = None,
    token: Token = None,
    name: Name = None,
    inspector: Inspector = None,
    output: Output = None,
) -> int:
    """Call services of the mesh from this laptop, by one local port that is a SOCKS and an HTTP proxy.

    It serves nothing; a devroute up may run beside it.

    \b
    Example: devroute reach
    Example: devroute reach 9002=c.shop:80 tcp://orders-db:5432
    """
    invocation: Invocation = context.obj
    settings = invocation.settings(reach_settings, context.params)
    return run_agent(settings, invocation.state_folder)
