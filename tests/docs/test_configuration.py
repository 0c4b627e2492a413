"""docs/configuration.md describes the settings, the commands and the exit codes, all and no others."""

import re
from typing import Any

import pytest
import typer
from pydantic import SecretStr

from devroute.agent.settings import AgentSettings
from devroute.cli.config.names import ENV_PREFIX
from devroute.cli.config.sources import Source, agent_settings
from devroute.cli.exit_codes import EXIT_CODES, NOT_AS_EXPECTED, exits_with_code
from devroute.cli.main import app
from devroute.errors import DevrouteError
from devroute.proxy.settings import ProxySettings
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")

#: No single variable can hold these.
NOT_VARIABLES = {"rules", "servers"}


def section(title: str) -> list[list[str]]:
    """The rows of the table below a heading, without its head."""
    part = TEXT.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip().strip("`") for cell in row] for row in rows[2:]]


def flags(command: str) -> dict[str, str]:
    """The options of a command by the parameter that they set."""
    root: Any = typer.main.get_command(app)
    return {
        each.name: each.opts[0] for each in root.commands[command].params if each.opts[0].startswith("--")
    }


def shown(value: object) -> str:
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, tuple):
        value = ", ".join(map(str, value))
    return "-" if value in (None, "", {}) else str(value).lower() if isinstance(value, bool) else f"{value}"


@pytest.mark.parametrize(
    ("title", "model", "command"),
    [("The laptop", AgentSettings, "up"), ("The proxy", ProxySettings, "proxy")],
)
def test_every_setting_is_documented_as_it_is(title: str, model: Any, command: str) -> None:
    rows = {row[0]: row[1:4] for row in section(title)}
    known = flags(command)
    expected = {
        name: [
            known.get(name, "-"),
            "-" if name in NOT_VARIABLES else ENV_PREFIX + name.upper(),
            shown(each.get_default(call_default_factory=True)),
        ]
        for name, each in model.model_fields.items()
        if name not in ("command", "login")
    }
    assert rows == expected
    assert all(len(row) == 5 and row[4] for row in section(title))


def test_every_exit_code_is_documented() -> None:
    documented = {int(row[0]) for row in section("Exit codes")}
    assert documented == {0, 1, 2, 130, NOT_AS_EXPECTED, *EXIT_CODES.values()}


@pytest.mark.parametrize("kind", [*EXIT_CODES, DevrouteError], ids=lambda kind: kind.__name__)
def test_each_error_ends_with_its_exit_code(kind: type[DevrouteError]) -> None:
    @exits_with_code
    def command() -> None:
        raise kind("it is so")

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == EXIT_CODES.get(kind, 1)


def test_an_interrupt_ends_with_130() -> None:
    @exits_with_code
    def command() -> None:
        raise KeyboardInterrupt

    with pytest.raises(typer.Exit) as ended:
        command()
    assert ended.value.exit_code == 130


@pytest.mark.parametrize("winner", range(4))
def test_flags_override_variables_override_the_project_override_the_home(winner: int) -> None:
    order = [int(row) for row in re.findall(r"^(\d)\. ", TEXT, re.MULTILINE)]
    assert order == [1, 2, 3, 4]
    base = {"server": "https://x", "token": "t", "services": ["foo=1"]}
    sources = [Source(f"source {n}", {"name": f"from-{n}"} if n >= winner else {}) for n in range(4)]
    assert agent_settings([*sources, Source("base", base)]).name == f"from-{winner}"
