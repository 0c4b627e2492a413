"""`devroute expect`: waits until a laptop or version answers at the services named, for CI."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from devroute.cli.config.sources import client_settings
from devroute.cli.connection import Server, Token, connecting
from devroute.cli.curl import CONTRACT_VARIABLE, Contract, expectation
from devroute.cli.exit_codes import NOT_AS_EXPECTED, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.output import Output, print_json
from devroute.errors import ConfigInvalid, ContractInvalid

if TYPE_CHECKING:
    from devroute.agent.expectation import Awaited, Expectation
    from devroute.agent.settings import ClientSettings


@exits_with_code
@connecting
def expect(
    context: typer.Context,
    expected: Annotated[
        list[str], argument("Who has to answer: a laptop, version:NAME or service", "SERVICE=WHO...")
    ],
    url: Annotated[
        str | None, option("URL that leads to the services; default: the server's entry_url", "URL")
    ] = None,
    timeout: Annotated[float, option("How long to wait", "SECONDS", min=0, max=3600)] = 60.0,
    contract: Contract = None,
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> int:
    """Wait until a laptop or version answers at the services named, or report who did.

    Sends GET requests to the URL until each response comes from whom it is expected from. Their contract is
    what is expected, unless --contract is given or DEVROUTE_CONTRACT is set. The exit code is 0, 110 if
    another one responded until the end of the time, 40 if no one could be asked.

    \b
    Example: devroute expect b=alice --timeout 60
    Example: devroute expect b=ci--1234 c=version:v2 --url http://a.qa.example/ --output json
    """
    wanted = [expectation(each) for each in expected]
    settings = context.obj.settings(client_settings, context.params)
    given = contract or context.obj.environment.get(CONTRACT_VARIABLE)
    found = asyncio.run(_wait(settings, url, given, wanted, timeout))
    _print(found, as_json=settings.output == "json")
    return NOT_AS_EXPECTED if found.unmet else 0


async def _wait(
    settings: "ClientSettings",
    url: str | None,
    contract: str | None,
    expected: "list[Expectation]",
    seconds: float,
) -> "Awaited":
    from devroute.agent.api_client import fetch
    from devroute.agent.expectation import contract_for, wait_for
    from devroute.agent.mesh_request import MeshRequest, entry_url
    from devroute.agent.token_source import with_fetched_token
    from devroute.contract.verifier import check_written

    contract = contract or contract_for(expected)
    try:
        check_written(contract)
    except ContractInvalid as mistake:  # a sidecar would refuse it each time
        raise ConfigInvalid(f"contract: {mistake.message}", hint=mistake.hint) from None
    settings = await with_fetched_token(settings)
    if url is None:
        entries = (await fetch(settings, "/api/status")).get("entries")
        url = entry_url(entries, [service for service, _ in expected])
    request = MeshRequest(url, contract)
    return await wait_for(settings, request, expected, seconds)


def _print(found: "Awaited", *, as_json: bool) -> None:
    from devroute.agent import trace_report

    traced = found.traced
    if as_json:
        waited = {"unmet": found.unmet, "requests": found.requests, "waited_s": found.waited_s}
        print_json(trace_report.as_document(traced) | waited)
        return
    for line in found.unmet:
        typer.echo(f"devroute: {line}", err=True)
    if found.unmet:
        for line in trace_report.lines(traced.hops):
            typer.echo(f"devroute: {line}", err=True)
    typer.echo(trace_report.summary(traced.hops, traced.services), err=bool(found.unmet))
