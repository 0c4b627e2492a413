"""The rule of checks/names.py: which literals are header names, and which are prose."""

from pathlib import Path

import pytest

from checks import names


@pytest.mark.parametrize(
    "literal",
    [
        '"x-devroute"',
        '"x-devroute-link"',
        'b"x-devroute-link: "',
        'rb"\\r\\n(host|x-devroute[^:]*):[ \\t]*([^\\r]*)"',
        'f"x-devroute-via: {via}"',
        '"host|x-devroute-via"',
    ],
)
def test_a_header_name_in_a_literal_is_found(literal: str) -> None:
    assert names.spelled_names(f"\nx = {literal}\n") == [2]


@pytest.mark.parametrize(
    "text",
    [
        '"""x-devroute says where."""\n',
        'def f():\n    """x-devroute says where."""\n',
        'x = "as in the header x-devroute-trace"\n',
        'x = "send it: -H \'X-devroute: "\n',
        'x = "uberctx-devroute"\n',
        "x = 1  # x-devroute\n",
    ],
)
def test_prose_and_the_names_of_others_are_none(text: str) -> None:
    assert names.spelled_names(text) == []


def test_one_module_spells_them(tmp_path: Path) -> None:
    (tmp_path / "devroute").mkdir()
    for name in ("headers", "other"):
        (tmp_path / "devroute" / f"{name}.py").write_text('\nLINK = "x-devroute-link"\n')
    (found,) = names.problems(tmp_path, [tmp_path])
    assert found == f"devroute/other.py:2: {names.ADVICE}"
