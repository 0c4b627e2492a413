"""`devroute demo`: a small mesh on this machine."""

import asyncio
from typing import Annotated

from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option


@exits_with_code
def demo(
    keep: Annotated[bool, option("Leave it running, and print curl commands to try", None, "--keep")] = False,
) -> int:
    """Run a small mesh with real Envoy on this machine, and send requests through it.

    \b
    Example: devroute demo --keep
    """
    from devroute.mesh import demo as shown

    return asyncio.run(shown.run(keep))
