"""The command line. The only reader of arguments, environment and configuration files; turns errors into one
line, a hint and an exit code. Each command builds settings and calls the part that does the work; parts that
take long to import (aiohttp, structlog) are imported by the commands that need them.
"""

import asyncio
import json
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from devroute import __version__
from devroute.cli_completion import complete, completion
from devroute.cli_connection import connecting
from devroute.cli_curl import curl
from devroute.cli_doctor import doctor
from devroute.cli_help import Sections
from devroute.cli_init import init
from devroute.cli_manifests import manifests_app
from devroute.cli_policy import policy_app
from devroute.cli_replay import replay
from devroute.cli_sign import contract_app, sign, sign_key_app
from devroute.cli_token import token_app
from devroute.errors import DevrouteError
from devroute.exits import FAILURE, INTERRUPTED, reported
from devroute.invocation import Invocation
from devroute.laptop_settings import ClientSettings
from devroute.settings import (
    ENV_PREFIX,
    Source,
    agent_settings,
    client_settings,
    given_settings,
    proxy_settings,
)
from devroute.tables import cell, table

# --- errors and exit codes ----------------------------------------------------------------------------------


def main() -> None:
    """The entry point of `devroute`."""
    sys.exit(run(sys.argv[1:], os.environ))


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run one command line; returns its exit code. What stands after `--` is a command to be run."""
    own = list(arguments)
    cut = own.index("--") if own[:1] in (["up"], ["trace"]) and "--" in own else len(own)
    try:
        app(own[:cut], prog_name="devroute", obj=Invocation(environment, tuple(own[cut + 1 :])))
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILURE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001  # a person never gets a traceback they did not ask for
        if environment.get(ENV_PREFIX + "DEBUG"):
            traceback.print_exc()
        typer.echo(f"devroute: a mistake in devroute itself: {type(error).__name__}: {error}", err=True)
        typer.echo(f"  hint: please report it, with what {ENV_PREFIX}DEBUG=1 shows", err=True)
        return FAILURE
    return 0


# --- commands -----------------------------------------------------------------------------------------------

app = typer.Typer(
    cls=Sections,
    help="Make a laptop part of a service mesh, for one request at a time.",
    epilog="devroute COMMAND --help shows examples. Settings: flags, then "
    "DEVROUTE_* variables, ./devroute.yaml, ~/.config/devroute/config.yaml.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(contract_app, name="contract")
app.add_typer(sign_key_app, name="sign-key")
app.add_typer(token_app, name="token")
app.add_typer(manifests_app, name="manifests")
app.command("init")(init)
app.command("doctor")(doctor)
app.command(
    "curl",
    context_settings={
        "ignore_unknown_options": True,
        "allow_extra_args": True,
        "allow_interspersed_args": False,
    },
)(curl)
app.command("completion")(completion)
app.command("complete", hidden=True)(complete)
app.add_typer(policy_app, name="policy")

Server = Annotated[str | None, typer.Option(metavar="URL", help="of the control port [DEVROUTE_SERVER]")]
Token = Annotated[str | None, typer.Option(metavar="TOKEN", help="better in DEVROUTE_TOKEN, unseen by ps")]
Output = Annotated[str | None, typer.Option(metavar="text|json", help="for people or for scripts")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"devroute {__version__}")
        raise typer.Exit


@app.callback()
def _devroute(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    pass


@app.command("up")
@reported
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
    from devroute import agent, log
    from devroute.platforms import loop_factory

    log.configure("console", "warning")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(agent.run(settings))


@app.command("proxy")
@reported
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
    log_format: Annotated[str | None, typer.Option(metavar="json|console")] = None,
    log_level: Annotated[str | None, typer.Option(metavar="debug|info|warning|error")] = None,
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
    from devroute import proxy as server

    return server.run(settings)


@app.command("demo")
@reported
def demo(
    keep: Annotated[
        bool, typer.Option("--keep", help="leave it running and print curl lines to try")
    ] = False,
) -> int:
    """Show it all on this machine, on real Envoy.

    \b
    Example: devroute demo --keep
    """
    from devroute import demo as shown

    return asyncio.run(shown.run(keep))


@app.command("ls")
@reported
@connecting
def ls(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> None:
    """List the laptops that are online.

    \b
    Example: devroute ls --output json
    """
    from devroute.client import fetch

    settings = _client(context, server, token, output)
    answer = asyncio.run(fetch(settings, "/api/laptops"))
    if settings.output == "json":
        _print_json(answer)
        return
    laptops = answer.get("laptops")
    rows = [_row(each) for each in laptops if isinstance(each, dict)] if isinstance(laptops, list) else []
    typer.echo(table(rows) if rows else "no laptop is online; start one with: devroute up SERVICE=PORT")


@app.command("status")
@reported
@connecting
def status(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> None:
    """Say who you are to the server, and its rules.

    \b
    Example: devroute status
    """
    from devroute.client import fetch

    settings = _client(context, server, token, output)
    answer = {"server": settings.server} | asyncio.run(fetch(settings, "/api/status"))
    if settings.output == "json":
        _print_json(answer)
        return
    width = max(len(key) for key in answer)
    for key, value in answer.items():
        typer.echo(f"{key:<{width}}  {cell(value)}")


@app.command("trace", epilog="Programs: curl, wget, http, https, xh.")
@reported
@connecting
def trace_(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> int:
    """Send one request, and say which services saw its contract, and who answered.

    \b
    Example: devroute trace -- curl -H 'X-devroute: {"foo": "alice"}' http://a.qa.example/
    """
    from devroute import trace, trail

    settings = _client(context, server, token, output)
    traced = asyncio.run(trace.run(settings, context.obj.command))
    if settings.output == "json":
        _print_json(asdict(traced) | {"missed": trail.missed(traced.hops)})
    else:  # the command's own output is on stdout
        typer.echo("\n".join(trail.story(traced.trace, traced.hops, traced.total_ms)), err=True)
    return traced.exit_code


app.command("replay")(replay)
app.command("sign")(sign)


@app.command("version")
@connecting
@reported
def version(context: typer.Context, server: Server = None, token: Token = None) -> None:
    """Print the version, and the server's where it can be asked.

    \b
    Example: devroute version
    """
    typer.echo(f"devroute {__version__}")
    settings = given_settings(context.obj.sources({"server": server, "token": token}))
    if not settings.server or not settings.has_credential:
        return
    from devroute.client import fetch

    try:
        answer = asyncio.run(fetch(settings, "/api/status"))
        typer.echo(f"server   {answer.get('version')} at {settings.server}")
    except DevrouteError as error:
        typer.echo(f"server   unknown: {error.message}")


# --- helpers of the commands --------------------------------------------------------------------------------


def _client(
    context: typer.Context, server: str | None, token: str | None, output: str | None
) -> ClientSettings:
    flags = {"server": server, "token": token, "output": output}
    return client_settings(context.obj.sources(flags))


def _client_output(output: str | None) -> str:
    return given_settings([Source("command line", {"output": output})]).output


def _row(laptop: dict[str, object]) -> dict[str, object]:
    """A laptop of the API as a line of `ls`: its services as people write them."""
    services = laptop.get("services")
    if isinstance(services, list):
        served = [
            f"{each.get('service')} ({each.get('address') or each.get('via')})"
            for each in services
            if isinstance(each, dict)
        ]
        return laptop | {"services": served}
    return laptop


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2))
