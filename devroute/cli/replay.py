"""`devroute replay`: sends recorded requests to the local app, for people and for CI."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

import typer

from devroute.cli.config.sources import Source, given_settings
from devroute.cli.exit_codes import FAILURE, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.invocation import Invocation
from devroute.cli.output import Output, print_json, wants_json
from devroute.cli.table import cell
from devroute.contract.service_spec import ServiceSpec
from devroute.contract.target import Malformed
from devroute.errors import ConfigInvalid
from devroute.quoting import quote

if TYPE_CHECKING:
    from devroute.inspector.regression import EntryResult

#: Larger files are refused: they are read into memory as a whole.
MAX_FILE_BYTES: Final = 512 * 1024 * 1024
#: The bound of inspector/regression.py, which only the command itself imports.
MAX_CONCURRENCY: Final = 16


@exits_with_code
def replay(
    context: typer.Context,
    file: Annotated[Path, argument("Recording by the inspector, a browser, or another tool", "FILE.har")],
    to: Annotated[
        list[str] | None,
        option("App to send to; repeatable; default: the services in devroute.yaml", "[SERVICE=]PORT|URL"),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        option("Differences to ignore, such as $.items[*].id or x-build; repeatable", "PATH|HEADER"),
    ] = None,
    methods: Annotated[
        str | None, option("Methods that are sent; default: GET,HEAD,OPTIONS", "GET,POST|all")
    ] = None,
    header: Annotated[
        list[str] | None,
        option(
            "Header that replaces a recorded or redacted one; repeatable", "NAME: VALUE", "--header", "-H"
        ),
    ] = None,
    timeout: Annotated[float, option("Time limit of each request", "SECONDS", min=0.001, max=3600)] = 30.0,
    concurrency: Annotated[
        int | None,
        option("Requests at a time; default: 4, or 1 with --methods", "N", min=1, max=MAX_CONCURRENCY),
    ] = None,
    dry_run: Annotated[bool, option("Show what would be sent, and send nothing", None, "--dry-run")] = False,
    output: Output = None,
) -> int:
    """Send recorded requests to the local app, and compare its responses with the recorded ones.

    An entry that cannot be read or sent is skipped, with the reason. The exit code is 0 where all others are
    the same, 1 where one differs, 20 where nothing can be replayed.

    \b
    Example: devroute replay shop.har --to 8001 --ignore '$.timestamp' --output json
    """
    as_json = wants_json(output)
    from devroute.inspector import har_reader, regression
    from devroute.inspector.compare import IgnoreRules

    plan = regression.ReplayPlan(
        apps=_apps(to, context.obj),
        rules=IgnoreRules.parse(ignore or ()),
        methods=_methods(methods),
        headers=_headers(header or ()),
        timeout=timeout,
        dry_run=dry_run,
        concurrency=concurrency or (4 if methods is None else 1),
    )
    entries = har_reader.read(_read(file))
    results = asyncio.run(regression.run(entries, plan, (lambda _: None) if as_json else _print_result))
    totals = Counter(each.outcome for each in results)
    counts = {name: totals[name] for name in get_args(regression.Outcome)}
    if as_json:
        print_json(
            {
                "file": str(file),
                "dry_run": dry_run,
                **counts,
                "entries": [each.as_dict() for each in results],
            }
        )
    else:
        typer.echo(", ".join(f"{count} {name}" for name, count in counts.items() if count) or "no entries")
    # Longer than 40 lines: one parameter per flag.
    if counts["skipped"] == len(results):
        why = f"of the first entry: {results[0].reason}" if results else "the file has no entries"
        raise ConfigInvalid(f"{file}: none of its requests was replayed", hint=why)
    return FAILURE if counts["different"] or counts["failed"] else 0


def _read(file: Path) -> bytes:
    try:
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ConfigInvalid(f"{file}: larger than {MAX_FILE_BYTES >> 20} MiB")
        return file.read_bytes()
    except OSError as error:
        raise ConfigInvalid(f"{file}: cannot be read: {error.strerror}") from error


# --- reading the arguments


def _apps(to: list[str] | None, invocation: Invocation) -> dict[str, ServiceSpec]:
    if to is None:
        sources = [
            Source(name, {"services": values.get("services")}, own)
            for name, values, own in invocation.sources({})
        ]
        specs: Iterable[ServiceSpec] = given_settings(sources).services
        if not specs:
            raise ConfigInvalid("no app is given", hint="write --to 8001, or services in devroute.yaml")
        return {spec.service: spec for spec in specs}
    apps: dict[str, ServiceSpec] = {}
    for text in to:
        try:
            spec = ServiceSpec.parse(text if "=" in text else f"app={text}")
        except Malformed as problem:
            raise ConfigInvalid(f"--to: {str(problem).replace('app=', '', 1)}") from None
        service = spec.service if "=" in text else ""
        if service in apps:
            raise ConfigInvalid(f"--to: {quote(text)}: a second app for the same requests")
        apps[service] = spec
    return apps


def _methods(text: str | None) -> "frozenset[str] | None":
    from devroute.inspector.regression import SAFE_METHODS

    if text is None:
        return SAFE_METHODS
    methods = frozenset(text.upper().replace(",", " ").split())
    if not methods or not all(method.replace("-", "").isalpha() for method in methods):
        raise ConfigInvalid(f"--methods: {quote(text)}: write them like GET,POST, or all")
    return None if methods == {"ALL"} else methods


def _headers(texts: Sequence[str]) -> list[tuple[str, str]]:
    fields = []
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip() or not text.isprintable():
            raise ConfigInvalid(f"--header: {quote(text)}: write NAME: VALUE")
        fields.append((name.strip(), value.strip()))
    return fields


# --- showing the results


def _print_result(result: "EntryResult") -> None:
    line = f"{result.outcome:<9}  {result.method} {cell(result.target)}"
    if result.status is not None:
        line += f"  {result.status}"
    if result.ms is not None:
        line += f"  {result.ms:g} ms"
    if result.reason:
        line += f"  ({cell(result.reason)})"
    if result.outcome in ("different", "failed", "ready") and result.without:
        line += f"  sent without {cell(list(result.without))}, redacted in the file"
    typer.echo(line)
    for where, recorded, now in result.differences:
        typer.echo(f"             {cell(where)}: {_side(recorded)} -> {_side(now)}")


def _side(value: str | None) -> str:
    return "nothing" if value is None else cell(value.replace("\n", " ⏎ "))
