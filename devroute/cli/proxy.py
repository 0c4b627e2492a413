"""`devroute proxy`: runs the proxy in the mesh."""

from pathlib import Path
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.config.sources import proxy_settings
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import option
from devroute.cli.proxy_options import ENTRY_LINKS, EntryUrls, OtlpEndpoint
from devroute.platforms import without_collections


@exits_with_code
def proxy(
    context: typer.Context,
    host: Annotated[str | None, option("Address to listen on, for all three ports", "ADDRESS")] = None,
    data_port: Annotated[int | None, option("Port for detoured requests; 0 takes a free one", "PORT")] = None,
    control_port: Annotated[int | None, option("Port for sidecars and laptops", "PORT")] = None,
    admin_port: Annotated[int | None, option("Port for health checks and metrics", "PORT")] = None,
    registry: Annotated[
        str | None,
        option("Where laptops are registered: here, or in Redis, for several replicas", "memory|URL"),
    ] = None,
    policy: Annotated[Path | None, option("Policy file: what may be detoured, and to where", "FILE")] = None,
    tokens: Annotated[Path | None, option("Token file: who may register laptops", "FILE")] = None,
    contract_keys: Annotated[str | None, option("JWKS: who may sign contracts", "FILE|URL")] = None,
    mesh_egress: Annotated[
        str | None, option("URL of the proxy's own sidecar, for --except-status and --reach", "URL")
    ] = None,
    entry_url: EntryUrls = None,
    entry_links: Annotated[bool | None, ENTRY_LINKS] = None,
    audit: Annotated[
        str | None, option("Audit trail: who was admitted, refused, and sent where", "-|FILE|off")
    ] = None,
    otlp_endpoint: OtlpEndpoint = None,
    log_format: Annotated[str | None, option("Format of the log", **one_of("json", "console"))] = None,
    log_level: Annotated[
        str | None, option("Lowest level that is logged", **one_of("debug", "info", "warning", "error"))
    ] = None,
) -> int:
    """Run the proxy in the mesh.

    \b
    Example: devroute proxy --policy policy.yaml --tokens tokens.yaml
    """
    # Longer than 40 lines: one parameter per flag.
    hosts = dict.fromkeys(("data_host", "control_host", "admin_host"), host)
    settings = proxy_settings(context.obj.sources(hosts | context.params))
    with without_collections():
        from devroute.log import import_structlog

        import_structlog()
        from devroute.proxy import app as server
    return server.run(settings)
