"""What the previous release sends means the same to this one, and what this one adds is nothing to it.

The vectors in tests/vectors/previous are those of the release before (tests/conformance/previous.py wrote
them there): agents, proxies and sidecars of both meet while a mesh is upgraded (docs/upgrading.md).
"""

import json
from typing import Any

import pytest

from devroute.contract.grammar import parse
from devroute.http.baggage import member_value, with_member
from devroute.mesh.manifests import lua
from devroute.routing.resolve_codec import encode
from devroute.tunnel.protocol.handshake import Hello, Notice, Renewed, Welcome, decode
from tests.conformance.previous import DECISIONS, FOLDER, GREETINGS, play
from tests.lua.worker import SETTINGS, Worker, exports
from tests.support.resolve_reader import decode as decode_lines

#: By the file's key.
KINDS: dict[str, type[Hello] | type[Welcome] | type[Renewed] | type[Notice]] = {
    "Hello": Hello,
    "Welcome": Welcome,
    "Renewed": Renewed,
    "Notice": Notice,
}
_, RULE = exports("text, path, random, caller, identity, lines, resolve, rule", "rule_of", "parse_lines")


def load(file: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((FOLDER / file).read_text(encoding="utf-8"))
    return content


RESPONSES = load("resolve.json")["responses"]


def known(value: Any, before: Any) -> Any:
    """What a reader of before sees: it ignores unknown members at each depth, but refuses unknown terms."""
    if isinstance(value, dict) and isinstance(before, dict):
        return {key: value[key] if key == "terms" else known(value[key], before[key]) for key in before}
    if isinstance(value, list) and isinstance(before, list) and len(value) == len(before):
        return [known(*each) for each in zip(value, before, strict=True)]
    return value


# --- agents and proxies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_greetings_of_before_are_read_as_they_were_meant(kind: str) -> None:
    bodies = load("greetings.json")[kind]
    assert [decode(KINDS[kind], json.dumps(each).encode()) for each in bodies] == list(GREETINGS[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_greetings_hold_all_that_a_reader_of_before_knows_as_it_knew_it(kind: str) -> None:
    for written, before in zip(GREETINGS[kind], load("greetings.json")[kind], strict=True):
        now = json.loads(written.encode())
        assert known(now, before) == before
        terms = [
            [each.get("terms") for each in body.get("services", []) if kind == "Hello"]
            for body in (now, before)
        ]
        assert terms[0] == terms[1], "a proxy of before refuses terms that it does not know"


def test_a_link_with_the_previous_release_is_a_link_with_this_one() -> None:
    """Each side of this release gets the bytes of before from the other, and sends what was sent then."""
    recorded = load("link.json")["steps"]
    assert play(recorded) == recorded


# --- sidecars -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", RESPONSES)
def test_a_sidecar_understands_the_proxy_of_before(body: str) -> None:
    values, _, _ = RULE.parse_lines(body, "copy")
    assert {key: [value] for key, value in values.items()} == decode_lines(body.encode())
    assert RULE.rule_of(body)[0].decision == values.decision


@pytest.mark.parametrize(
    ("decision", "body"), list(zip(DECISIONS, RESPONSES, strict=True)), ids=[each.kind for each in DECISIONS]
)
def test_the_proxy_of_this_release_adds_only_lines_that_sidecars_of_before_ignore(
    decision: Any, body: str
) -> None:
    """A line of another key is ignored: so it must change nothing that a sidecar of before would do."""
    now, before = decode_lines(encode(decision)), decode_lines(body.encode())
    assert {key: now[key] for key in before} == before
    assert now.keys() - before.keys() <= {"trace", "owner"}, "say in SIDECAR.md what older sidecars do then"


def vectors(file: str, key: str = "cases") -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = load(f"sidecar/{file}")[key]
    return cases


def test_responses_of_resolve_mean_what_they_meant() -> None:
    for case in vectors("resolve.json"):
        if "error" in case:
            with pytest.raises(ValueError):  # noqa: PT011 - any reason
                decode_lines(case["lines"].encode())
        else:
            assert decode_lines(case["lines"].encode()) == case["means"]
            if "\ndecision copy\n" not in case["lines"]:
                assert RULE.rule_of(case["lines"])[0].decision == case["means"]["decision"][0]


def test_contracts_name_the_services_that_they_named() -> None:
    for case in vectors("contract_key.json"):
        entry = parse(case["contract"]).find(case["candidates"], case["namespace"])
        assert (entry.key if entry else None) == case["key"]


def test_baggage_carries_what_it_carried() -> None:
    for case in vectors("baggage.json", "reads"):
        found = member_value(case["baggage"].encode(), b"devroute-via")
        assert (found.decode().replace("~", ", ") if found else None) == case["via"]
    for case in vectors("baggage.json", "writes"):
        if case["value"] is not None:
            before, member, value = (case[name].encode() for name in ("before", "member", "value"))
            assert with_member(before, member, value).decode() == case["after"]


def test_loops_are_found_where_they_were_found() -> None:
    for case in vectors("via.json"):
        given = {"x_devroute_via": case["header"], "baggage": case["baggage"]}
        worker = Worker(lua.source("decide", SETTINGS=SETTINGS), {"ISTIO_META_WORKLOAD_NAME": "foo"})
        worker.response = worker.responds(f"devroute 1\ndecision detour\nservice {case['key']}\n")
        handle = worker.request(
            '{"foo": "x"}', **{key: text for key, text in given.items() if text is not None}
        )
        assert (handle["result"] == "fallback") is case["passed"]
        if not case["passed"]:
            assert handle.sent("x-devroute-via") == case["after"]
