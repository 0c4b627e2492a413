"""`devroute proxy`: the proxy in the mesh."""

from pathlib import Path
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.config.sources import proxy_settings
from devroute.cli.exit_codes import exits_with_code


@exits_with_code
def proxy(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="address to listen on, for all three ports")] = None,
    data_port: Annotated[int | None, typer.Option(help="for detoured requests; 0 takes a free one")] = None,
    control_port: Annotated[int | None, typer.Option(help="for sidecars and laptops")] = None,
    admin_port: Annotated[int | None, typer.Option(help="for health checks and metrics")] = None,
    policy: Annotated[Path | None, typer.Option(help="what may be detoured, and to where")] = None,
    tokens: Annotated[Path | None, typer.Option(help="who may register laptops")] = None,
    contract_keys: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="who may sign contracts (a JWKS)")
    ] = None,
    mesh_egress: Annotated[
        str | None,
        typer.Option(metavar="URL", help="the own sidecar's way into the mesh, for --except-status"),
    ] = None,
    audit: Annotated[
        str | None, typer.Option(metavar="-|FILE|off", help="who was let in, refused, and sent where")
    ] = None,
    log_format: Annotated[str | None, typer.Option(**one_of("json", "console"))] = None,
    log_level: Annotated[str | None, typer.Option(**one_of("debug", "info", "warning", "error"))] = None,
) -> int:
    """Run the proxy in the mesh.

    \b
    Example: devroute proxy --policy policy.yaml --tokens tokens.yaml
    """
    flags = {
        "data_host": host,
        "control_host": host,
        "admin_host": host,
        "data_port": data_port,
        "control_port": control_port,
        "admin_port": admin_port,
        "policy": policy,
        "tokens": tokens,
        "contract_keys": contract_keys,
        "mesh_egress": mesh_egress,
        "audit": audit,
        "log_format": log_format,
        "log_level": log_level,
    }
    settings = proxy_settings(context.obj.sources(flags))
    from devroute.proxy import app as server

    return server.run(settings)
