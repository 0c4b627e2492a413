"""`devroute demo`: all of it on one machine."""

import asyncio
from typing import Annotated

import typer

from devroute.cli.exit_codes import exits_with_code


@exits_with_code
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="leave it running and print curl lines to try")
    ] = False,
) -> int:
    """Show it all on this machine, on real Envoy.

    \b
    Example: devroute demo --keep
    """
    from devroute.mesh import demo as shown

    return asyncio.run(shown.run(keep))
