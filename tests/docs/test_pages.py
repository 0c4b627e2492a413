"""Every page can be reached, its links lead somewhere, and the commands it mentions exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from devroute.agent import invitation
from devroute.agent.settings import AgentSettings
from devroute.cli.main import app
from devroute.policy import explain
from devroute.policy.policy import Policy
from devroute.proxy.settings import ProxySettings
from devroute.quoting import Shell
from tests.docs import pages
from tests.support.paths import ROOT

LINKED = [*pages.PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/decisions/*.md")]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    broken = []
    for path, fragment in pages.links(page):
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in pages.anchors(target)):
            broken.append(f"{path}#{fragment}")
    assert broken == []


def test_the_index_lists_every_page() -> None:
    index = ROOT / "docs" / "README.md"
    listed = {path for path, _ in pages.links(index)}
    assert {page.name for page in ROOT.glob("docs/*.md") if page != index} <= listed


def test_every_picture_is_made_by_the_script_and_shown() -> None:
    """`make screenshots`, in light and in dark."""
    script = (ROOT / "tests" / "docs" / "screenshots.py").read_text(encoding="utf-8")
    made = {
        f"{each}{scheme}.png"
        for each in re.findall(r'take\(browser, "(\w+)"', script)
        for scheme in ("", "-dark")
    }
    shown = {Path(path).name for page in pages.PAGES for path, _ in pages.links(page)}
    assert {each.name for each in (ROOT / "docs").glob("*.png")} == made <= shown


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_each_table_has_a_head(page: Path) -> None:
    """A row that a blank line parts from its table is shown as text with bars."""
    without_blocks = re.sub(
        r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )
    tables = re.findall(r"(?:^\|.*\n?)+", without_blocks, flags=re.MULTILINE)
    assert [table for table in tables if not re.match(r".*\n\|[ :|-]+\|$", table, flags=re.MULTILINE)] == []


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_a_fenced_block_says_what_it_is(page: Path) -> None:
    """Without a language, or as shell, its commands would escape the test that runs them."""
    assert set(pages.languages(page)) <= pages.LANGUAGES


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_commands_and_options_that_the_text_mentions_exist(page: Path) -> None:
    mentioned = [text for text in pages.inline_code(page) if text.startswith("devroute ")]
    assert [text for text in mentioned if not exists(text)] == []


def exists(text: str) -> bool:
    """Whether there are these commands and options of devroute. What follows `--` is another program's, and
    `devroute curl` takes any option of curl."""
    command: Any = typer.main.get_command(app)
    known: set[str] = set()
    for word in shlex.split(text.replace("…", ""))[1:]:
        if word in ("--", "|") or command.name == "curl":
            break
        if word in getattr(command, "commands", {}):
            command = command.commands[word]
        elif hasattr(command, "commands") and not command.invoke_without_command and word[0] != "-":
            return word.isupper()  # a placeholder, as in `devroute COMMAND --help`
        known = {option for each in command.params for option in each.opts} | {"--help", "--version"}
        if re.match(r"-", word) and word.partition("=")[0] not in known:
            return False
    return True


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("devroute up b=8001 --shadow 25%", True),
        ("devroute up -- app --shado", True),
        ("devroute up --shado 25%", False),
        ("devroute op", False),
        ("devroute token new", True),
        ("devroute token now", False),
    ],
)
def test_a_mistake_in_a_mentioned_command_is_found(text: str, there: bool) -> None:
    assert exists(text) is there


@pytest.mark.parametrize(("shell", "block"), [("powershell", 0), ("cmd", 1)])
def test_the_contract_s_page_has_the_command_of_each_shell(shell: Shell, block: int) -> None:
    shown = pages.code(ROOT / "docs" / "contract.md", "text")[block]
    assert shown == invitation.command('{"b": "alice"}', "http://a.qa.example/", shell) + "\n"


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("    devroute up b=8001     # a comment", "devroute up b=8001"),
        ("    curl -H 'a: # b' \"# c\" x#y", "curl -H 'a: # b' \"# c\" x#y"),
    ],
)
def test_a_comment_is_no_part_of_a_command(line: str, command: str) -> None:
    assert pages.without_comment(line) == command


def test_the_policy_of_the_quickstart_draws_no_warning() -> None:
    (text,) = pages.files(ROOT / "docs" / "quickstart-platform-team.md").values()
    assert explain.remarks(Policy.parse(text)) == []


def helps(command: Any) -> Iterator[str]:
    yield command.help or ""
    for each in getattr(command, "commands", {}).values():
        yield from helps(each)


def test_pages_and_help_have_one_example() -> None:
    """Service A calls B, and B calls C."""
    texts = [*(page.read_text(encoding="utf-8") for page in pages.PAGES), *helps(typer.main.get_command(app))]
    assert len(texts) > 40
    assert [found for text in texts for found in re.findall(r".*\b(?:foo|baz)\b.*", text)] == []


@pytest.mark.parametrize("page", pages.PAGES, ids=name)
def test_the_settings_that_a_file_on_a_page_has_exist(page: Path) -> None:
    for text in pages.code(page, "yaml"):
        document = yaml.safe_load(text)
        if isinstance(document, dict) and "proxy" in document:
            assert document["proxy"].keys() <= ProxySettings.model_fields.keys()
        elif isinstance(document, dict) and "server" in document:
            assert document.keys() <= AgentSettings.model_fields.keys()
