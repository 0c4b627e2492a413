import json
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.explain import explain
from devroute.contract.grammar import MAX_BYTES, MAX_ENTRIES, Contract, parse
from devroute.contract.target import Address, Laptop, Malformed, Version, parse_address
from devroute.errors import ContractInvalid
from tests.support.examples import examples
from tests.support.paths import VECTORS


def parsed_or_refused(raw: str) -> Contract | ContractInvalid:
    try:
        return parse(raw)
    except ContractInvalid as error:
        return error


CASES = json.loads((VECTORS / "contracts.json").read_text())


@pytest.mark.parametrize("vector", CASES["valid"], ids=lambda vector: vector["contract"][:60])
def test_a_valid_contract_has_exactly_the_written_meaning(vector: dict[str, Any]) -> None:
    contract = parse(vector["contract"])
    assert contract.raw == vector["contract"]
    assert list(contract.entries) == list(vector["entries"])
    plain = parse('{"plain": "alice"}').entries["plain"]
    for key, expected in vector["entries"].items():
        entry = contract.entries[key]
        assert entry.key == key
        assert str(entry.target) == expected["target"]
        for field in (
            "methods",
            "path",
            "callers",
            "percent",
            "mirror",
            "fallback",
            "timeout_s",
            "delay_s",
            "abort_status",
        ):
            value = getattr(entry, field)
            assert (list(value) if isinstance(value, tuple) else value) == expected.get(
                field, list(value) if value == () else getattr(plain, field)
            )
        assert entry.service == expected.get("service", key)
        assert entry.namespace == expected.get("namespace")


@pytest.mark.parametrize("option", ["methods", "path", "from"])
def test_a_deeply_nested_option_is_refused_as_any_other(option: str) -> None:
    """Python can parse nested objects that it has no `str` for."""
    for depth in (500, 900, 960):
        value = '{"a":' * depth + "1" + "}" * depth
        reason = f"option '{option}': a list or an object is not a"
        if depth > 500:  # Python's own limit, which pytest has used in part
            reason += "|nested too deeply"
        with pytest.raises(ContractInvalid, match=reason):
            parse(f'{{"foo": {{"to": "alice", "{option}": {value}}}}}')


@pytest.mark.parametrize("vector", CASES["invalid"], ids=lambda vector: repr(vector["contract"][:60]))
def test_an_invalid_contract_is_refused_with_its_place_and_a_fix(vector: dict[str, Any]) -> None:
    with pytest.raises(ContractInvalid) as caught:
        parse(vector["contract"])
    for part in vector["error"]:
        assert part in caught.value.message
    assert caught.value.message.isascii()
    assert "\n" not in caught.value.message
    assert caught.value.hint
    for part in vector.get("hint", ()):
        assert part in caught.value.hint
    if "corrected" in vector:
        assert caught.value.corrected == vector["corrected"]
        assert (
            caught.value.hint.endswith(f"send X-devroute: {vector['corrected']}") or not vector["corrected"]
        )


_MISTAKES: dict[str, Callable[[str], str]] = {
    "single quotes": lambda text: text.replace('"', "'"),
    "typographic quotes": lambda text: re.sub(r'"(.*?)"', "\u201c\\1\u201d", text),
    "no quotes": lambda text: text.replace('"', ""),
    "escaped quotes": lambda text: text.replace('"', '\\"'),
    "trailing comma": lambda text: text[:-1] + ",}",
    "no last brace": lambda text: text[:-1],
    "no braces": lambda text: text[1:-1],
    "name=target": lambda text: re.sub('[{}" ]', "", text).replace(":", "=", 1),
    "wrapped": lambda text: f"'{text}'",
    "capitals": lambda text: text.replace('"s', '"S'),
}
_ENTRIES = st.dictionaries(
    st.sampled_from(["sa", "sb", "sc.shop", "s-d"]),
    st.sampled_from(["alice", "192.168.1.12:8001", "version:v2", "alice--2", "host.example:80"]),
    min_size=1,
)


@pytest.mark.parametrize("mistake", _MISTAKES)
@given(_ENTRIES)
@examples(20)
def test_each_kind_of_mistake_is_corrected_to_what_was_meant(mistake: str, entries: dict[str, str]) -> None:
    if mistake == "name=target":
        entries = dict(list(entries.items())[:1])
    meant = json.dumps(entries)
    outcome = parsed_or_refused(_MISTAKES[mistake](meant))
    assert isinstance(outcome, ContractInvalid)
    assert outcome.corrected == meant


def test_targets_have_their_types() -> None:
    entries = parse('{"a": "10.0.0.1:8001", "b": "alice", "c": "version:v2", "d": "host:1"}').entries
    assert entries["a"].target == Address("10.0.0.1", 8001)
    assert entries["b"].target == Laptop("alice")
    assert entries["c"].target == Version("v2")
    assert [Address("10.0.0.1", 1).is_literal, Address("fd00::1", 1).is_literal] == [True, True]
    assert not Address("10.0.0.example", 1).is_literal


def test_a_contract_of_the_largest_size_is_accepted_and_one_byte_more_is_not() -> None:
    head, tail = '{"foo": "alice"', "}"
    raw = head + " " * (MAX_BYTES - len(head) - len(tail)) + tail
    assert parse(raw).entries
    with pytest.raises(ContractInvalid, match="at most 8192"):
        parse(raw + " ")


def test_the_largest_number_of_services_is_accepted_and_one_more_is_not() -> None:
    assert len(parse(json.dumps({f"s{i}": "alice" for i in range(MAX_ENTRIES)})).entries) == MAX_ENTRIES
    with pytest.raises(ContractInvalid, match="names 65 services; at most 64"):
        parse(json.dumps({f"s{i}": "alice" for i in range(MAX_ENTRIES + 1)}))


@pytest.mark.parametrize(
    ("bomb", "reason"),
    [
        ("[" * MAX_BYTES, "nested too deeply"),
        ('{"a":' * 1600, "nested too deeply"),
        ('{"a": 1' + "0" * 8000 + "}", "has more than 20 digits"),
        ('{"a": 0.' + "1" * 8000 + "}", "is out of range"),
    ],
)
def test_deep_nesting_and_huge_numbers_are_refused(bomb: str, reason: str) -> None:
    with pytest.raises(ContractInvalid, match=reason):
        parse(bomb)


def test_long_input_is_cut_in_messages() -> None:
    with pytest.raises(ContractInvalid) as caught:
        parse(json.dumps({"foo": "x" * 5000 + ":8001"}))
    assert len(caught.value.message) < 300


@pytest.mark.parametrize(
    ("names", "namespace", "found"),
    [
        (["foo"], None, "foo"),
        (["foo"], "shop", "foo.shop"),
        (["foo"], "other", "foo"),
        (["foo.shop"], None, "foo.shop"),
        (["foo.shop"], "shop", "foo.shop"),
        (["bar"], "shop", None),
        (["bar", "foo-v1", "foo"], "other", "foo"),
        (["baz", "foo"], None, "foo"),
        (["baz"], "blue", "baz.blue"),
        ([], None, None),
    ],
)
def test_find_prefers_trusted_names_and_the_named_namespace(
    names: list[str], namespace: str | None, found: str | None
) -> None:
    contract = parse('{"foo": "alice", "foo.shop": "bob", "baz.blue": "carol"}')
    entry = contract.find(names, namespace)
    assert (entry.key if entry else None) == found


def test_explain_states_each_entry_in_one_sentence() -> None:
    lines = explain(
        parse(
            '{"foo": "192.168.1.12:8001",'
            ' "bar.shop": {"to": "alice", "methods": ["GET"], "path": "/x",'
            ' "percent": 20, "fallback": "fail"},'
            ' "baz": {"to": "version:v2", "mirror": true},'
            ' "qux": {"to": "bob", "abort": 503, "delay": "500ms"}}'
        )
    )
    assert lines == [
        "all requests for foo go to the address 192.168.1.12:8001; if that fails, the real service responds",
        "20% of GET requests for bar in namespace shop under /x go to the laptop alice;"
        " if that fails, the caller gets an error",
        "all requests for baz are mirrored to version v2 of the service; the real service responds",
        "all requests for qux get a 503 response; the laptop bob is not contacted; each is delayed by 500ms",
    ]


@given(st.text(max_size=80) | st.text(alphabet='{}[]":,. ae1-\\u0', max_size=60))
@examples(60)
def test_any_text_parses_or_is_refused_by_one_error(raw: str) -> None:
    outcome = parsed_or_refused(raw)
    if isinstance(outcome, ContractInvalid):
        assert outcome.message.isascii()
        assert outcome.hint.isascii()
        assert outcome.corrected is None or parse(outcome.corrected)


@pytest.mark.parametrize(
    "piece",
    ["{", "}", "'", '"', ",", " ", "=", "a=", "a:{", "[", "{a=[", "\\", "\u201c", "a", ", }", "a={b=1,"],
)
def test_the_search_for_a_correction_takes_linear_time(piece: str) -> None:
    began = time.process_time()
    parsed_or_refused((piece * MAX_BYTES)[:MAX_BYTES])
    parsed_or_refused(("{a=" + piece * MAX_BYTES)[:MAX_BYTES])
    assert time.process_time() - began < 1


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.sampled_from(
        ["to", "methods", "path", "from", "percent", "mirror", "fallback", "timeout", "delay", "abort"]
    ),
    _JSON,
)
@examples(60)
def test_any_value_of_any_option_parses_or_is_refused_with_its_place(option: str, value: object) -> None:
    outcome = parsed_or_refused(json.dumps({"foo": {"to": "alice"} | {option: value}}))
    if isinstance(outcome, ContractInvalid):
        assert any(place in outcome.message for place in ("service 'foo'", "JSON value", "number"))


@given(st.ip_addresses(), st.integers(1, 65535))
@examples(30)
def test_every_ip_address_survives_a_round_trip(ip: object, port: int) -> None:
    address = Address(str(ip), port)
    assert parse_address(str(address)) == address
    assert address.is_literal


@pytest.mark.parametrize(
    "text", ["", ":", "x:", ":8001", "[", "[]:1", "a b:1", "x:1:2", "-a:1", "a-:1", "1.2.3.4:٣"]
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_address(text)
