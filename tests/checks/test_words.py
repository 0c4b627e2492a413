"""The rules of checks/words.py: what it takes for prose, and what it finds there."""

from pathlib import Path

import pytest

from checks.words import found_in, problems, prose, retired_names


def words(folder: Path, name: str, text: str, *, tests: bool = False) -> list[tuple[int, str]]:
    """Line and word of what is found in a file."""
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return sorted((line, word) for line, word, _ in found_in(prose(file, tests=tests)))


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1  # nobody reads it\n", [(1, "nobody")]),
        ('"""Nobody reads it."""\n', [(1, "Nobody")]),
        ('\ndef f():\n    """One.\n\n    Sent anew.\n    """\n', [(5, "anew")]),
        ('raise ValueError("nobody reads it")\n', [(1, "nobody")]),
        ('raise ValueError(f"{x} is read by nobody")\n', [(1, "nobody")]),
        ("#: what a proxy has\n#: told its peer\nx = 1\n", [(2, "told")]),
        ("# as its HELLO said\n", [(1, "said")]),
        ("# it ends without\n# a word\n", [(1, "without a word")]),
        ("# a link that is silent, once settled\n", [(1, "is silent"), (1, "settled")]),
    ],
)
def test_comments_docstrings_and_messages_are_read(
    tmp_path: Path, source: str, found: list[tuple[int, str]]
) -> None:
    assert words(tmp_path, "a.py", source) == found


@pytest.mark.parametrize(
    "source",
    [
        'USER = "nobody"\n',
        "told = tell(somebody)\n",
        'x = f"{nobody} sends {told}"\n',
        "# `tell` is a method's name\n",
        "# one cannot tell them apart\n",
        "# an app that answers\n",
        "# Antelope, era2, untold\n",
        "# where its user said so\n",
        "# it fails silently, and marks the request\n",
    ],
)
def test_names_code_and_other_meanings_are_not(tmp_path: Path, source: str) -> None:
    assert words(tmp_path, "a.py", source) == []


def test_a_phrase_is_found_across_a_line_end_and_named_by_its_first_line(tmp_path: Path) -> None:
    assert words(tmp_path, "a.py", "x = 1\n# what comes before the\n# answer\n") == [(2, "the answer")]
    assert words(tmp_path, "a.md", "# Title\n\nWhat comes before an\nanswer.\n") == [(3, "an answer")]
    assert words(tmp_path, "a.lua", "-- before an\n-- answer\n") == [(1, "an answer")]
    assert words(tmp_path, "a.py", "x = 1  # before the\ny = 1  # answer\n") == []


def test_tests_may_quote_but_their_names_and_docstrings_are_read(tmp_path: Path) -> None:
    source = 'def test_nobody_waits():\n    """Nobody waits."""\n    assert f() == "nobody waits"\n'
    assert words(tmp_path, "test_a.py", source, tests=True) == [(1, "nobody"), (2, "Nobody")]
    assert (3, "nobody") in words(tmp_path, "a.py", source)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("class Verdict: ...\n", "Verdict"),
        ("def tell_peer(): ...\n", "tell_peer"),
        ("def f(*, nobody): ...\n", "nobody"),
        ("said = 1\n", "said"),
        ("said: int = 1\n", "said"),
        ("for said in x: ...\n", "said"),
        ("with x as said: ...\n", "said"),
        ("self.marks = 1\n", "marks"),
        ("SILENT_SECONDS = 1\n", "SILENT_SECONDS"),
        ("def onVerdict(): ...\n", "onVerdict"),
    ],
)
def test_a_name_is_found_where_it_is_defined(source: str, name: str) -> None:
    assert [(line, found) for line, found, _ in retired_names(source)] == [(1, name)]


@pytest.mark.parametrize(
    "source",
    [
        "x.tell()\n",
        "x = said\n",
        "untold = camera = 1\n",
        "f(marks=1)\n",
        "def telling(): ...\n",
        "mark = 1\n",
    ],
)
def test_a_name_that_is_used_only_or_holds_a_longer_word_is_not(source: str) -> None:
    assert list(retired_names(source)) == []


def test_names_of_the_product_are_read_and_those_of_tests_are_not(tmp_path: Path) -> None:
    for folder in ("devroute", "tests"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("\nheard = 1\n")
    assert list(problems(tmp_path, [tmp_path])) == ["devroute/a.py:2: the name 'heard': received"]


def test_only_the_place_in_the_checkout_makes_a_file_a_test(tmp_path: Path) -> None:
    root = tmp_path / "tests" / "clone"
    for folder in ("devroute", "tests"):
        (root / folder).mkdir(parents=True)
        (root / folder / "test_a.py").write_text('x = "nobody waits"\n')
    (found,) = problems(root, [root])
    assert found.startswith("devroute/test_a.py:1: 'nobody'")


def test_code_of_documents_is_not_read(tmp_path: Path) -> None:
    text = "Run `tell`:\n\n```\ntell somebody\n```\n\n    tell somebody\n\nTell somebody.\n"
    assert words(tmp_path, "a.md", text) == [(9, "Tell"), (9, "somebody")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.lua", 'local x = 1 -- told\nerror("it told us")\n'),
        ("a.js", "let x = 1; // told\n/* told */\n"),
        ("a.go", "// told\n"),
        ("Makefile", "# told\n"),
        ("a.toml", "x = 1  # told\n"),
        ("run", "# told\n"),
    ],
)
def test_comments_of_other_languages_are_read(tmp_path: Path, name: str, text: str) -> None:
    assert {word for _, word in words(tmp_path, name, text)} == {"told"}


def test_a_problem_names_file_line_word_and_advice_below_the_given_paths_only(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("A\n\nSent anew.\n")
    (tmp_path / "README.md").write_text("Sent anew.\n")
    assert list(problems(tmp_path, [tmp_path / "docs"])) == ["docs/a.md:3: 'anew': again"]
    assert len(list(problems(tmp_path, [tmp_path]))) == 2
