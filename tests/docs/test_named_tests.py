"""docs/limits.md and docs/security.md: each test that they name exists, and the limits are the code's."""

import importlib
import re
from functools import cache

import pytest

from devroute.errors import BY_CODE
from devroute.proxy.settings import ProxySettings
from tests.support.paths import ROOT

NODE = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")
ROW = re.compile(
    r"^\| [^|]+ \| (?P<default>[\d.]+) \| (?P<code>[^| ]+) \| [^|]+ \| `(?P<name>[\w.]+)` \| `tests/"
)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


@cache
def found_in(path: str) -> frozenset[str]:
    text = (ROOT / path).read_text(encoding="utf-8")
    return frozenset(re.findall(r"^ *(?:async )?def (test_\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("name", ["limits.md", "security.md"])
def test_each_test_that_a_page_names_exists(name: str) -> None:
    named = NODE.findall(page(name))
    assert len(named) > 20
    missing = [f"{path}::{test}" for path, test in named if test not in found_in(path)]
    assert missing == []


def rows() -> list[dict[str, str]]:
    return [match.groupdict() for line in page("limits.md").splitlines() if (match := ROW.match(line))]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["name"])
def test_a_limit_has_the_default_and_the_code_that_the_page_says(row: dict[str, str]) -> None:
    module, _, constant = row["name"].rpartition(".")
    if module:
        value = getattr(importlib.import_module(module), constant)
    else:
        value = ProxySettings.model_fields[constant].default
    assert float(row["default"]) == value
    assert row["code"] == "-" or row["code"].strip("`") in BY_CODE


def test_every_limit_among_the_settings_is_on_the_page() -> None:
    known = {row["name"] for row in rows()}
    limits = {name for name in ProxySettings.model_fields if re.match(r"max_|.*_timeout$", name)}
    others = {"connect_timeout", "probe_timeout", "drain_timeout"}  # how long we ourselves wait
    assert limits - others <= known
    lines = [line for line in page("limits.md").splitlines() if line.startswith("| ") and "`" in line]
    assert len(lines) == len(known)
