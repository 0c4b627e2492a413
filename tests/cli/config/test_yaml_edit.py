"""Edits of YAML files: the new setting is read back, and every other character of the file stays."""

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from devroute.cli.config.yaml_edit import with_settings, without_items
from devroute.errors import ConfigInvalid

KEYS = st.sampled_from(["server", "token", "name", "services", "output"])
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"])),
    st.integers(),
    st.none(),
    st.dictionaries(st.text("ab", min_size=1), st.integers(), max_size=3),
    st.lists(st.text("ab#: "), max_size=3),
)


@given(st.dictionaries(KEYS, VALUES), KEYS, VALUES)
@example({"server": None, "output": "#"}, "server", "x")
@example({"server": None, "output": "#"}, "output", None)
def test_an_edit_changes_one_setting_and_keeps_all_others_and_their_comments(
    before: dict[str, object], key: str, value: object
) -> None:
    parts = {
        name: f"# about {name}\n{yaml.safe_dump({name: old}, sort_keys=False)}\n"
        for name, old in before.items()
    }
    edited = with_settings("".join(parts.values()), {key: value}, "f.yaml")
    expected = {**before, key: value}
    if value is None:
        del expected[key]
    assert (yaml.safe_load(edited) or {}) == expected
    for name, part in parts.items():
        assert (part if name != key else f"# about {name}\n") in edited


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("server: a  # the old one", "server: b  # the old one"),
        ("server:  # to be filled in\nname: x\n", "server: b  # to be filled in\nname: x\n"),
        ("server: |\n  a\n\n# mine\nname: x\n", "server: b\n# mine\nname: x\n"),
        ("server:\n- a  # one\n# mine\nname: x\n", "server: b  # one\n# mine\nname: x\n"),
        ("# only a comment", "# only a comment\nserver: b\n"),
        ("---\nserver: [a,   b]\r\nname:   'x'\r\n", "---\nserver: b\r\nname:   'x'\r\n"),
    ],
)
def test_a_replaced_value_leaves_the_text_around_it(before: str, after: str) -> None:
    assert with_settings(before, {"server": "b"}, "f.yaml") == after


@pytest.mark.parametrize(
    "text",
    [
        "{server: https://a, name: b}",
        "name: &x b\nserver: *x\n",
        "? server\n: a\n",
        "server: &x a\nname: *x\n",
    ],
)
def test_a_file_that_an_edit_would_damage_is_left_to_its_owner(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"f\.yaml: cannot be edited") as caught:
        with_settings(text, {"server": "https://c"}, "f.yaml")
    assert caught.value.hint == "set server by hand"


ALICE, BOB, CAROL = (f"- subject: {name}\n  id: 1\n" for name in ("alice", "bob", "carol"))


def test_removing_items_leaves_comments_and_all_other_items() -> None:
    text = f"# the team\n{ALICE}# bob is new\n{BOB}\n# last\n{CAROL}"
    assert without_items(text, [1], "f.yaml") == text.replace(BOB, "")
    assert without_items(text, [0, 2], "f.yaml") == f"# the team\n# bob is new\n{BOB}\n# last\n"
    assert yaml.safe_load(without_items(text, [0, 1, 2], "f.yaml")) is None


def test_an_item_in_braces_is_removed_from_a_line_of_its_own_only() -> None:
    lines = ["- {subject: alice, id: 1}", "- {subject: bob, id: 2}"]
    assert without_items("\n".join(lines), [0], "f.yaml") == lines[1]
    with pytest.raises(ConfigInvalid, match="cannot be edited") as caught:
        without_items("[{subject: alice, id: 1}, {subject: bob, id: 2}]", [0], "f.yaml")
    assert caught.value.hint == "edit it by hand"


def test_a_text_that_the_strict_reader_refuses_is_not_edited() -> None:
    with pytest.raises(ConfigInvalid, match="appears twice"):
        with_settings("server: a\nserver: b\n", {"name": "x"}, "f.yaml")
