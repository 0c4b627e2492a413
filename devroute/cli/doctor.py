"""`devroute doctor`: prints what agent/doctor/checks.py finds, a line for each check, with its remedy."""

import asyncio
import json
import re
from collections.abc import Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Annotated, Final
from urllib.parse import urlsplit

import typer

from devroute.agent.settings import AgentSettings
from devroute.agent.tls import tls_for_server
from devroute.cli.config.sources import client_settings, given_settings
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.exit_codes import exit_code_for, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.output import Output
from devroute.errors import ConfigInvalid, TokenExpired
from devroute.quoting import quote

if TYPE_CHECKING:
    from devroute.agent.doctor.finding import Finding

#: Colours of the results, where there are colours.
_COLOURS: Final[Mapping[str, str]] = {"ok": "green", "warn": "yellow", "fail": "red", "skip": "bright_black"}


@connecting
@exits_with_code
def doctor(
    context: typer.Context,
    url: Annotated[str | None, argument("URL in the mesh to which one request is sent", "[URL]")] = None,
    services: Annotated[
        list[str] | None,
        option(
            "Service to check instead of those in ./devroute.yaml; repeatable", "SERVICE=PORT", "--service"
        ),
    ] = None,
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> int:
    """Check everything that this laptop's first request needs, and print what to do about each fault.

    In this order: configuration, DNS, TLS, token, version, tunnel, local ports, a round trip through the mesh
    (with a URL), clock. The exit code is that of the first check that failed.

    \b
    Example: devroute doctor
    Example: devroute doctor http://a.qa.example/ --service b=8001
    """
    if url is not None:
        _check_url(url)
    sources = context.obj.sources({name: value for name, value in context.params.items() if name != "url"})
    settings = given_settings(sources)
    try:
        tls_for_server(client_settings(sources))
    except TokenExpired:
        pass  # the check of TLS says so
    except ConfigInvalid as error:
        from devroute.agent.doctor.checks import unconfigured

        for finding in unconfigured(error):
            _print(settings, finding)
        return exit_code_for(error)
    named = ", ".join(source.name for source in sources if any(source.values.values()))
    return asyncio.run(_examine(settings, url, named))


def _check_url(url: str) -> None:
    """Raises BadParameter for what no request can be sent to."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable() or " " in url:
        like = (
            f"http://{url}"
            if re.fullmatch(r"[\w.-]+\.[\w.-]+(:\d+)?(/\S*)?", url)
            else "http://a.qa.example/"
        )
        raise typer.BadParameter(
            f"{quote(url)} is not a URL in the mesh; write one like {like}", param_hint="URL"
        )


async def _examine(settings: AgentSettings, url: str | None, named: str) -> int:
    from devroute.agent.doctor.checks import Doctor
    from devroute.agent.doctor.finding import Finding

    code = 0
    _print(settings, Finding("configuration", "ok", f"{settings.server}, from {named}"))
    async with aclosing(Doctor(settings, url).examine()) as findings:  # in order, also if a pipe is closed
        async for finding in findings:
            _print(settings, finding)
            if finding.error is not None and not code:
                code = exit_code_for(finding.error)
    return code


def _print(settings: AgentSettings, finding: "Finding") -> None:
    if settings.output == "json":
        typer.echo(json.dumps(finding.as_dict()))
        return
    typer.secho(f"{finding.result:<4}", fg=_COLOURS[finding.result], nl=False)
    typer.echo(f"  {finding.check:<13}  {finding.text}")
    for line in finding.remedy.splitlines():
        typer.echo(" " * 21 + line)
