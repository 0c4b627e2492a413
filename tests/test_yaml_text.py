"""Every reader of YAML refuses hostile and malformed texts with a reason, and never crashes."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.auth.tokens import Tokens
from devroute.cli.config.sources import read_file
from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.destination_rules import from_pods
from devroute.mesh.preflight.check import check
from devroute.policy.cases import run
from devroute.policy.policy import Policy
from devroute.yaml_text import MAX_ALIASED, MAX_DEPTH, read_document
from tests.support.examples import examples

SECRET = "dvr_0123456789abcdef"

READERS: dict[str, Callable[[str], object]] = {
    "tokens": lambda text: Tokens.parse(text, "file"),
    "settings": lambda text: read_file(text, "file"),
    "policy": lambda text: Policy.parse(text, "file"),
    "cases": lambda text: run(Policy(), text, "file"),
    "pods": lambda text: from_pods(text, "file"),
    "manifests": lambda text: check(text, "file", {}),
}
SECRETIVE = ("tokens", "settings")

DEEP = {
    "flow": "[" * 60_000,
    "flow, closed": "[" * 20_000 + "]" * 20_000,
    "mappings": "{a: " * 15_000,
    "block": "a:\n" + "- " * 30_000 + "x",
    "later document": "a: 1\n---\n" + "[" * 60_000,
}


@pytest.mark.parametrize("text", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize("reader", READERS)
def test_excessive_nesting_is_refused_with_its_line(reader: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^file:\d+: nested too deeply$"):
        READERS[reader](text)


def laughs(first: str, further: str) -> str:
    """Each line is ten aliases of the one before."""
    lines = [f"a0: &a0 {first}"]
    for number in range(1, 30):
        lines.append(f"a{number}: &a{number} {further.format(', '.join([f'*a{number - 1}'] * 10))}")
    return "\n".join(lines)


BOMBS = {
    "lists": laughs("[x, x]", "[{}]"),
    "merged mappings": laughs("{x: y}", "{{<<: [{}]}}"),
    "one large list, often": f"a: &a [{'x, ' * 500}]\nb: [{'*a, ' * 500}]",
    "itself": "a: &a [*a]",
    "itself, merged": "a: &a\n  <<: *a\n",
    "in many documents": "\n---\n".join(f"a: &a [{'x, ' * 500}]\nb: *a" for _ in range(25)),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS)
@pytest.mark.parametrize("reader", READERS)
def test_excessive_aliases_are_refused_with_their_line(reader: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^file:\d+: aliases expand to too many values$"):
        READERS[reader](text)


def test_aliases_may_expand_up_to_the_limit() -> None:
    for count in (MAX_ALIASED, MAX_ALIASED + 1):
        text = f"a: &a [{'x, ' * 99}]\nb: &x y\nc: [{'*a, ' * (count // 100)}{'*x, ' * (count % 100)}]"
        if count > MAX_ALIASED:
            with pytest.raises(ConfigInvalid, match="file:3: aliases expand to too many values"):
                read_document(text, "file")
        else:
            document, _ = read_document(text, "file")
            assert isinstance(document, dict)
            assert len(document["c"]) == 100


def test_nesting_by_aliases_counts() -> None:
    half = MAX_DEPTH // 2 - 1
    text = f"- &a {'[' * half}{']' * half}\n- &b {'[' * half}*a{']' * half}\n"
    document, _ = read_document(text, "file")
    assert str(document).count("[") == 1 + 3 * half
    for more in (f"- {'[' * 3}*b{']' * 3}", f"- {'{a: ' * 3}*b{'}' * 3}"):
        with pytest.raises(ConfigInvalid, match="file:3: nested too deeply"):
            read_document(text + more, "file")


def test_a_policy_may_share_its_lists() -> None:
    text = "direct:\n  networks: &office [10.0.0.0/8]\ncallers:\n- {from: ['*'], targets: *office}\n"
    assert Policy.parse(text, "file").networks


@pytest.mark.parametrize(
    "value", ["!!bool maybe", "!!int ''", "!!timestamp never", "!!float x", "2026-99-99", "="]
)
@pytest.mark.parametrize("reader", [*SECRETIVE, "policy", "cases", "manifests"])
def test_a_value_that_does_not_fit_its_tag_is_refused_unquoted(reader: str, value: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^file: not valid YAML") as refused:
        READERS[reader](f"- a: {value}\n  b: {SECRET}\n")
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("reader", SECRETIVE)
@pytest.mark.parametrize("text", [f"a: '{SECRET}", f"a: {SECRET}: x", f"\tx: {SECRET}", f"a: *{SECRET}"])
def test_a_file_with_secrets_is_not_quoted(reader: str, text: str) -> None:
    with pytest.raises(ConfigInvalid, match="not valid YAML at line") as refused:
        READERS[reader](text)
    assert SECRET not in refused.value.message


@pytest.mark.parametrize("reader", [*SECRETIVE, "policy"])
def test_a_repeated_key_is_refused(reader: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"^file:2: 'server' appears twice; keep one of them"):
        READERS[reader]("server: https://one.example\nserver: https://two.example\n")


@examples(60)
@given(
    st.sampled_from(sorted(READERS)),
    st.lists(
        st.sampled_from(
            [
                *"[]{}:,-?&*!|>%@'\"# \n\ta1",
                "- ",
                ": ",
                "!!",
                "!!set",
                "<<",
                "&a",
                "*a",
                "---\n",
                "2026-01-01",
            ]
        ),
        max_size=30,
    ).map("".join),
)
def test_any_text_is_a_value_or_config_invalid(reader: str, text: str) -> None:
    with contextlib.suppress(ConfigInvalid):
        READERS[reader](text)
