"""The journal of the demo's requests: what it shows of a chain, and its bounds."""

from devroute.mesh.demo.journal import MAX_HOPS, MAX_REQUESTS, MAX_TEXT, Journal, trace_of


def test_a_chain_is_shown_while_it_goes_on() -> None:
    journal = Journal()
    journal.enter("t", "GET", "/", "{}", 1.0)
    first = journal.send("t", "a", 1.0)
    journal.receive("t", "a", "mesh", 1.1)
    journal.send("t", "b", 1.2)
    (shown,) = journal.as_json()
    a, b = shown["hops"]  # type: ignore[misc]
    assert (a["app"], a["ended"], b["app"], b["ended"]) == ("mesh", None, "", None)
    before = journal.version
    journal.answer(first, 200, "service", "names b", 2.0)
    assert journal.version > before
    assert journal.as_json()[0]["hops"][0]["reason"] == "names b"  # type: ignore[index]


def test_a_call_of_an_app_that_reports_nothing_is_shown_by_the_app_that_received_it() -> None:
    journal = Journal()
    journal.enter("t", "GET", "/", "", 1.0)
    journal.receive("t", "c", "mesh", 1.5)
    (hop,) = journal.as_json()[0]["hops"]  # type: ignore[misc]
    assert (hop["service"], hop["app"], hop["status"], hop["ended"]) == ("c", "mesh", None, 1.5)


def test_all_that_is_kept_is_bounded() -> None:
    journal = Journal()
    for number in range(2 * MAX_REQUESTS):
        journal.enter(f"t{number % 60}", "GET", "x" * 9999, "x" * 9999, 1.0)
        for _ in range(2 * MAX_HOPS):
            hop = journal.send(f"t{number % 60}", "a", 1.0)
        journal.answer(hop, 200, "x", "x" * 9999, 1.0)
    kept = journal.as_json()
    assert len(kept) == MAX_REQUESTS
    assert max(len(str(each["path"])) for each in kept) == MAX_TEXT
    assert max(len(each["hops"]) for each in kept) == MAX_HOPS  # type: ignore[arg-type]
    before = journal.version
    for trace in ("unknown", *(f"t{number}" for number in range(40, 50))):  # dropped, and not entered again
        journal.receive(trace, "b", "mesh", 1.0)
    assert (journal.as_json(), journal.version) == (kept, before)


def test_a_trace_is_read_from_its_header() -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    assert trace_of({"traceparent": f"00-{trace}-b7ad6b7169203331-01"}) == trace
    other = "de7e0a7e16cd43dd8448eb211c80319c"
    contract = f'{{"b": "you","devroute-trace":"{other}"}}'
    assert trace_of({"x-devroute": contract, "traceparent": f"00-{trace}-b7ad6b7169203331-01"}) == other
    assert trace_of({"traceparent": f"00-{trace}-b7"}) == trace_of({}) == ""
