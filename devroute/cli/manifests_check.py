"""`devroute manifests check`: holds a platform team's own files to Istio's rules."""

import contextlib
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from devroute.cli.exit_codes import FAILURE, exits_with_code
from devroute.cli.help import argument, option
from devroute.cli.invocation import read_input
from devroute.cli.output import Output, print_json, usage_wants_json
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.model import Document


@exits_with_code
def check(
    file: Annotated[str, argument("YAML with EnvoyFilters; - is standard input", "FILE")],
    envoy: Annotated[
        list[Path] | None, option("Another Envoy: its program, or a folder with one; repeatable", "PATH")
    ] = None,
    istio: Annotated[
        list[str] | None, option("Release to check, such as 1.30; repeatable; default: all", "RELEASE")
    ] = None,
    output: Output = None,
) -> int:
    """Check your own EnvoyFilters, and show which releases of Istio they suit.

    They are validated by the Envoy that pip installed, and by each that --envoy names. VirtualServices,
    DestinationRules, Gateways and AuthorizationPolicies are held to Istio's CRDs. The exit code is 1 if they
    do not suit.

    \b
    Example: devroute manifests check mesh.yaml
    Example: devroute manifests check mesh.yaml --istio 1.30 --envoy envoy-1.38
    """
    as_json = usage_wants_json(output)
    from devroute.mesh.preflight import check
    from devroute.mesh.preflight import report as words

    report = check.check(*read_input(file), _envoys(envoy or []), istio or ())
    if as_json:
        print_json(words.as_json(report))
    else:
        typer.echo("\n".join(words.as_text(report)))
    return 0 if report.good else FAILURE


def _envoys(given: Sequence[Path]) -> dict[str, tuple[str, Callable[[Document], str | None]]]:
    """Every Envoy at hand by its release, those that were given first. Raises EnvoyFailed, ConfigInvalid."""
    from devroute.mesh import envoy

    binaries = [_program(path) for path in given]
    with contextlib.suppress(ConfigInvalid):  # not installed: reported as "not tried"
        binaries.append(envoy.envoy_binary())
    found: dict[str, tuple[str, Callable[[Document], str | None]]] = {}
    for binary in binaries:
        version = envoy.version_of(binary)
        found.setdefault(version.rpartition(".")[0], (version, partial(envoy.validate, binary=binary)))
    return found


def _program(path: Path) -> Path:
    """The largest program of that name in a folder: the others are the small wrappers that pip makes."""
    below = [*path.rglob("envoy"), *path.rglob("envoy.exe")] if path.is_dir() else [path]
    programs = [each for each in below if each.is_file() and os.access(each, os.X_OK)]
    if not programs:
        hint = "name the program, or a folder with one below it"
        raise ConfigInvalid(f"{path}: no Envoy found", hint=hint)
    return max(programs, key=lambda each: each.stat().st_size)
