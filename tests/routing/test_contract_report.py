"""What a gateway gets to know of a contract: by the proxy, and as its Lua reads it."""

import json

import pytest

from devroute.contract.grammar import MAX_BYTES, parse
from devroute.contract.keys import Keys
from devroute.contract.signer import SigningKey, sign
from devroute.contract.validity import SKEW_S
from devroute.contract.verifier import Verifier
from devroute.policy.policy import Policy
from devroute.routing.contract_report import report_contract
from devroute.routing.resolve_codec import MAX_BYTES as MAX_REPORT
from tests.lua.worker import exports

KEY = SigningKey.new("qa")
KEYS = Keys.parse(json.dumps({"keys": [KEY.as_public_jwk()]}))
READ = Verifier(lambda: KEYS)
NOW = 1_800_000_000.0
CONTRACT = '{"foo": "alice", "bar.shop": "version:v2"}'
ENTRIES = [
    "all requests for foo go to the laptop alice; if that fails, the real service responds",
    "all requests for bar in namespace shop go to version v2 of the service; "
    "if that fails, the real service responds",
]
_, LUA = exports("lines, contract_report", "parse_report")


def report(raw: str, policy: str = "{}", now: float = NOW) -> dict[str, list[str]]:
    body = report_contract(raw, READ, Policy.parse(policy), now)
    assert len(body) <= MAX_REPORT
    first, *lines, last = body.decode("ascii").split("\n")
    assert (first, last) == ("devroute 1", "")
    found: dict[str, list[str]] = {}
    for line in lines:
        key, _, value = line.partition(" ")
        found.setdefault(key, []).append(value)
    in_lua = dict(LUA.parse_report(body.decode("ascii")).items())
    assert list(in_lua.pop("entries").values()) == found.get("entry", [])
    assert {key: [value] for key, value in in_lua.items()} == {
        key: value for key, value in found.items() if key != "entry"
    }
    return found


def test_a_contract_is_described_entry_by_entry() -> None:
    assert report(CONTRACT) == {"ttl": ["1000"], "entry": ENTRIES}


def test_a_signed_one_names_its_signer_and_how_long_it_is_valid() -> None:
    token = sign(parse(CONTRACT), KEY, "qa", NOW - 60, 600)
    assert report(token) == {"ttl": ["1000"], "signer": ["qa"], "expires": ["540"], "entry": ENTRIES}
    late = report(token, now=NOW + 540 + SKEW_S - 0.5)
    assert (late["ttl"], late["expires"]) == (["500"], ["0"]), "no longer believed than it is valid"


@pytest.mark.parametrize(
    ("raw", "policy", "problem"),
    [
        ("{", "{}", "JSON"),
        ("", "{}", "empty"),
        (CONTRACT + ", " + CONTRACT, "{}", "JSON"),
        ('{"foo": "alice", "foo": "bob"}', "{}", "twice"),
        ("{" + " " * MAX_BYTES + "}", "{}", "at most 8192"),
        (CONTRACT, "require: signed", "not signed"),
        (sign(parse(CONTRACT), KEY, "qa", NOW - 700, 600), "{}", "expired"),
        (sign(parse(CONTRACT), SigningKey.new("qa"), "qa", NOW, 600), "{}", "key"),
    ],
)
def test_what_does_not_count_has_one_problem_and_nothing_else(raw: str, policy: str, problem: str) -> None:
    found = report(raw, policy)
    assert found.keys() - {"corrected"} == {"ttl", "problem", "code", "status", "hint"}
    assert problem in found["problem"][0]


def test_an_invalid_contract_comes_with_its_correction() -> None:
    assert report("{'foo': 'alice'}") == {
        "ttl": ["1000"],
        "problem": ["not valid JSON at character 2: JSON needs double quotes, not single ones"],
        "code": ["contract-invalid"],
        "status": ["400"],
        "hint": ['write double quotes instead of single ones; send X-devroute: {"foo": "alice"}'],
        "corrected": ['{"foo": "alice"}'],
    }


def test_the_largest_contract_is_described_within_the_limit() -> None:
    entries = {f"s{number}": {"to": "a", "path": "/" + "x" * 90} for number in range(64)}
    raw = json.dumps(entries, separators=(",", ":"))
    assert len(raw) <= MAX_BYTES
    assert len(report(raw)["entry"]) == 64


@pytest.mark.parametrize(
    "body",
    [
        "",
        "devroute 1",
        "devroute 2\nttl 1\n",
        "devroute 1\nentry x\n",
        "devroute 1\nttl x\n",
        "devroute 1\nttl 1\nttl 2\n",
        "devroute 1\nttl 1\nexpires -1\n",
        "devroute 1\nttl 1\nproblem x\ncode x\nstatus 200\n",
        'devroute 1\nttl 1\nproblem x\ncode "x\nstatus 400\n',
        "devroute 1\nttl 1\nentry \x01\n",
        "devroute 1\nttl 1\nentry\n",
        "devroute 1\nttl 1\nentry " + "a" * MAX_REPORT + "\n",
    ],
)
def test_the_gateway_believes_no_other_response(body: str) -> None:
    assert LUA.parse_report(body) is None
