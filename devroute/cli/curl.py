"""`devroute curl`: runs curl with a contract for your services, and reports who answered at every hop."""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from devroute.agent.settings import ClientSettings
from devroute.cli.config.names import ENV_PREFIX
from devroute.cli.config.sources import Source, client_settings, given_settings
from devroute.cli.connection import Server, connecting
from devroute.cli.exit_codes import NOT_AS_EXPECTED, exits_with_code, print_error
from devroute.cli.help import option
from devroute.cli.invocation import Invocation
from devroute.cli.output import print_json
from devroute.errors import ConfigInvalid, DevrouteError
from devroute.headers import REASON, RESULT

#: A contract that is sent unchanged, such as a signed one, also where no server can be asked.
CONTRACT_VARIABLE: Final = ENV_PREFIX + "CONTRACT"

Detoured = Annotated[
    list[str] | None,
    option("Service to detour; repeatable; default: all of yours that are online", "SERVICE"),
]
Contract = Annotated[
    str | None,
    option("What to send instead: @NAME of a saved contract, JSON, or a signed one", "CONTRACT"),
]
Expected = Annotated[
    list[str] | None,
    option("Who has to answer: a laptop, version:NAME or service; repeatable", "SERVICE=WHO"),
]
Format = Annotated[
    str | None, option("text, or json for scripts; in front of a file it is curl's own", "text|json")
]


@connecting
@exits_with_code
def curl(
    context: typer.Context,
    service: Detoured = None,
    contract: Contract = None,
    expect: Expected = None,
    server: Server = None,
    output: Format = None,
) -> int:
    """Send a request by curl with a contract for your services, and report who answered at every hop.

    All other arguments and the exit code are curl's; it is 110 if another one answered than --expect names.
    If --contract is given or DEVROUTE_CONTRACT is set, that contract is sent. With --output json,
    standard output is the report alone; the response's body is in its member "output".

    \b
    Example: devroute curl http://a.qa.example/
    Example: devroute curl --contract @checkout http://a.qa.example/
    Example: devroute curl --service b -i -X POST http://a.qa.example/orders -d '{}'
    Example: devroute curl --expect b=alice -sf http://a.qa.example/
    """
    invocation: Invocation = context.obj
    program = shutil.which("curl")
    if program is None:
        raise ConfigInvalid("curl is not installed", hint="install it in a folder of PATH")
    if not context.args:
        raise typer.BadParameter("give a URL, and any of curl's options")
    if contract and service:
        raise typer.BadParameter("name the services in --contract, or leave that out", param_hint="--service")
    expected = [expectation(each) for each in expect or []]
    parameters, arguments = context.params, list(context.args)
    if output not in (None, "text", "json"):
        parameters, arguments = {**parameters, "output": None}, ["--output", str(output), *arguments]
    sources = invocation.sources(parameters)
    as_json = given_settings(sources).output == "json"
    settings, contract = _server(sources), contract or invocation.environment.get(CONTRACT_VARIABLE)
    if settings is None and (contract is None or expected or as_json):
        client_settings(sources)  # raises what is missing
    contract = contract or asyncio.run(_own_contract(sources, service or []))
    return _Run(program, contract, settings, expected, as_json)(arguments)


def expectation(text: str) -> tuple[str, str]:
    """Who is expected where, of SERVICE=WHO. Raises BadParameter."""
    service, equals, who = text.partition("=")
    if not (service and equals and who):
        raise typer.BadParameter("write SERVICE=WHO, such as b=alice", param_hint="SERVICE=WHO")
    return service, who


def _server(sources: list[Source]) -> ClientSettings | None:
    """None if no server is configured."""
    try:
        return client_settings(sources)
    except ConfigInvalid:
        return None


@dataclass(frozen=True, slots=True)
class _Run:
    """One run of curl. `settings`: of the server that reports the hops, if there is one."""

    program: str
    contract: str
    settings: ClientSettings | None
    expected: Sequence[tuple[str, str]]
    as_json: bool

    def __call__(self, arguments: Sequence[str]) -> int:
        """The exit code. Raises what the server has against it, before the request is sent, if the hops are
        needed."""
        from devroute.agent import trace, trace_report

        with tempfile.TemporaryDirectory(prefix="devroute-") as folder:  # ps would show a signed contract
            header, heads = Path(folder, "contract"), Path(folder, "heads")
            header.write_text(f"X-devroute: {self.contract}\n", encoding="utf-8")
            own = {"-D", "--dump-header"} & set(arguments)
            dump = [] if own else ["--dump-header", str(heads)]
            command, trace_id = [self.program, *dump, "--header", f"@{header}"], trace.new_trace()
            command = [*trace.with_trace_headers(command, trace_id), *arguments]
            try:
                traced = asyncio.run(trace.run(self.settings, trace_id, command, capture=self.as_json))
            except DevrouteError as error:  # nothing was sent
                if self.expected or self.as_json:
                    raise
                print_error(error)
                traced = asyncio.run(trace.run(None, trace_id, command))
            text = heads.read_text("latin-1") if heads.exists() else ""
        unmet = trace_report.unmet_expectations(traced.hops, self.expected)
        if traced.problem is not None:
            print_error(traced.problem)
        if self.as_json:
            print_json(trace_report.as_document(traced) | {"unmet": unmet})
        else:
            lines = trace_report.lines(traced.hops) if traced.hops else []
            last = trace_report.summary(traced.hops, traced.services) if traced.hops else responder_in(text)
            for line in [*lines, *unmet, *([last] if traced.hops or text else [])]:
                typer.echo(f"devroute: {line}", err=True)
        return traced.exit_code or (NOT_AS_EXPECTED if unmet else 0)


async def _own_contract(sources: list[Source], services: list[str]) -> str:
    from devroute.agent.own_contract import own_contract

    return await own_contract(client_settings(sources), given_settings(sources).name, services)


def responder_in(heads: str) -> str:
    """Who answered at the service that was asked, by the response heads that curl has dumped; the last one
    counts."""
    fields: dict[str, str] = {}
    for line in heads.splitlines():
        name, colon, value = line.partition(":")
        if line.startswith("HTTP/"):
            fields = {}
        elif colon:
            fields[name.strip().lower()] = "".join(c for c in value.strip() if c.isprintable())
    result, reason = fields.get(RESULT), fields.get(REASON)
    if result is None:
        return "no sidecar with devroute's filter saw the contract"
    who = {"laptop": "a laptop answered", "version": "another version answered", "error": "an error"}
    text = who.get(result, "the mesh's own service answered")
    return f"{text} at the first service ({result}{': ' + reason if reason else ''})"
