"""The set of saved contracts, and reading a contract by its name."""

import time
from dataclasses import replace

import pytest

from devroute.contract.grammar import Contract, parse
from devroute.contract.trace_id import with_trace
from devroute.errors import (
    ContractInvalid,
    ContractNotOwned,
    ContractsUnavailable,
    ContractUnknown,
    TooManyContracts,
)
from devroute.policy.policy import Policy
from devroute.routing.contract_report import report_contract
from devroute.routing.decision import FALLBACK_TTL_MS, TTL_MS, decide
from devroute.routing.named_contracts import (
    COMPARE_BURST,
    MAX_BYTES,
    MAX_BYTES_PER_SUBJECT,
    MAX_CONTRACTS,
    MAX_GONE,
    MAX_PER_SUBJECT,
    ContractReader,
    NamedContract,
    NamedContracts,
)
from devroute.routing.registry import Registry

NOW = 1_700_000_000.0
TEXT = '{"foo": "alice", "bar": "version:v2"}'


def saved(name: str = "checkout", owner: str = "alice", text: str = TEXT, ttl: float = 3600) -> NamedContract:
    return NamedContract.of(name, text, owner, NOW, NOW + ttl)


@pytest.fixture
def names() -> NamedContracts:
    names = NamedContracts()
    names.put(saved())
    return names


def reader(names: NamedContracts, now: float = NOW) -> ContractReader:
    return ContractReader(parse, names, lambda: now)


# --- reading ------------------------------------------------------------------------------------------------


def test_a_name_is_read_as_the_contract_that_it_stands_for(names: NamedContracts) -> None:
    traced = with_trace("@checkout", "0" * 32)
    for raw in ("@checkout", traced):
        contract = reader(names)(raw)
        assert (contract.raw, contract.entries) == ("@checkout", parse(TEXT).entries)
        assert contract.saved is not None
        assert (contract.saved.name, contract.saved.owner) == ("checkout", "alice")
    assert reader(names)(TEXT) == parse(TEXT)


@pytest.mark.parametrize(
    "raw", ["@", "@Checkout", "@check out", "@a/b", "@-a", "@a-", "@" + "a" * 64, "@@a", "@a;b", "@é"]
)
def test_what_is_no_name_is_invalid_and_not_unknown(names: NamedContracts, raw: str) -> None:
    with pytest.raises(ContractInvalid) as caught:
        reader(names)(raw)
    assert "@checkout" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "message", "hint"),
    [
        ("chekcout", "no contract is saved as '@chekcout'", "did you mean @checkout (of alice)?"),
        ("checkout-2", "no contract is saved as '@checkout-2'", "did you mean @checkout (of alice)?"),
        ("payments", "no contract is saved as '@payments'", "ask who gave you the name, or save it"),
        ("gone", "the contract '@gone' of bob was deleted 10 s ago", "ask bob to save it again"),
        ("brief", "the contract '@brief' of carol expired 40 s ago", "ask carol to save it again"),
    ],
)
def test_an_unknown_name_says_who_to_ask(names: NamedContracts, name: str, message: str, hint: str) -> None:
    names.put(saved("gone", "bob"))
    names.put(saved("brief", "carol", ttl=10))
    names.remove("gone", NOW + 40)
    with pytest.raises(ContractUnknown) as caught:
        reader(names, NOW + 50)(f"@{name}")
    assert caught.value.message == message
    assert caught.value.hint.startswith(hint)


def test_an_unknown_name_is_no_fault_of_the_caller_while_not_all_names_are_known(
    names: NamedContracts,
) -> None:
    names.complete = False
    assert reader(names)("@checkout").entries
    decision = decide("@other", ["foo"], None, Policy(), Registry([]), read=reader(names), now=NOW)
    assert (decision.kind, decision.ttl_ms) == ("fallback", FALLBACK_TTL_MS)
    with pytest.raises(ContractsUnavailable):
        names.find("other", NOW)


def test_what_is_saved_later_is_proposed_too(names: NamedContracts) -> None:
    proposed = []
    for _ in range(2):
        with pytest.raises(ContractUnknown) as caught:
            names.find("payment", NOW)
        proposed.append("@payments (of bob)" in caught.value.hint)
        names.put(saved("payments", "bob"))
    assert proposed == [False, True]


def test_unknown_names_cost_little_however_many_are_saved() -> None:
    names = NamedContracts()
    for number in range(MAX_CONTRACTS):
        names.put(saved(f"{'checkout-' * 6}{number}", f"s{number % 100}"))
    began = time.process_time()
    for number in range(20):
        with pytest.raises(ContractUnknown):
            names.find(f"{'checkout-' * 6}{number}x", NOW)
    assert time.process_time() - began < 20 * 0.05


# --- decisions ----------------------------------------------------------------------------------------------


def test_a_flood_of_unknown_names_is_not_compared_with_names_that_were_made_for_it() -> None:
    names = NamedContracts()
    for number in range(MAX_PER_SUBJECT):
        names.put(NamedContract.of("a" * 58 + f"{number:05}", '{"b": "mallory"}', "mallory", NOW, NOW + 60))

    def hint(name: str, now: float) -> str:
        with pytest.raises(ContractUnknown) as caught:
            names.find(name, now)
        return caught.value.hint

    proposed = ["did you mean" in hint("a" * 57 + f"{number:06}", NOW) for number in range(1000, 1200)]
    assert proposed == [True] * COMPARE_BURST + [False] * (200 - COMPARE_BURST)
    assert "did you mean" in hint("a" * 57 + "001000", NOW)  # as before
    assert "did you mean" in hint("a" * 57 + "001199", NOW + 1)  # later again


def test_a_named_contract_decides_as_if_it_were_written_out(names: NamedContracts) -> None:
    for service in ("foo", "bar", "other"):
        by_name, written = (
            decide(raw, [service], None, Policy(), Registry([]), read=reader(names), now=NOW)
            for raw in ("@checkout", TEXT)
        )
        assert (by_name.kind, by_name.reason, by_name.target, by_name.ttl_ms) == (
            written.kind,
            written.reason,
            written.target,
            written.ttl_ms,
        )


def test_an_unsigned_named_contract_is_refused_where_policy_requires_signatures(
    names: NamedContracts,
) -> None:
    policy = Policy.parse("require: signed")
    decision = decide("@checkout", ["bar"], None, policy, Registry([]), read=reader(names), now=NOW)
    assert decision.error is not None
    assert (decision.kind, decision.error.code) == ("fallback", "contract-unsigned")


def test_a_decision_holds_no_longer_than_the_name(names: NamedContracts) -> None:
    def ttl(now: float) -> int:
        return decide(
            "@checkout", ["bar"], None, Policy(), Registry([]), read=reader(names, now), now=now
        ).ttl_ms

    assert [ttl(NOW), ttl(NOW + 3599.5)] == [TTL_MS, 500]


def test_a_gateway_learns_who_saved_it_and_for_how_long_it_is_kept(names: NamedContracts) -> None:
    lines = report_contract("@checkout", reader(names), Policy(), NOW + 100).decode().splitlines()
    assert "saved-by alice" in lines
    assert "expires 3500" in lines
    assert "ttl 1000" in lines
    unknown = report_contract("@chekcout", reader(names), Policy(), NOW).decode().splitlines()
    assert "code contract-unknown" in unknown


# --- changes ------------------------------------------------------------------------------------------------


def test_only_the_owner_and_administrators_change_a_contract_until_it_expires(names: NamedContracts) -> None:
    stranger = saved(owner="bob")
    with pytest.raises(ContractNotOwned) as caught:
        names.permit_save(stranger, NOW, admin=False)
    assert "alice's" in caught.value.message
    with pytest.raises(ContractNotOwned):
        names.permit_change("checkout", "bob", NOW, admin=False)
    assert names.permit_change("checkout", "bob", NOW, admin=True) is names.get("checkout", NOW)
    assert names.permit_save(saved(), NOW, admin=False) is names.get("checkout", NOW)
    assert names.permit_save(stranger, NOW + 3600, admin=False) is None


def test_observers_hear_of_what_no_longer_stands_for_the_same(names: NamedContracts) -> None:
    heard: list[str] = []
    names.observers.append(heard.append)
    names.put(saved("new"))
    names.remove("unknown", NOW)
    assert heard == []
    names.put(saved(text='{"foo": "bob"}'))
    names.remove("new", NOW)
    names.expire(NOW + 3599)
    assert heard == ["checkout", "new"]
    names.expire(NOW + 3600)
    assert heard == ["checkout", "new", "checkout"]
    assert names.listing(0) == []


def refusal(names: NamedContracts, draft: NamedContract) -> str | None:
    try:
        names.permit_save(draft, NOW, admin=False)
    except TooManyContracts as error:
        return error.message
    return None


def test_contracts_are_bounded_for_each_subject_and_altogether() -> None:
    names = NamedContracts()
    for number in range(MAX_PER_SUBJECT):
        names.put(saved(f"c{number}"))
    assert "64 saved contracts" in (refusal(names, saved("more")) or "")
    assert refusal(names, saved("c0")) is None, "its own may be replaced"
    assert refusal(names, saved("more", "bob")) is None
    names.remove("c0", NOW)
    assert refusal(names, saved("more")) is None
    names = NamedContracts()
    for number in range(MAX_CONTRACTS):
        names.put(saved(f"c{number}", f"s{number % 100}"))
    assert "no room" in (refusal(names, saved("more")) or "")
    assert refusal(names, saved("c0", "s0")) is None
    names, long = NamedContracts(), '{"foo": "alice"' + " " * 8000 + "}"
    one = saved(text=long)
    for number in range(MAX_BYTES // len(long)):
        names.put(replace(one, name=f"c{number}", owner=f"s{number % 100}"))
    assert "no room" in (refusal(names, saved("more", text=long)) or "")


def test_the_bytes_of_a_subject_are_bounded() -> None:
    names = NamedContracts()
    long = '{"foo": "alice"' + " " * 8000 + "}"
    for number in range(MAX_BYTES_PER_SUBJECT // len(long)):
        names.put(saved(f"c{number}", text=long))
    assert "bytes" in (refusal(names, saved("more", text=long)) or "")


def test_what_was_deleted_is_remembered_within_a_bound() -> None:
    names = NamedContracts()
    for number in range(MAX_GONE + 10):
        names.put(saved(f"c{number}"))
        names.remove(f"c{number}", NOW)
    assert "no contract" in unknown(names, "c0")
    assert "deleted" in unknown(names, f"c{MAX_GONE + 9}")


def unknown(names: NamedContracts, name: str) -> str:
    with pytest.raises(ContractUnknown) as caught:
        names.find(name, NOW)
    return caught.value.message


def test_contract_has_no_name_by_itself() -> None:
    assert Contract(TEXT, parse(TEXT).entries).saved is None
    with pytest.raises(ContractInvalid, match="only the server knows"):
        parse("@checkout")
