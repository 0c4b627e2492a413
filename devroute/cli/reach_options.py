"""The flags that `up` and `reach` have in common."""

from typing import Annotated

from devroute.cli.help import option

ReachDirect = Annotated[
    bool | None,
    option("Let names outside of the mesh pass it by, at the port for proxies", None, "--reach-direct"),
]
ReachContract = Annotated[
    bool | None,
    option("Add my contract to requests that belong to none", None, "--reach-contract"),
]
