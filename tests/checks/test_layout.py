"""The rules of checks/layout.py, over checkouts of a few files."""

from pathlib import Path

import pytest

from checks import layout

PACKAGE = '"""What it is."""\n'


def problems(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return list(layout.problems(root, [root]))


def test_only_leaf_modules_lie_at_the_top_of_the_package(tmp_path: Path) -> None:
    (found,) = problems(
        tmp_path, {"devroute/errors.py": "", "devroute/port.py": "", "devroute/http/port.py": ""}
    )
    assert found.startswith("devroute/port.py:1: a module at the top")


@pytest.mark.parametrize(
    "file", ["tests/http/test_grpc.py", "tests/test_errors.py", "tests/abuse/test_slow.py"]
)
def test_tests_of_a_room_a_leaf_or_a_tier_are_in_their_place(tmp_path: Path, file: str) -> None:
    assert problems(tmp_path, {"devroute/http/__init__.py": PACKAGE, file: ""}) == []


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("tests/wire/test_grpc.py", "there is no devroute/wire/"),
        ("tests/http/old/test_grpc.py", "there is no devroute/http/old/"),
        ("tests/test_grpc.py", "tests of no leaf module"),
    ],
)
def test_tests_of_a_room_that_does_not_exist_are_named(tmp_path: Path, file: str, problem: str) -> None:
    (found,) = problems(tmp_path, {"devroute/http/__init__.py": PACKAGE, file: ""})
    assert found.startswith(f"{file}:1: {problem}")


def test_a_package_says_what_it_is(tmp_path: Path) -> None:
    files = {"devroute/http/__init__.py": PACKAGE, "devroute/http/aio/__init__.py": "import asyncio\n"}
    (found,) = problems(tmp_path, files)
    assert found.startswith("devroute/http/aio/__init__.py:1: a package without a docstring")


def test_only_what_lies_below_the_given_paths_is_checked(tmp_path: Path) -> None:
    assert problems(tmp_path, {"devroute/port.py": "", "devroute/pool.py": ""})
    (found,) = layout.problems(tmp_path, [tmp_path / "devroute" / "pool.py"])
    assert found.startswith("devroute/pool.py:1:")


def function(lines: int, comment: str = "") -> str:
    return f"def f():{comment}\n" + "    x = 1\n" * (lines - 1)


def test_a_function_of_more_than_40_lines_needs_a_reason() -> None:
    assert list(layout.long_parts("a.py", function(40))) == []
    (found,) = layout.long_parts("a.py", "\n" + function(41))
    assert found.startswith("a.py:2: f has 41 lines;")
    assert list(layout.long_parts("a.py", function(41, "  # Longer than 40 lines: one table"))) == []


def test_a_module_of_more_than_350_lines_needs_a_reason_in_its_docstring() -> None:
    assert list(layout.long_parts("a.py", "x = 1\n" * 350)) == []
    (found,) = layout.long_parts("a.py", "# Longer than 350 lines: not in the docstring\n" + "x = 1\n" * 350)
    assert found.startswith("a.py:1: 351 lines;")
    assert (
        list(layout.long_parts("a.py", '"""Longer than 350 lines: one table."""\n' + "x = 1\n" * 350)) == []
    )
