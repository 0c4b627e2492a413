"""Flags that `devroute proxy` and `devroute manifests install` share: settings of the proxy."""

from typing import Annotated, Final

from devroute.cli.help import option

EntryUrls = Annotated[
    list[str] | None, option("Where people call the mesh, for what laptops print; repeatable", "[NAME=]URL")
]
ENTRY_LINKS: Final = option("The gateway at these URLs has the edge's filter", None, "--entry-links")
OtlpEndpoint = Annotated[
    str | None, option("Collector that gets the spans of sampled requests, by OTLP/HTTP", "URL")
]
