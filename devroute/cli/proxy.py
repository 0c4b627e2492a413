"""`devroute proxy`: runs the proxy in the mesh."""

from pathlib import Path
from typing import Annotated

import typer

from devroute.cli.completion import one_of
from devroute.cli.config.sources import proxy_settings
from devroute.cli.exit_codes import exits_with_code


@exits_with_code
def proxy(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on, for all three ports")] = None,
    data_port: Annotated[
        int | None, typer.Option(help="Port for detoured requests; 0 takes a free one")
    ] = None,
    control_port: Annotated[int | None, typer.Option(help="Port for sidecars and laptops")] = None,
    admin_port: Annotated[int | None, typer.Option(help="Port for health checks and metrics")] = None,
    policy: Annotated[
        Path | None, typer.Option(help="Policy file: what may be detoured, and to where")
    ] = None,
    tokens: Annotated[Path | None, typer.Option(help="Token file: who may register laptops")] = None,
    contract_keys: Annotated[
        str | None, typer.Option(metavar="FILE|URL", help="JWKS: who may sign contracts")
    ] = None,
    mesh_egress: Annotated[
        str | None,
        typer.Option(metavar="URL", help="URL of the proxy's own sidecar, for up --except-status"),
    ] = None,
    audit: Annotated[
        str | None,
        typer.Option(metavar="-|FILE|off", help="Audit trail: who was admitted, refused, and sent where"),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(**one_of("json", "console"), help="Format of the log")
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(**one_of("debug", "info", "warning", "error"), help="Least level that is logged"),
    ] = None,
) -> int:
    """Run the proxy in the mesh.

    \b
    Example: devroute proxy --policy policy.yaml --tokens tokens.yaml
    """
    # Longer than 40 lines: one parameter per flag.
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
