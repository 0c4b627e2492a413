"""`devroute demo`: a small mesh on this machine."""

import asyncio
from typing import Annotated

import typer

from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.contract.target import Malformed, check_label


@exits_with_code
def demo(
    keep: Annotated[
        bool, option("Leave it running, and print how to bring in your own code", None, "--keep")
    ] = False,
    service: Annotated[str, option("Name of the service between a and c, as yours is called", "NAME")] = "b",
) -> int:
    """Run a small mesh with real Envoy on this machine, and send requests through it.

    With --keep, devroute up in another terminal makes any app of yours a part of it, and a page shows the way
    of each request.

    \b
    Example: devroute demo --keep
    Example: devroute demo --keep --service orders
    """
    from devroute.mesh.demo import app
    from devroute.mesh.demo.mesh import FIRST, LAST

    try:
        check_label(service, "a service's name")
    except Malformed as problem:
        raise typer.BadParameter(str(problem), param_hint="--service") from None
    if service in (FIRST, LAST):
        raise typer.BadParameter(f"the demo has a service '{service}' of its own", param_hint="--service")
    return asyncio.run(app.run(keep, service))
