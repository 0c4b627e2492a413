"""What a trace says: who answered where, and what became of services that were not reached."""

import json
from collections.abc import Sequence

import pytest

from devroute.agent.trace_report import (
    TraceResult,
    as_document,
    is_complete,
    lines,
    missing_services,
    reason_of,
    summary,
    unmet_expectations,
)
from devroute.contract.grammar import parse
from devroute.contract.signer import SigningKey, sign
from devroute.routing.trace import Hop

CONTRACT = '{"b": "alice", "c": "version:v2"}'
KNOWN = ["a", "b", "b-v1", "c"]


def hop(service: str, result: str = "service", contract: str = CONTRACT, **more: object) -> Hop:
    given = {"namespace": "shop", "reason": "", "request_id": "", "at_ms": 0.0, "names": (service,)} | more
    return Hop(service=service, result=result, contract=contract, **given)  # type: ignore[arg-type]


def by_laptop(service: str, name: str = "alice", **more: object) -> Hop:
    return hop(service, "laptop", target=name, status=200, took_ms=40.0, **more)


def no_contract(service: str) -> Hop:
    return hop(service, "", contract="", by_traceparent=True)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (
            [hop("a"), by_laptop("b"), hop("c", "version")],
            "alice's laptop answered at 'b'; version:v2 answered at 'c'",
        ),
        (
            [hop("a"), hop("b", "fallback", reason="laptop 'alice' is not online"), hop("c")],
            "the mesh's own service answered at 'b' (laptop 'alice' is not online);"
            " the mesh's own service answered at 'c'",
        ),
        (
            [by_laptop("b"), by_laptop("b"), hop("b", "mirror"), hop("c", "error", reason="loop")],
            "alice's laptop answered 2x, the mesh's own service answered (and alice got a copy) 1x at 'b';"
            " an error was the response at 'c' (loop)",
        ),
        (
            [hop("a"), by_laptop("b"), no_contract("c")],
            "alice's laptop answered at 'b'; the contract was lost on the way to 'c':"
            " 'b' passes on traceparent, but neither x-devroute nor baggage nor tracestate",
        ),
        (
            [hop("a"), hop("c")],
            "'b' was not called, or 'c' passes on neither x-devroute nor baggage nor traceparent;"
            " the mesh's own service answered at 'c'",
        ),
        (
            [hop("b", "laptop"), hop("c")],
            "the response of alice has not ended at 'b'; the mesh's own service answered at 'c'",
        ),
        (
            [hop("a", "error", contract="b=alice", reason="not valid JSON at character 1")],
            "'a' refused the contract (not valid JSON at character 1)",
        ),
        ([], "no service on the way had a sidecar that saw the contract"),
    ],
)
def test_one_sentence_says_who_responded(found: Sequence[Hop], said: str) -> None:
    assert summary(found, KNOWN) == said


def test_a_service_that_no_sidecar_was_is_a_typo_or_has_none() -> None:
    found = [hop("a", contract='{"bb": "alice", "payments": "bob", "b": "alice"}')]
    typo, unknown, uncalled = missing_services(found, KNOWN)
    assert (typo.why, typo.sentence) == ("no-sidecar", "no service on the way was 'bb'; did you mean 'b'?")
    assert (unknown.why, "no sidecar of that name" in unknown.sentence) == ("no-sidecar", True)
    assert (uncalled.key, uncalled.why) == ("b", "not-called")
    of_an_older_server = missing_services(found, None)
    assert [each.why for each in of_an_older_server] == ["not-called"] * 3


def test_a_service_is_found_by_each_of_its_names_in_its_namespace() -> None:
    found = [hop("b-v1", contract='{"b.shop": "alice", "b.qa": "bob"}', names=("b-v1", "b"))]
    assert [each.key for each in missing_services(found, KNOWN)] == ["b.qa"]


def test_a_signed_contract_is_read_too() -> None:
    signed = sign(parse('{"b": "alice"}'), SigningKey.new("alice"), "alice", 0, 60)
    assert summary([hop("a", contract=signed)], ["b"]).startswith("'b' was not called")


def test_a_lost_id_differs_from_a_lost_contract() -> None:
    found = [hop("a"), hop("b", by_traceparent=True)]
    assert lines(found)[-1] == (
        "the trace's id was lost before 'b', and found in traceparent: does 'a' write a contract of its own?"
    )
    assert "no contract" in lines([hop("a"), no_contract("b")])[1]


def test_each_hop_names_the_carriers_that_arrived() -> None:
    found = [hop("a", carriers=("x-devroute",)), by_laptop("b", carriers=("baggage", "tracestate")), hop("c")]
    first, second, third = lines(found)
    assert first.endswith("service   came by x-devroute")
    assert second.endswith("alice answered 200 after 40 ms; came by baggage, tracestate")
    assert "came by" not in third, "an older sidecar's report does not say"
    assert '"carriers": ["baggage", "tracestate"]' in json.dumps(
        as_document(TraceResult("1" * 32, found, KNOWN, 1.0, 0))
    )


@pytest.mark.parametrize(
    ("client", "language", "fix"),
    [
        ("python-requests/2.32.3", "Python", "opentelemetry-instrument"),
        ("Python/3.11 aiohttp/3.9.5", "Python", "opentelemetry-instrument"),
        ("node", "Node.js", "auto-instrumentations-node/register"),
        ("axios/1.7.2", "Node.js", "auto-instrumentations-node/register"),
        ("Go-http-client/1.1", "Go", "otel.SetTextMapPropagator"),
        ("grpc-go/1.65.0", "Go", "otel.SetTextMapPropagator"),
        ("Java-http-client/21.0.3", "Java", "-javaagent"),
        ("okhttp/4.12.0", "Java", "-javaagent"),
        ("grpc-dotnet/2.63.0 (.NET 8.0.6)", ".NET", "AddHeaderPropagation"),
        ("Faraday v2.9.0", "Ruby", "use_all"),
        ("GuzzleHttp/7", "PHP", "OTEL_PHP_AUTOLOAD_ENABLED"),
        ("curl/8.5.0", None, ""),
        ("Mozilla/5.0 (X11; Linux x86_64) node", None, ""),
        ("", None, ""),
    ],
)
def test_where_the_contract_was_lost_the_client_shows_the_language_and_its_fix(
    client: str, language: str | None, fix: str
) -> None:
    lost = hop("b", "", contract="", by_traceparent=True, client=client)
    shown = lines([hop("a"), lost, hop("c", "", contract="", by_traceparent=True, client=client)])
    if language is None:
        assert len(shown) == 3
    else:
        assert shown[-1].startswith(f"'a' calls others as '{client}', so in {language}: ")
        assert fix in shown[-1]
        assert len(shown) == 4, "only of the app that dropped it"


def test_the_advice_to_trace_is_left_out_of_a_trace() -> None:
    advice = "names b, c: devroute trace shows who answered there"
    assert reason_of(hop("a", reason=advice)) == ""
    assert reason_of(hop("a", reason=f"its method; {advice}")) == "its method"


def test_a_trace_is_complete_once_all_have_reported() -> None:
    assert not is_complete([])
    assert not is_complete([hop("a"), by_laptop("b")])
    assert not is_complete([hop("c"), hop("b", "laptop")])
    assert is_complete([hop("c"), by_laptop("b")])


@pytest.mark.parametrize(
    ("expected", "met"),
    [
        (("b", "alice"), True),
        (("b", "bob"), False),
        (("b", "service"), False),
        (("c", "version:v2"), True),
        (("a", "service"), True),
        (("d", "service"), False),
        (("e", "alice"), False),
        (("f", "service"), False),
        (("g", "alice"), False),
    ],
)
def test_an_expectation_is_met_only_if_every_response_is_from_there(
    expected: tuple[str, str], met: bool
) -> None:
    mixed = [by_laptop("e"), hop("e"), hop("f", "error"), hop("g", "laptop", '{"g": "alice"}')]
    found = [hop("a"), by_laptop("b"), hop("c", "version"), *mixed]
    assert (unmet_expectations(found, [expected]) == []) is met


def test_the_document_has_every_hop_and_every_service() -> None:
    document = as_document(TraceResult("t", [hop("a"), by_laptop("b")], KNOWN, 1.0, 0, "body"))
    assert json.loads(json.dumps(document)) == document
    assert document["services"] == {
        "b": {"responders": ["alice"], "missing": None},
        "c": {"responders": [], "missing": "not-called"},
    }
    assert (document["output"], document["missed"]) == ("body", ["c"])
