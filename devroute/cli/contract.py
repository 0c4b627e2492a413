"""`devroute contract`: explains contracts, and saves them under a name at the server."""

from collections.abc import Iterator, Mapping
from typing import Annotated
from urllib.parse import quote

import typer

from devroute.cli.connection import Server, Token, ask, connecting
from devroute.cli.durations import seconds_of
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import argument, group, option
from devroute.cli.output import Output, print_json
from devroute.cli.sign import Text, check
from devroute.cli.status import in_words
from devroute.cli.table import cell, objects, table
from devroute.contract import grammar
from devroute.contract.name import SIGN, parse_name

contract_app = group("Explain contracts, and save them under a name.")
contract_app.command("check")(check)

#: Where the server has them.
_PATH = "/api/contracts"

Name = Annotated[str, argument("Name of a saved contract, with or without @", "NAME")]
Ttl = Annotated[str, option("How long it is kept, such as 30m, 8h or 7d; at most 30d", "TIME")]


@contract_app.command("save")
@exits_with_code
@connecting
def save(
    context: typer.Context,
    name: Name,
    text: Text,
    ttl: Ttl = "8h",
    server: Server = None,
    token: Token = None,
    output: Output = None,
) -> None:
    """Save a contract under a name, which can be sent in its place.

    Saving under a name of your own again replaces its contract. Others may use it within their own
    permissions.

    \b
    Example: devroute contract save checkout '{"b": "alice", "c": "version:v2"}' --ttl 8h
    Example: devroute contract save checkout "$(devroute sign '{"b": "alice"}' --ttl 8h)"
    """
    name, seconds = parse_name(name), seconds_of(ttl, "--ttl")
    from devroute.routing.named_contracts import MAX_TTL_S

    if seconds > MAX_TTL_S:
        raise typer.BadParameter(f"'{ttl}' is too long: at most {MAX_TTL_S // 86_400}d", param_hint="--ttl")
    if not grammar.is_signed(text):  # a mistake is explained here, as contract check does
        grammar.parse(text, grammar.WIDEST_LIMITS)
    document = ask(context, "PUT", _path(name), {"contract": text, "ttl_s": seconds})
    if context.params["output"] == "json":
        print_json(document)
        return
    verb = "replaced" if document.get("replaced") else "saved"
    typer.echo(f"{verb} {SIGN}{name}, for {_left(document)}")
    typer.echo("\n".join(_sentences(document)))
    typer.echo(f"send it: -H 'X-devroute: {SIGN}{name}', or devroute curl --contract {SIGN}{name}")


@contract_app.command("list")
@exits_with_code
@connecting
def list_(context: typer.Context, server: Server = None, token: Token = None, output: Output = None) -> None:
    """List the saved contracts of everyone.

    \b
    Example: devroute contract list --output json
    """
    document = ask(context, "GET", _PATH)
    if context.params["output"] == "json":
        print_json(document)
        return
    rows = [_row(each) for each in objects(document.get("contracts"))]
    none = "no contract is saved; save one with: devroute contract save NAME CONTRACT"
    typer.echo(table(rows) if rows else none)


@contract_app.command("show")
@exits_with_code
@connecting
def show(
    context: typer.Context, name: Name, server: Server = None, token: Token = None, output: Output = None
) -> None:
    """Show what a name stands for, who saved it, and for how long.

    \b
    Example: devroute contract show checkout
    """
    name = parse_name(name)
    document = ask(context, "GET", _path(name))
    if context.params["output"] == "json":
        print_json(document)
        return
    signed = ", signed" if document.get("signed") else ""
    typer.echo(f"{SIGN}{name}, saved by {cell(document.get('owner'))}{signed}; expires in {_left(document)}")
    typer.echo(cell(document.get("contract")))
    typer.echo("\n".join(_sentences(document)))


@contract_app.command("delete")
@exits_with_code
@connecting
def delete(
    context: typer.Context, name: Name, server: Server = None, token: Token = None, output: Output = None
) -> None:
    """Delete a saved contract of your own.

    Administrators (admins in the policy) may delete those of others.

    \b
    Example: devroute contract delete checkout
    """
    name = parse_name(name)
    document = ask(context, "DELETE", _path(name))
    if context.params["output"] == "json":
        print_json(document)
        return
    typer.echo(
        f"deleted {SIGN}{name} of {cell(document.get('owner'))}; requests with it get an error within 1 s"
    )


def _path(name: str) -> str:
    return f"{_PATH}/{quote(name)}"


# --- showing ------------------------------------------------------------------------------------------------


def _left(document: Mapping[str, object]) -> str:
    seconds = document.get("expires_in_s")
    return in_words(seconds) if isinstance(seconds, int | float) else "an unknown time"


def _sentences(document: Mapping[str, object]) -> Iterator[str]:
    lines = document.get("explanation")
    for each in lines if isinstance(lines, list) else []:
        yield f"  {cell(each)}"


def _row(contract: dict[str, object]) -> dict[str, object]:
    services = contract.get("services")
    targets = [f"{key}={target}" for key, target in services.items()] if isinstance(services, dict) else []
    return {
        "name": f"{SIGN}{contract.get('name')}",
        "owner": contract.get("owner"),
        "services": targets,
        "expires_in": _left(contract),
        "signed": contract.get("signed"),
    }
