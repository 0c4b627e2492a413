"""`decide`, the sidecar filter for requests with a contract, under the LuaJIT that Envoy has too."""

import json
import re
from collections import Counter
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.trace_id import ID_PREFIX, with_trace
from devroute.errors import ContractUnknown
from devroute.http.baggage import member_value
from devroute.mesh.manifests import lua
from devroute.policy.rules import is_caller, matches
from devroute.quoting import MAX_REASON, reason_for_others
from devroute.routing.decision import Decision
from devroute.routing.resolve_codec import encode
from tests.lua import worker as envoy
from tests.lua.worker import DATA, OWN, SETTINGS, Handle, exports
from tests.support.examples import examples

_, RULE = exports("text, path, random, caller, identity, lines, resolve, rule", "patterns_of", "matches")
DETOUR = "devroute 1\ndecision detour\nservice foo\nttl 1000\n"


class Worker(envoy.Worker):
    def __init__(self, environment: dict[str, str], **settings: str | tuple[str, ...]) -> None:
        super().__init__(lua.source("decide", SETTINGS=SETTINGS | settings), environment)
        self.response = self.responds(DETOUR)


@pytest.fixture
def worker() -> Worker:
    return Worker({"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "shop"})


# --- named contracts ----------------------------------------------------------------------------------------


def test_a_name_is_asked_about_once_for_as_long_as_the_proxy_says(worker: Worker) -> None:
    carriers = [
        {"x_devroute": "@checkout"},
        {"baggage": "devroute=@checkout"},
        {"baggage": "devroute=%40checkout"},
    ]
    for carrier in carriers * 3:
        handle = worker.request(**carrier)
        assert handle["decision"] == "detour"
        assert handle.sent("x-devroute") == "@checkout"
        assert member_value((handle.sent("baggage") or "").encode(), b"devroute") in (
            b"@checkout",
            b"%40checkout",
        )
    assert [each["x-devroute"] for each in worker.asked] == ["@checkout"]
    worker.now += 1000
    worker.request("@checkout")
    assert len(worker.asked) == 2


def test_an_unknown_name_is_an_error_until_it_is_saved(worker: Worker) -> None:
    unknown = ContractUnknown("no contract is saved as '@checkout'")
    error = encode(Decision("error", reason=unknown.message, error=unknown)).decode()
    worker.response = worker.responds(error)
    responded = worker.request("@checkout").responded
    assert responded is not None
    assert (responded[0][":status"], json.loads(responded[1])["code"]) == ("400", "contract-unknown")
    worker.response, worker.now = worker.responds(DETOUR), worker.now + 1000
    assert worker.request("@checkout")["decision"] == "detour"


# --- the service's own name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sni", "found"),
    [
        ("outbound_.8080_._.foo.default.svc.cluster.local", ("foo", "default", "8080")),
        ("outbound_.80_.v1_a_.foo.shop.svc.corp.example", ("foo", "shop", "80")),
        ("foo.default.svc.cluster.local", (None, None)),
        ("outbound_.8080_._.foo.example.com", (None, None, "8080")),
        ("outbound_.http_._.foo.default.svc.cluster.local", (None, None)),
        ("", (None, None)),
    ],
)
def test_the_sni_names_the_service_that_was_dialled(sni: str, found: tuple[str | None, ...]) -> None:
    _, identity = exports("identity", "service_of_sni")
    assert identity.service_of_sni(sni)[:3] == found


def test_candidates_are_sent_in_the_order_of_trust(worker: Worker) -> None:
    worker = Worker(
        {"DEVROUTE_SERVICE": "own", "ISTIO_META_WORKLOAD_NAME": "own-v1", "POD_NAMESPACE": "pods"}
    )
    worker.owns("other.shop", "dialled.shop")
    worker.request('{"own": "x"}', sni="outbound_.8080_._.dialled.shop.svc.cluster.local")
    (asked,) = worker.asked
    assert asked["x-devroute-candidates"] == "dialled,own,own-v1"
    assert asked["x-devroute-namespace"] == "shop"


@pytest.mark.parametrize(
    "listed", [None, "-", "[]", '[{"host":"dialled.shop.svc.cluster.local.example"}]', '[{"name":"dialled"}]']
)
@pytest.mark.parametrize("dialled", ["dialled.shop", "dialled.other", 'x","dialled.shop', "dialled.shop.svc"])
def test_a_caller_cannot_claim_that_a_service_is_the_sidecar_s_own(
    worker: Worker, listed: str | None, dialled: str
) -> None:
    if listed is not None:
        worker.filter_state["devroute.services"] = listed
    sni = f"outbound_.8080_._.{dialled}.svc.cluster.local"
    handle = worker.request('{"dialled": "x"}', sni=sni)
    assert (worker.asked, handle["result"]) == ([], "service")
    worker.request('{"foo": "x"}', sni=sni)
    assert worker.asked[0]["x-devroute-candidates"] == "foo"
    assert worker.asked[0]["x-devroute-namespace"] == "shop"


def test_a_name_given_in_the_settings_is_the_only_one() -> None:
    worker = Worker({"ISTIO_META_WORKLOAD_NAME": "other"}, service="foo", namespace="shop")
    worker.request('{"foo": "x"}', sni="outbound_.8080_._.dialled.default.svc.cluster.local")
    assert worker.asked[0]["x-devroute-candidates"] == "foo"
    assert worker.asked[0]["x-devroute-namespace"] == "shop"


def test_a_sidecar_without_a_name_reports_it() -> None:
    worker = Worker({})
    handle = worker.request('{"foo": "x"}')
    assert (handle["decision"], worker.asked) == ("fallback", [])
    assert "DEVROUTE_SERVICE" in (handle["reason"] or "")


# --- who has to ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contract", "names"),
    [
        ('{"bar": "foo:80"}', ["bar"]),
        ('{"foobar": "x", "xfoo.shop": {"to": "y", "methods": ["GET"]}}', ["foobar", "xfoo.shop"]),
        (
            json.dumps({f"{'s' * 59}{number}": "x" for number in range(9)}),
            [f"{'s' * 59}{n}" for n in range(9)],
        ),
        (json.dumps({f"s{number}": "x" for number in range(64)}), [f"s{number}" for number in range(64)]),
    ],
)
def test_a_contract_that_names_others_is_not_asked_about(
    worker: Worker, contract: str, names: list[str]
) -> None:
    handle = worker.request(contract)
    assert (handle["result"], handle["reason"]) == ("service", reason_for_others(names))
    assert len(handle["reason"] or "") <= MAX_REASON
    assert (worker.asked, handle.cleared) == ([], False)


@pytest.mark.parametrize(
    "contract",
    [
        '{"foo": "x"}',
        '{"foo.shop": "x"}',
        '{"\\u0066oo": "x"}',
        "eyJhbGciOiJFUzI1NiJ9.e30.c2ln",
        "{",
        "foo",
        "",
    ],
)
def test_whatever_may_concern_this_service_is_asked_about(worker: Worker, contract: str) -> None:
    assert worker.request(contract)["decision"] == "detour"
    assert worker.asked[0]["x-devroute"] == contract


@pytest.mark.parametrize("contracts", [("{}", "{}"), ('{"foo": "x"}', '{"bar": "x"}')])
def test_a_repeated_header_is_an_error(worker: Worker, contracts: tuple[str, ...]) -> None:
    handle = worker.request(*contracts)
    assert handle.responded is not None
    headers, body = handle.responded
    assert (headers[":status"], headers["x-devroute-result"]) == ("400", "error")
    assert '"code": "contract-invalid"' in body
    assert (handle["decision"], worker.asked) == (None, [])


def test_the_longest_contract_is_8_kib(worker: Worker) -> None:
    longest = '{"foo": "x"}'.ljust(8191) + "}"
    assert worker.request(longest)["decision"] == "detour"
    assert worker.request(longest + "}").responded is not None
    assert len(worker.asked) == 1


# --- contracts that may be invalid -------------------------------------------------------------------------

INVALID = (
    "devroute 1\ndecision error\nttl 1000\nstatus 400\nreason no\n"
    'body {"code":"contract-invalid","message":"no"}\n'
)
TYPO = "{'bar': 'alice'}"


def test_an_invalid_contract_is_an_error_at_a_service_that_it_does_not_name(worker: Worker) -> None:
    worker.response = worker.responds(INVALID)
    for _ in range(3):
        handle = worker.request(TYPO)
        assert handle.responded is not None
        assert handle.responded[0][":status"] == "400"
        assert json.loads(handle.responded[1])["code"] == "contract-invalid"
    assert len(worker.asked) == 1


@pytest.mark.parametrize("contract", [TYPO, "{'foo': 'alice'}", "foo=alice", ""])
def test_the_proxy_is_asked_once_a_minute_about_an_invalid_contract(worker: Worker, contract: str) -> None:
    worker.response = worker.responds(INVALID)
    for now, asked in [(0, 1), (59_999, 1), (60_000, 2)]:
        worker.now = 1_000_000 + now
        assert worker.request(contract).responded is not None
        assert len(worker.asked) == asked


def test_a_name_that_is_not_read_is_asked_about_again_after_its_ttl(worker: Worker) -> None:
    """What it stands for may be signed with a key that the proxy is yet to fetch."""
    worker.response = worker.responds(INVALID)
    assert worker.request("@checkout").responded is not None
    worker.response, worker.now = worker.responds(DETOUR), worker.now + 1500
    assert worker.request("@checkout")["decision"] == "detour"


def test_another_error_holds_for_its_ttl(worker: Worker) -> None:
    worker.response = worker.responds(INVALID.replace("contract-invalid", "laptop-offline"))
    for now, asked in [(0, 1), (999, 1), (1000, 2)]:
        worker.now = 1_000_000 + now
        worker.request('{"foo": "[fd00::1]:80"}')
        assert len(worker.asked) == asked


def test_the_proxy_is_asked_once_about_a_valid_contract_that_is_not_plain(worker: Worker) -> None:
    worker.response = worker.responds("devroute 1\ndecision service\nttl 1000\n")
    for now in (0, 1000, 100_000_000):
        worker.now = 1_000_000 + now
        handle = worker.request('{"bar": "[fd00::1]:80"}')
        assert (handle["result"], handle["reason"], handle.cleared) == (
            "service",
            reason_for_others([]),
            False,
        )
    assert len(worker.asked) == 1


def test_a_proxy_that_fails_leaves_an_unclear_contract_to_the_service(worker: Worker) -> None:
    worker.response = worker.responds("", "504")
    for now, asked in [(0, 1), (4_999, 1), (5_000, 2)]:
        worker.now = 1_000_000 + now
        handle = worker.request(TYPO)
        reason = "the contract was not checked: the devroute proxy did not respond within 500 ms"
        assert (handle["result"], handle["reason"]) == ("service", reason)
        assert len(worker.asked) == asked
    worker.now += 5_000
    worker.response = worker.responds(INVALID)
    assert worker.request(TYPO).responded is not None


def test_a_sidecar_without_a_name_refuses_an_invalid_contract_too() -> None:
    worker = Worker({})
    worker.response = worker.responds(INVALID)
    assert worker.request(TYPO).responded is not None
    worker.response = worker.responds("", "503")
    assert "DEVROUTE_SERVICE" in (worker.request("{'foo': 'alice'}")["reason"] or "")


# --- the response ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("owner", ["10.0.3.7:8080", "[fd00::7]:8080"])
def test_a_detour_goes_to_the_replica_of_the_laptop_or_else_to_any(worker: Worker, owner: str) -> None:
    worker.response = worker.responds(f"{DETOUR}owner {owner}\n")
    for _ in range(2):
        assert worker.request('{"foo": "alice"}').host == (owner, False)
    assert len(worker.asked) == 1


@pytest.mark.parametrize("lines", [DETOUR, DETOUR.replace("detour", "mirror") + "owner 10.0.3.7:8080\n"])
def test_no_other_request_has_its_host_chosen(worker: Worker, lines: str) -> None:
    """The request that is mirrored goes to the service itself."""
    worker.response = worker.responds(lines)
    handle = worker.request('{"foo": "alice"}')
    assert handle.cleared
    assert handle.host is None


def test_an_envoy_without_a_choice_of_host_detours_all_the_same(worker: Worker) -> None:
    class Older(Handle):
        setUpstreamOverrideHost = None  # type: ignore[assignment]

    worker.response = worker.responds(f"{DETOUR}owner 10.0.3.7:8080\n")
    fields = [("x-devroute", '{"foo": "alice"}'), (":method", "GET"), (":path", "/")]
    assert worker.handle(Older(worker, fields)).cleared


def test_a_detour_names_its_service_and_nothing_else(worker: Worker) -> None:
    handle = worker.request('{"foo": "x"}')
    assert handle.decided == {("devroute", "result"): "error"}
    assert (handle.sent("x-devroute-cluster"), handle.sent("x-devroute-matched")) == (None, "foo")
    assert handle.cleared


def test_unknown_keys_are_ignored(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR + "x-new yes\n")
    assert worker.request('{"foo": "x"}')["decision"] == "detour"


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>",
        "devroute 2\ndecision service\n",
        "devroute 1",
        "devroute 1\n",
        "devroute 1\ndecision maybe\n",
        "devroute 1\ndecision detour\n",
        "devroute 1\ndecision detour\nservice a b\n",
        "devroute 1\ndecision detour\nservice foo\r\n",
        "devroute 1\ndecision detour\nservice foo\nservice bar\n",
        "devroute 1\ndecision detour\nservice foo\nttl -1\n",
        "devroute 1\ndecision detour\nservice foo\nttl 99999\n",
        "devroute 1\ndecision fallback\n",
        "devroute 1\ndecision error\nreason r\nbody {}\n",
        "devroute 1\ndecision error\nreason r\nbody {}\nstatus 200\n",
        "devroute 1\ndecision error\nreason r\nstatus 400\n",
        "devroute 1\ndecision service\nreason caf\u00e9\n",
        "devroute 1\ndecision service\n" + "x y\n" * 20_000,
    ],
)
def test_an_invalid_response_leaves_the_request_to_the_service(worker: Worker, answer: str) -> None:
    worker.response = worker.responds(answer)
    handle = worker.request('{"foo": "x"}')
    assert handle["result"] == "fallback"
    assert handle["reason"] == "the devroute proxy's response was not understood"


@pytest.mark.parametrize(
    ("status", "reason"),
    [("503", "cannot be reached"), ("504", "did not respond within 500 ms"), ("404", "status 404")],
)
def test_no_response_leaves_the_request_to_the_service(worker: Worker, status: str, reason: str) -> None:
    worker.response = worker.responds(DETOUR, status)
    handle = worker.request('{"foo": "x"}')
    assert handle["decision"] == "fallback"
    assert reason in (handle["reason"] or "")


def test_an_error_is_returned_at_once(worker: Worker) -> None:
    worker.response = worker.responds(
        'devroute 1\ndecision error\nstatus 403\nreason no\nbody {"code": "x"}\nttl 9\n'
    )
    handle = worker.request('{"foo": "x"}')
    assert handle.responded == (
        {
            ":status": "403",
            "content-type": "application/json",
            "cache-control": "no-store",
            "x-devroute-result": "error",
            "x-devroute-reason": "no",
        },
        '{"code": "x"}\n',
    )


def test_a_long_reason_is_cut(worker: Worker) -> None:
    worker.response = worker.responds(f"devroute 1\ndecision fallback\nreason {'long ' * 100}\nttl 0\n")
    assert len(worker.request('{"foo": "x"}')["reason"] or "") == 200


def test_a_missing_cluster_leaves_the_request_to_the_service(worker: Worker) -> None:
    worker.clusters.clear()
    handle = worker.request('{"foo": "x"}')
    assert (handle["decision"], handle["reason"]) == (
        "fallback",
        "the sidecar does not know the cluster of the devroute proxy; do the egress hosts of its Sidecar"
        " resource name devroute/*?",
    )


def test_a_failure_of_the_filter_leaves_the_request_to_the_service(worker: Worker) -> None:
    class Broken(Handle):
        def timestamp(self, _: object) -> int:
            raise RuntimeError("out of order")

    handle = worker.handle(Broken(worker, [("x-devroute", '{"foo": "x"}')]))
    assert handle["decision"] == "fallback"
    assert "out of order" in worker.logged[0]


# --- the cache ---------------------------------------------------------------------------------------------


def test_a_decision_holds_for_its_ttl(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR.replace("1000", "300"))
    for now, asked in [(0, 1), (299, 1), (300, 2)]:
        worker.now = 1_000_000 + now
        worker.request('{"foo": "x"}')
        assert len(worker.asked) == asked


def test_a_decision_never_holds_longer_than_a_second(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR.replace("1000", "9999"))
    worker.request('{"foo": "x"}')
    worker.now += 1000
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_a_clock_that_is_set_back_does_not_prolong_a_decision(worker: Worker) -> None:
    worker.request('{"foo": "x"}')
    worker.now -= 3_600_000
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_ttl_zero_is_asked_again(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR.replace("1000", "0"))
    worker.request('{"foo": "x"}')
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_a_dead_proxy_costs_its_timeout_once_a_second(worker: Worker) -> None:
    worker.response = worker.responds("upstream request timeout", "504")
    assert [worker.request('{"foo": "x"}')["decision"] for _ in range(5)] == ["fallback"] * 5
    assert len(worker.asked) == 1


def test_decisions_are_cached_per_service_and_not_per_caller(worker: Worker) -> None:
    dialled = "outbound_.8080_._.{}.shop.svc.cluster.local"
    worker.owns("foo.shop", "bar.shop")
    for sni, caller in [("foo", "spiffe://a"), ("foo", "spiffe://b"), ("bar", None), ("foo", None)]:
        worker.request('{"foo": "x"}', sni=dialled.format(sni), caller=caller)
    assert len(worker.asked) == 2


def test_a_flood_of_contracts_or_services_is_bounded(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR.replace("1000", "9999"))
    for number in range(256):
        worker.request(f'{{"foo": "x{number}"}}')
    worker.request('{"foo": "x0"}')
    assert len(worker.asked) == 256
    worker.request('{"foo": "x256"}')
    worker.request('{"foo": "x0"}')  # asked about again: all were forgotten
    assert len(worker.asked) == 258
    worker.asked.clear()
    worker.owns(*(f"foo{number}.shop" for number in range(17)))
    for number in range(17):  # the first is asked about again: its service was forgotten
        worker.request('{"foo": "x"}', sni=f"outbound_.8080_._.foo{number}.shop.svc.cluster.local")
    worker.request('{"foo": "x"}', sni="outbound_.8080_._.foo0.shop.svc.cluster.local")
    assert len(worker.asked) == 18


@pytest.mark.parametrize("by_baggage", [False, True])
def test_what_a_worker_remembers_of_a_flood_is_bounded_by_bytes(worker: Worker, by_baggage: bool) -> None:
    worker.owns(*(f"foo{number}.shop" for number in range(16)))
    collect = worker.lua.eval("function() collectgarbage() return collectgarbage('count') / 1024 end")
    before, sni = collect(), "outbound_.80_._.foo{}.shop.svc.cluster.local"
    for number in range(700):
        contract = f'{{"foo": "{number} {"x" * 7000}"}}'
        sent = {"baggage": f"a{number}={'y' * 40_000}"}
        if by_baggage:
            sent["baggage"] = f"a={number}{'y' * 900},devroute={quote(contract, safe='')}"
        worker.request(*([] if by_baggage else [contract]), sni=sni.format(number % 16), **sent)
    assert worker.logged == []
    assert collect() - before < 8  # MiB


CARRIED = {
    "baggage": "user=1",
    "tracestate": "vendor=1",
    "traceparent": f"00-{'1' * 32}-{'2' * 16}-01",
}


@pytest.mark.parametrize("contract", ['{"foo": "x"}', '{"bar": "x"}'])
@pytest.mark.parametrize("carriers", [("baggage", "tracestate"), ("x-acme-context",)])
def test_each_header_is_read_once_and_written_once(contract: str, carriers: tuple[str, ...]) -> None:
    """Each such call costs a request more than what is done with its result."""
    worker = Worker({"ISTIO_META_WORKLOAD_NAME": "foo"}, carriers=carriers)
    for _ in ("the proxy is asked", "cached"):
        handle = worker.request(contract, **CARRIED)
        assert contract.replace(" ", "") in unquote(handle.sent(carriers[0]) or "")
        written = [name for method, name in handle.calls if method in ("replace", "remove")]
        assert set(Counter(handle.calls).values()) == {1}
        assert set(Counter(written).values()) == {1}
    assert worker.logged == []


# --- conditions --------------------------------------------------------------------------------------------

SPIFFE = "spiffe://cluster.local/ns/shop/sa/web"


@pytest.mark.parametrize(
    ("line", "request_", "unmet"),
    [
        ("methods GET,POST", {}, None),
        ("methods POST,PUT", {}, "its method"),
        ("methods POST", {"_method": "POST"}, None),
        ("path /api/", {"_path": "/api/x?y"}, None),
        ("path /api/", {"_path": "/api"}, "its path"),
        ("path /a.i", {"_path": "/api"}, "its path"),
        (f"from other/x,{SPIFFE}", {"caller": SPIFFE}, None),
        ("from shop/web", {"caller": SPIFFE}, None),
        ("from shop/web", {"caller": SPIFFE + "2"}, "its caller"),
        ("from shop/web", {"caller": "spiffe://x/ns/shop/sa/web/more"}, "its caller"),
        ("from shop/web", {"x_forwarded_client_cert": f"URI={SPIFFE}"}, "its caller"),
        ("percent 100", {}, None),
        ("percent 0", {}, "its percentage"),
    ],
)
def test_a_decision_is_for_the_requests_that_meet_its_conditions(
    worker: Worker, line: str, request_: dict[str, str], unmet: str | None
) -> None:
    worker.response = worker.responds(DETOUR + line + "\n")
    handle = worker.request('{"foo": "x"}', **request_)
    if unmet is None:
        assert handle["decision"] == "detour"
    else:
        assert handle["result"] == "service"
        assert handle["reason"] == f"the contract leaves this request to the service: {unmet}"


CALLERS = [
    None,
    SPIFFE,
    SPIFFE + "2",
    "spiffe://x/ns/shop/sa/web/more",
    "spiffe://y/ns/qa/sa/r.1+2%a",
    "spiffe://z",
]


@pytest.mark.parametrize(
    "pattern",
    ["shop/web", "shop/*", "*/*", "*/w*b", SPIFFE, "spiffe://*/ns/*/sa/web", "spiffe://y/ns/qa/sa/r.1+2%a",
     "spiffe://y/ns/qa/sa/r.*%a", "spiffe://z", "spiffe://*", "qa/r.1", "[^x]/web", "s.op/web"],
)  # fmt: skip
def test_patterns_of_callers_match_as_in_the_proxys_policy(worker: Worker, pattern: str) -> None:
    worker.response = worker.responds(f"{DETOUR}callers other/x,{pattern}\n")
    seen = {
        caller: worker.request('{"foo": "x"}', caller=caller, x_devroute_caller="spiffe://forged")
        for caller in CALLERS
    }
    permitted = {caller for caller, handle in seen.items() if handle["decision"] == "detour"}
    assert permitted == {caller for caller in CALLERS if is_caller(pattern, caller or "")}
    assert len(worker.asked) == 1, "one answer serves all callers"
    for caller, handle in seen.items():
        if caller in permitted:
            assert handle.sent("x-devroute-caller") == caller
        else:
            assert handle["result"] == "fallback"
            assert (caller or "a caller without a mesh identity") in (handle["reason"] or "")


@examples(1000)
@given(st.text("ab*/", max_size=9), st.text("ab/", max_size=9))
def test_stars_of_patterns_mean_what_they_mean_to_the_proxy(pattern: str, text: str) -> None:
    permitted = bool(RULE.matches(RULE.patterns_of(pattern)[1].segments, text)) if pattern else text == ""
    assert permitted is matches(pattern, text)
    simply = "[^/]*".join(map(re.escape, pattern.split("*")))
    assert permitted is bool(re.fullmatch(simply, text)), "what both mean"


def test_a_caller_that_policy_refuses_is_an_error_with_fallback_fail(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR + "callers qa/*\nfallback fail\n")
    handle = worker.request('{"foo": "x"}', caller=SPIFFE)
    assert handle.responded is not None
    headers, body = handle.responded
    assert (headers[":status"], json.loads(body)["code"]) == ("403", "caller-denied")
    assert f"lets '{SPIFFE}' use this target" in json.loads(body)["message"]


@pytest.mark.parametrize("decision", ["detour", "mirror", "version"])
def test_callers_are_restricted_whatever_the_decision(worker: Worker, decision: str) -> None:
    answer = f"devroute 1\ndecision {decision}\nservice foo\nttl 1000\nversion v2\ncallers shop/*\n"
    worker.response = worker.responds(answer)
    worker.clusters.add("outbound|8080|v2|foo.shop.svc.cluster.local")
    permitted = worker.request('{"foo": "x"}', caller=SPIFFE, x_devroute_caller="spiffe://forged")
    assert (permitted["decision"], permitted.sent("x-devroute-caller")) == (decision, SPIFFE)
    assert worker.request('{"foo": "x"}', caller="spiffe://x/ns/qa/sa/web")["result"] == "fallback"


@pytest.mark.parametrize("odd", ["spiffe://x/a b", "spiffe://x/\n", "spiffe://x/" + "a" * 1100])
def test_an_identity_that_is_not_a_valid_header_value_is_ignored(worker: Worker, odd: str) -> None:
    worker.response = worker.responds(DETOUR + "callers spiffe://x/*\n")
    assert worker.request('{"foo": "x"}', caller=odd)["result"] == "fallback"
    worker.response = worker.responds(DETOUR)
    handle = worker.request('{"foo": "y"}', caller=odd, x_devroute_caller="spiffe://forged")
    assert (handle["decision"], handle.sent("x-devroute-caller")) == ("detour", None)


def test_conditions_hold_for_fallbacks_and_errors_too(worker: Worker) -> None:
    worker.response = worker.responds("devroute 1\ndecision fallback\nreason offline\nttl 0\nmethods POST\n")
    assert worker.request('{"foo": "x"}')["result"] == "service"
    assert worker.request('{"foo": "x"}', _method="POST")["result"] == "fallback"


def test_conditions_are_tested_for_each_request_of_a_cached_decision(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR + "percent 25\n")
    seen = [worker.request('{"foo": "x"}')["decision"] for _ in range(2000)]
    assert set(seen) == {"detour", "service"}
    assert 380 < seen.count("detour") < 620  # 500 ± 6 sigma
    assert len(worker.asked) == 1


# --- elsewhere ---------------------------------------------------------------------------------------------


def test_a_copy_goes_to_the_proxy_and_the_request_to_the_service(worker: Worker) -> None:
    worker.response = worker.responds(DETOUR.replace("detour", "mirror"))
    handle = worker.request('{"foo": "x"}')
    assert (handle["result"], handle.sent("x-devroute-cluster")) == ("mirror", OWN)
    assert handle.sent("x-devroute-shadow") == DATA
    worker.clusters.remove(OWN)
    handle = worker.request('{"foo": "x"}')
    assert (handle["result"], handle.sent("x-devroute-cluster")) == ("fallback", None)


VERSION = "devroute 1\ndecision version\nservice foo\nversion v2\nttl 1000\n"
DIALLED = "outbound_.80_.v1_.foo.shop.svc.corp.example"


@pytest.mark.parametrize(
    ("cluster", "request_"),
    [
        ("outbound|80|v2|foo.shop.svc.corp.example", {"sni": DIALLED}),
        ("outbound|8080|v2|foo.shop.svc.cluster.local", {}),
        ("outbound|80|v2|foo.shop.svc.cluster.local", {"_authority": "foo"}),
        ("outbound|8080|v2|foo.shop.svc.cluster.local", {"_authority": "foo.example:443"}),
    ],
)
def test_a_version_is_a_subset_at_the_services_port(
    worker: Worker, cluster: str, request_: dict[str, str]
) -> None:
    worker.response = worker.responds(VERSION + "timeout 1500\n")
    worker.clusters.add(cluster)
    worker.filter_state["devroute.services"] = '[{"host":"foo.shop.svc.corp.example","name":"foo"}]'
    handle = worker.request('{"foo": "version:v2"}', **request_)
    assert (handle["result"], handle.sent("x-devroute-cluster")) == ("version", cluster)
    assert handle.sent("x-envoy-upstream-rq-timeout-ms") == "1500"


def test_a_version_that_is_not_there_is_a_fallback_or_an_error(worker: Worker) -> None:
    worker.response = worker.responds(VERSION)
    handle = worker.request('{"foo": "version:v2"}')
    assert handle["result"] == "fallback"
    assert handle["reason"] == "version-missing: the sidecar knows no version 'v2' of service 'foo'"
    worker.now += 1000
    worker.response = worker.responds(VERSION + "fallback fail\n")
    handle = worker.request('{"foo": "version:v2"}')
    assert handle.responded is not None
    body = json.loads(handle.responded[1])
    assert (handle.responded[0][":status"], body["code"]) == ("503", "version-missing")
    assert (body["service"], body["target"]) == ("foo", "version:v2")


# --- the way so far ----------------------------------------------------------------------------------------


def test_header_and_baggage_list_the_services_on_the_way(worker: Worker) -> None:
    handle = worker.request('{"foo": "x"}', x_devroute_via="bar, baz")
    assert handle.sent("x-devroute-via") == "bar, baz, foo"
    assert handle.sent("baggage") == "devroute=%7B%22foo%22%3A%22x%22%7D,devroute-via=bar~baz~foo"
    handle = worker.request('{"foo": "x"}', baggage="a=b;p, devroute-via=bar~baz ,c=d")
    assert handle.sent("x-devroute-via") == "bar, baz, foo"
    assert handle.sent("baggage") == "a=b;p,devroute-via=bar~baz~foo,c=d,devroute=%7B%22foo%22%3A%22x%22%7D"


@pytest.mark.parametrize(
    "way", [{"x_devroute_via": "foo"}, {"x_devroute_via": "a,foo ,b"}, {"baggage": "devroute-via=bar~foo"}]
)
def test_a_request_is_sent_away_once_by_each_service(worker: Worker, way: dict[str, str]) -> None:
    handle = worker.request('{"foo": "x"}', **way)
    assert handle["result"] == "fallback"
    assert (handle["reason"] or "").startswith("loop: the contract leads back to service 'foo'")
    worker.response = worker.responds(DETOUR + "fallback fail\n")
    handle = worker.request('{"foo":  "x"}', **way)
    assert handle.responded is not None
    assert handle.responded[0][":status"] == "508"
    assert json.loads(handle.responded[1])["code"] == "loop"


@pytest.mark.parametrize("via", ["bar", "foobar, xfoo", "foo.shop"])
def test_other_services_on_the_way_do_not_matter(worker: Worker, via: str) -> None:
    assert worker.request('{"foo": "x"}', x_devroute_via=via)["decision"] == "detour"


def test_at_its_version_a_request_has_arrived_whatever_its_percentage(worker: Worker) -> None:
    worker.response = worker.responds(VERSION + "percent 0\n")
    handle = worker.request('{"foo": "version:v2"}', x_devroute_via="foo")
    assert (handle["result"], handle["reason"]) == ("", None)


# --- failover -----------------------------------------------------------------------------------------------

PROXY = "spiffe://cluster.local/ns/devroute/sa/devroute-proxy"
FAILED_OVER = {"x_devroute_failover": "foo", "x_devroute_host": "shop.example", "_authority": "foo.shop:8080"}


@pytest.mark.parametrize(
    ("caller", "setting", "trusted"),
    [
        (PROXY, "devroute/devroute-proxy", True),
        (PROXY, None, False),
        (PROXY, "tools/devroute-proxy", False),
        (None, "devroute/devroute-proxy", False),
        (SPIFFE, "devroute/devroute-proxy", False),
        (PROXY.replace("cluster.local", "other.example"), "devroute/devroute-proxy", False),
        (PROXY + "/more", "devroute/devroute-proxy", False),
    ],
)
def test_only_the_proxy_says_that_a_request_failed_over(
    caller: str | None, setting: str | None, trusted: bool
) -> None:
    worker = Worker({"ISTIO_META_WORKLOAD_NAME": "foo"}, **({"proxy": setting} if setting else {}))
    for contract in ('{"foo": "x"}', '{"bar": "x"}'):
        handle = worker.request(contract, caller=caller, **FAILED_OVER)
        assert (handle.sent("x-devroute-failover"), handle.sent("x-devroute-host")) == (None, None)
        assert handle.sent(":authority") == ("shop.example" if trusted else "foo.shop:8080")
        assert (handle["reason"] == "the laptop declined this request") is trusted
    assert len(worker.asked) == (0 if trusted else 1)


# --- baggage -----------------------------------------------------------------------------------------------

FOO = "devroute=%7B%22foo%22%3A%22x%22%7D"
BAR = "devroute=%7B%22bar%22%3A%22x%22%7D"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, BAR),
        ("", BAR),
        ("a=b", f"a=b,{BAR}"),
        ("a=b ; p=q ,\tc = d,,malformed,=", f"a=b ; p=q ,\tc = d,,malformed,=,{BAR}"),
        (f"a=b,{FOO};p=q,c=d", f"a=b,{BAR},c=d"),
        (f"{FOO}, devroute =x,c=d", f"{BAR},c=d"),
        (f"xdevroute=1,{BAR}", f"xdevroute=1,{BAR}"),
        ("a=" + "b" * 8185, "a=" + "b" * 8185),
        (f"{FOO},a=" + "b" * 8170, "a=" + "b" * 8170),
        (",".join(f"k{n}=v" for n in range(64)), ",".join(f"k{n}=v" for n in range(64))),
        (",".join(f"k{n}=v" for n in range(63)), ",".join(f"k{n}=v" for n in range(63)) + f",{BAR}"),
    ],
)
def test_the_header_wins_and_other_members_stay_byte_for_byte(
    worker: Worker, before: str | None, after: str
) -> None:
    more = {} if before is None else {"baggage": before}
    assert worker.request('{ "bar" :\t"x" }', **more).sent("baggage") == after


@pytest.mark.parametrize(
    "baggage", [FOO, f"a=b,{FOO}", f"a=b;devroute=x, {FOO};p=q,c=d", "devroute=%7b%22foo%22:%22x%22}"]
)
def test_a_contract_in_baggage_becomes_the_header(worker: Worker, baggage: str) -> None:
    handle = worker.request(baggage=baggage)
    assert handle.sent("x-devroute") == '{"foo":"x"}'
    assert worker.asked[0]["x-devroute"] == '{"foo":"x"}'
    assert handle["decision"] == "detour"


@pytest.mark.parametrize("baggage", ["a=devroute=x", "devroute=", "xdevroute=%7B%7D"])
def test_baggage_without_a_contract_is_left_alone(worker: Worker, baggage: str) -> None:
    handle = worker.request(baggage=baggage)
    assert (handle["result"], handle.sent("x-devroute"), handle.sent("baggage")) == ("", None, baggage)


@pytest.mark.parametrize("value", ["%0D%0Ax-evil%3A%201", "%00", "x" * 8193, "caf%C3%A9"])
def test_a_contract_in_baggage_that_cannot_be_a_header_is_an_error(worker: Worker, value: str) -> None:
    handle = worker.request(baggage=f"devroute={value}")
    assert handle.responded is not None
    assert handle.responded[0][":status"] == "400"
    assert handle.sent("x-devroute") is None


@pytest.mark.parametrize(
    ("json_", "compact"),
    [
        ('{ "a" : "b c" ,\t"d":1 }', '{"a":"b c","d":1}'),
        ('{"a\\" b": " \\\\" }', '{"a\\" b":" \\\\"}'),
    ],
)
def test_only_white_space_between_tokens_is_dropped(json_: str, compact: str) -> None:
    _, baggage = exports("text, baggage", "compact")
    assert baggage.compact(json_) == compact
    assert json.loads(json_) == json.loads(compact)


# --- traces ------------------------------------------------------------------------------------------------

TRACE = "0123456789abcdef" * 2
#: As `devroute trace` makes one, and a traceparent with it.
TRACED = f"{ID_PREFIX}{TRACE[8:]}"
PARENT = f"00-{TRACED}-0123456789abcdef-01"


@pytest.mark.parametrize("mark", [{"x_devroute_trace": TRACE}, {"baggage": f"a=b,devroute-trace={TRACE}"}])
def test_a_traced_request_is_reported_and_stays_traced(worker: Worker, mark: dict[str, str]) -> None:
    handle = worker.request('{"foo": "x"}', x_request_id="r", **mark)
    (told,) = worker.reported
    assert (told[":method"], told[":path"], told["x-devroute-trace"]) == ("POST", "/trace", TRACE)
    assert (told["x-devroute-matched"], told["x-devroute-result"]) == ("foo", "laptop")
    assert told["x-request-id"] == "r"
    assert handle.sent("x-devroute-trace") == TRACE
    assert f"devroute-trace={TRACE}" in (handle.sent("baggage") or "")
    worker.request('{"bar": "x"}', **mark)
    assert worker.reported[1]["x-devroute-result"] == "service"
    assert worker.reported[1]["x-devroute-candidates"] == "foo"


@pytest.mark.parametrize("carrier", ["x_devroute", "baggage"])
@pytest.mark.parametrize("contract", ['{"foo":"x"}', '{"bar":"x"}', "eyJh.e30.c2ln", "@checkout"])
def test_each_carrier_of_a_contract_carries_the_trace_too(
    worker: Worker, carrier: str, contract: str
) -> None:
    worker.response = worker.responds(DETOUR + "trace yes\n")
    first = worker.request(contract, x_devroute_trace=TRACE)
    marked = with_trace(contract, TRACE)
    assert first.sent("x-devroute") == marked
    assert member_value((first.sent("baggage") or "").encode(), b"devroute") == quote(marked, "").encode()
    passed_on = marked if carrier == "x_devroute" else f"devroute={quote(marked, safe='')}"
    second = worker.request(**{carrier: passed_on})
    assert [each["x-devroute-trace"] for each in worker.reported] == [TRACE, TRACE]
    assert {each["x-devroute"] for each in worker.reported} == {contract}
    assert second.sent("x-devroute") == marked
    assert {each["x-devroute"] for each in worker.asked} <= {contract}


@pytest.mark.parametrize(
    ("sent", "arrived"),
    [
        ({"x_devroute": '{"foo":"x"}'}, "x-devroute"),
        ({"x_devroute": '{"foo":"x"}', "baggage": "a=b,devroute=@y"}, "x-devroute,baggage"),
        ({"tracestate": "devroute=@y", "uberctx_devroute": "@y"}, "tracestate,uberctx-devroute"),
        ({"baggage": "a=b"}, None),
    ],
)
def test_a_report_names_what_the_contract_came_by_and_the_client(
    worker: Worker, sent: dict[str, str], arrived: str | None
) -> None:
    worker.request(x_devroute_trace=TRACE, user_agent="okhttp/4", **sent)
    (told,) = worker.reported
    assert (told.get("x-devroute-carriers"), told["user-agent"]) == (arrived, "okhttp/4")


def test_traceparent_alone_shows_that_the_contract_or_the_id_was_lost(worker: Worker) -> None:
    handle = worker.request(traceparent=PARENT, baggage="a=b")
    assert (handle["result"], handle.sent("x-devroute-trace"), handle.sent("baggage")) == ("", None, "a=b")
    second = worker.request('{"foo":"x"}', traceparent=PARENT)
    assert second.sent("x-devroute") == with_trace('{"foo":"x"}', TRACED), "found again for those behind"
    third = worker.request(with_trace('{"foo":"x"}', TRACED), traceparent=PARENT)
    assert third.sent("x-devroute-trace") == TRACED
    reported = [(each.get("x-devroute-trace-source"), each.get("x-devroute")) for each in worker.reported]
    assert reported == [("traceparent", None), ("traceparent", '{"foo":"x"}'), (None, '{"foo":"x"}')]
    assert {each["x-devroute-trace"] for each in worker.reported} == {TRACED}


def test_traced_requests_without_a_contract_are_reported_up_to_a_rate(worker: Worker) -> None:
    for moment in (0, 500, 1000):
        worker.now = 1_000_000 + moment
        for _ in range(30):
            worker.request(traceparent=PARENT)
    assert len(worker.reported) == 40


def test_an_id_of_the_request_s_own_precedes_the_one_in_traceparent(worker: Worker) -> None:
    worker.request(traceparent=PARENT, x_devroute_trace=TRACE)
    worker.request(traceparent=PARENT, baggage=f"devroute-trace={TRACE}")
    reported = [(each["x-devroute-trace"], each.get("x-devroute-trace-source")) for each in worker.reported]
    assert reported == [(TRACE, None), (TRACE, None)]


@pytest.mark.parametrize(
    "parent",
    [
        f"00-{TRACE}-0123456789abcdef-01",
        PARENT.replace(TRACED, TRACED.upper()),
        PARENT.replace(TRACED, f"{TRACED[:-1]}-"),
        f"00-{TRACED[:20]}",
        f"01-{PARENT}",
    ],
)
def test_no_other_traceparent_belongs_to_a_trace(worker: Worker, parent: str) -> None:
    worker.request('{"foo":"x"}', traceparent=parent)
    assert worker.reported == []


def test_what_the_first_filter_of_before_noted_of_a_trace_goes_no_further(worker: Worker) -> None:
    """An older listener, which drains, runs this Lua behind its own first filter."""
    noted = f"traceparent {TRACED}"
    handle = worker.request(traceparent=PARENT, x_devroute_trace=noted)
    assert handle.sent("x-devroute-trace") is None
    handle = worker.request('{"foo":"x"}', traceparent=PARENT, x_devroute_trace=noted)
    assert handle.sent("x-devroute-trace") == TRACED
    assert [each["x-devroute-trace"] for each in worker.reported] == [TRACED, TRACED]


def test_many_traces_of_a_contract_share_its_decision(worker: Worker) -> None:
    for number in range(300):
        trace = f"{number:032x}"
        by_header = worker.request(with_trace('{"foo":"x"}', trace))
        by_baggage = worker.request(baggage="devroute=" + quote(with_trace('{"foo":"x"}', trace)))
        assert by_header["decision"] == by_baggage["decision"] == "detour"
    assert (len(worker.asked), len(worker.reported)) == (1, 600)


@pytest.mark.parametrize(
    ("contract", "carries"), [('{"foo":"x"}', True), ("eyJh.e30.c2ln", False), ("@checkout", False)]
)
def test_a_proxy_that_knows_no_marks_gets_none_that_it_would_refuse(
    worker: Worker, contract: str, carries: bool
) -> None:
    handle = worker.request(contract, x_devroute_trace=TRACE)
    assert handle.sent("x-devroute") == (with_trace(contract, TRACE) if carries else contract)
    assert handle.sent("x-devroute-trace") == TRACE


def test_a_trace_changes_no_request_that_has_no_room_for_it(worker: Worker) -> None:
    longest = '{"bar":"x"'.ljust(8191) + "}"
    handle = worker.request(longest, x_devroute_trace=TRACE)
    assert (handle["decision"], handle.sent("x-devroute")) == ("service", longest)
    full = "a=" + "b" * 8110
    handle = worker.request('{"bar":"x"}', x_devroute_trace=TRACE, baggage=full)
    assert handle.sent("baggage") == f"{full},devroute=%7B%22bar%22%3A%22x%22%7D"


def test_a_request_that_gets_an_error_is_reported_too(worker: Worker) -> None:
    worker.request("{}", "{}", x_devroute_trace=TRACE)
    (told,) = worker.reported
    assert told["x-devroute-result"] == "error"
    assert "repeated" in told["x-devroute-reason"]


@pytest.mark.parametrize("mark", [{}, {"x_devroute_trace": "short"}, {"x_devroute_trace": "x" * 32}])
def test_other_requests_are_not_reported(worker: Worker, mark: dict[str, str]) -> None:
    worker.request('{"foo": "x"}', **mark)
    assert worker.reported == []
