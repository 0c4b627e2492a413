"""`devroute token`: creates, lists and revokes the static tokens in the proxy's token file.

The file holds only hashes, and its comments stay. A running proxy reads it again by itself.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from devroute.auth.tokens import TokenRecord, Tokens, new_token
from devroute.cli.config.yaml_edit import without_items
from devroute.cli.durations import parse_duration
from devroute.cli.exit_codes import exits_with_code
from devroute.cli.help import argument, group, option
from devroute.cli.invocation import read_text, replace_file, require_text
from devroute.cli.output import Output, print_json, wants_json
from devroute.cli.table import table
from devroute.errors import ConfigInvalid, NotFound

token_app = group("Create, list and revoke tokens for laptops.")

File = Annotated[Path, option("Token file of the proxy", "FILE")]
DEFAULT_FILE: Final = Path("tokens.yaml")

#: A hundred years: later dates are more than YAML can hold.
MAX_TTL: Final = timedelta(days=36_500)


@token_app.command("new")
@exits_with_code
def token_new(
    name: Annotated[str, argument("Subject of the token; it owns the laptop names NAME and NAME--*", "NAME")],
    file: File = DEFAULT_FILE,
    ttl: Annotated[str | None, option("Lifetime of the token; default: unlimited", "30d|12h|90m")] = None,
) -> None:
    """Create a token, and print its secret once.

    The file keeps only a hash of the secret.

    \b
    Example: devroute token new alice --ttl 30d --file tokens.yaml
    """
    now = datetime.now(UTC)
    expires = None if ttl is None else (now + _duration(ttl)).isoformat()
    secret, record = new_token(name, created=now.date().isoformat(), expires=expires)
    known = read_text(file) or ""
    Tokens.parse(known, str(file))
    joined = known + ("\n" if known and not known.endswith("\n") else "") + record.as_yaml()
    if record not in Tokens.parse(joined, str(file)).records:
        raise ConfigInvalid(f"{file}: the new token cannot be added to it")
    replace_file(file, joined)
    typer.echo(secret)
    typer.echo(f"added to {file} (as a hash); give the line above to {name}, it is not shown again", err=True)


@token_app.command("list")
@exits_with_code
def token_list(file: File = DEFAULT_FILE, output: Output = None) -> None:
    """List the tokens with their subjects, ids and lifetimes.

    \b
    Example: devroute token list --file tokens.yaml
    """
    as_json = wants_json(output)
    now = datetime.now(UTC).timestamp()
    rows = [_row(record, now) for record in _records(file)]
    if as_json:
        print_json({"tokens": rows})
    else:
        typer.echo(table(rows) if rows else f"{file} has no tokens; make one with: devroute token new NAME")


@token_app.command("revoke")
@exits_with_code
def token_revoke(
    who: Annotated[str, argument("Subject, for all of its tokens, or the id of one", "NAME|ID")],
    file: File = DEFAULT_FILE,
) -> None:
    """Revoke tokens; tunnels that use them end within seconds.

    \b
    Example: devroute token revoke alice --file tokens.yaml
    """
    records = _records(file)
    gone = [record for record in records if record.id == who] or [
        record for record in records if record.subject == who
    ]
    if not gone:
        raise NotFound(
            f"{file}: no token belongs to '{who}' or has that id",
            hint=f"devroute token list --file {file} shows them",
        )
    positions = [position for position, record in enumerate(records) if record in gone]
    replace_file(file, without_items(read_text(file) or "", positions, str(file)))
    for record in gone:
        typer.echo(f"revoked {record.id} of {record.subject}", err=True)


def _records(file: Path) -> tuple[TokenRecord, ...]:
    text = require_text(file, "--file names the proxy's token file")
    return Tokens.parse(text, str(file)).records


def _row(record: TokenRecord, now: float) -> dict[str, object]:
    expired = record.expiry is not None and record.expiry <= now
    return {
        "subject": record.subject,
        "id": record.id,
        "created": record.created or None,
        "expires": record.expires,
        "state": "expired" if expired else "in force",
    }


def _duration(text: str) -> timedelta:
    seconds = parse_duration(text)
    if seconds is None or (span := timedelta(seconds=seconds)) > MAX_TTL:
        raise ConfigInvalid(f"--ttl: '{text}' is not a time; write it like 30d, 12h or 90m")
    return span
