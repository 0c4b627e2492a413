"""The filter alone, under the LuaJIT that Envoy has too, driven by a hand-written handle."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from lupa.luajit21 import LuaRuntime

from devroute.manifests import lua_source

CONTROL = "control-cluster"
DETOUR = "devroute 1\ndecision detour\nservice foo\nttl 1000\n"


class Metadata:
    def __init__(self) -> None:
        self.values: dict[tuple[str, str], str] = {}

    def set(self, _: object, filter_name: str, key: str, value: str) -> None:
        self.values[filter_name, key] = value


class Handle:
    """What the filter sees of one request. Methods get the Lua `self` first, as in `handle:headers()`."""

    def __init__(self, worker: "Worker", contracts: list[str], sni: str, caller: str | None) -> None:
        self.worker, self.contracts, self.sni, self.caller = worker, contracts, sni, caller
        self.decided = Metadata()
        self.responded: tuple[dict[str, str], str] | None = None
        self.cleared = False

    def headers(self, _: object) -> object:
        return self.worker.table(
            getNumValues=lambda _, name: len(self.contracts),
            get=lambda _, name: self.contracts[0] if self.contracts else None,
        )

    def metadata(self, _: object) -> object:
        settings = {"control": CONTROL} | self.worker.settings
        return self.worker.table(get=lambda _, key: settings.get(key))

    def streamInfo(self, _: object) -> object:
        tls = self.caller and self.worker.table(
            peerCertificateValidated=lambda _: True,
            uriSanPeerCertificate=lambda _: self.worker.lua.table(self.caller),
        )
        return self.worker.table(
            requestedServerName=lambda _: self.sni,
            downstreamSslConnection=lambda _: tls,
            dynamicMetadata=lambda _: self.worker.table(set=self.decided.set),
        )

    def timestamp(self, _: object) -> int:
        return self.worker.now

    def httpCall(self, _: object, cluster: str, headers: Any, body: None, timeout: int) -> Any:
        self.worker.asked.append(dict(headers))
        assert (cluster, timeout) == (CONTROL, 500)
        return self.worker.answer()

    def respond(self, _: object, headers: Any, body: str) -> None:
        self.responded = dict(headers), body

    def clearRouteCache(self, _: object) -> None:
        self.cleared = True

    def logErr(self, _: object, message: str) -> None:
        self.worker.logged.append(message)

    def __getitem__(self, key: str) -> str | None:
        return self.decided.values.get(("devroute", key))


class Worker:
    """One Lua state, as each of Envoy's workers has one for each route's configuration."""

    def __init__(self, environment: Mapping[str, str], **settings: str) -> None:
        self.lua = LuaRuntime(unpack_returned_tuples=True)
        self.lua.globals().os.getenv = environment.get
        self.exports = self.lua.execute(lua_source())
        self.settings, self.now = settings, 1_000_000
        self.asked: list[dict[str, str]] = []
        self.logged: list[str] = []
        self.answer: Callable[[], Any] = self.answers(DETOUR)

    def table(self, **entries: object) -> Any:
        return self.lua.table_from(entries)

    def answers(self, body: str, status: str = "200") -> Callable[[], Any]:
        return lambda: (self.lua.table_from({":status": status}), body)

    def request(self, *contracts: str, sni: str = "", caller: str | None = None) -> Handle:
        handle = Handle(self, list(contracts), sni, caller)
        methods = ("headers", "metadata", "streamInfo", "timestamp", "httpCall", "respond", "clearRouteCache")
        table = self.lua.table_from({name: getattr(handle, name) for name in (*methods, "logErr")})
        self.lua.globals().envoy_on_request(table)
        return handle


@pytest.fixture
def worker() -> Worker:
    return Worker({"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "shop"})


# --- the service's own name --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sni", "found"),
    [
        ("outbound_.8080_._.foo.default.svc.cluster.local", ("foo", "default")),
        ("outbound_.80_.v1_a_.foo.shop.svc.corp.example", ("foo", "shop")),
        ("foo.default.svc.cluster.local", (None, None)),
        ("outbound_.8080_._.foo.example.com", None),
        ("outbound_.http_._.foo.default.svc.cluster.local", (None, None)),
        ("", (None, None)),
    ],
)
def test_the_sni_names_the_service_that_was_dialled(
    worker: Worker, sni: str, found: tuple[str | None, str | None] | None
) -> None:
    assert worker.exports.service_of_sni(sni) == found


def test_candidates_are_sent_in_the_order_of_trust(worker: Worker) -> None:
    worker = Worker(
        {"DEVROUTE_SERVICE": "own", "ISTIO_META_WORKLOAD_NAME": "own-v1", "POD_NAMESPACE": "pods"}
    )
    worker.request('{"own": "x"}', sni="outbound_.8080_._.dialled.shop.svc.cluster.local")
    (asked,) = worker.asked
    assert asked["x-devroute-candidates"] == "dialled,own,own-v1"
    assert asked["x-devroute-namespace"] == "shop"


def test_a_name_given_on_the_route_is_the_only_one() -> None:
    worker = Worker({"ISTIO_META_WORKLOAD_NAME": "other"}, service="foo", namespace="shop")
    worker.request('{"foo": "x"}', sni="outbound_.8080_._.dialled.default.svc.cluster.local")
    assert worker.asked[0]["x-devroute-candidates"] == "foo"
    assert worker.asked[0]["x-devroute-namespace"] == "shop"


def test_a_sidecar_without_a_name_says_so() -> None:
    worker = Worker({})
    handle = worker.request('{"foo": "x"}')
    assert (handle["decision"], worker.asked) == ("fallback", [])
    assert "DEVROUTE_SERVICE" in (handle["reason"] or "")


def test_the_caller_is_the_certificates_name(worker: Worker) -> None:
    worker.request('{"foo": "x"}', caller="spiffe://cluster.local/ns/shop/sa/web")
    worker.request('{"foo": "y"}')
    assert [each.get("x-devroute-caller") for each in worker.asked] == [
        "spiffe://cluster.local/ns/shop/sa/web",
        None,
    ]


# --- who has to ask ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("contract", ['{"bar": "foo:80"}', '{"foobar": "x", "xfoo": "y"}', "{}"])
def test_a_contract_that_names_others_is_not_asked_about(worker: Worker, contract: str) -> None:
    handle = worker.request(contract)
    assert (handle["decision"], handle["result"], handle["reason"]) == ("service", "service", None)
    assert (worker.asked, handle.cleared) == ([], True)


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


# --- the answer --------------------------------------------------------------------------------------------


def test_a_detour_names_its_service_and_nothing_else(worker: Worker) -> None:
    handle = worker.request('{"foo": "x"}')
    assert handle.decided.values == {
        ("devroute", "decision"): "detour",
        ("devroute", "result"): "error",
        ("devroute", "service"): "foo",
    }
    assert handle.cleared


def test_unknown_keys_are_ignored(worker: Worker) -> None:
    worker.answer = worker.answers(DETOUR + "percent 50\nx-new yes\n")
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
def test_nonsense_leaves_the_request_to_the_service(worker: Worker, answer: str) -> None:
    worker.answer = worker.answers(answer)
    handle = worker.request('{"foo": "x"}')
    assert (handle["decision"], handle["result"]) == ("fallback", "fallback")
    assert handle["reason"] == "the devroute proxy's answer was not understood"


@pytest.mark.parametrize(
    ("status", "reason"),
    [("503", "cannot be reached"), ("504", "did not answer within 500 ms"), ("404", "status 404")],
)
def test_no_answer_leaves_the_request_to_the_service(worker: Worker, status: str, reason: str) -> None:
    worker.answer = worker.answers(DETOUR, status)
    handle = worker.request('{"foo": "x"}')
    assert handle["decision"] == "fallback"
    assert reason in (handle["reason"] or "")


def test_an_error_is_answered_at_once(worker: Worker) -> None:
    worker.answer = worker.answers(
        'devroute 1\ndecision error\nstatus 403\nreason no\nbody {"code": "x"}\nttl 9\n'
    )
    handle = worker.request('{"foo": "x"}')
    assert handle.responded == (
        {
            ":status": "403",
            "content-type": "application/json",
            "x-devroute-result": "error",
            "x-devroute-reason": "no",
        },
        '{"code": "x"}\n',
    )


def test_a_long_reason_is_cut(worker: Worker) -> None:
    worker.answer = worker.answers(f"devroute 1\ndecision fallback\nreason {'long ' * 100}\nttl 0\n")
    assert len(worker.request('{"foo": "x"}')["reason"] or "") == 200


def test_a_missing_cluster_leaves_the_request_to_the_service(worker: Worker) -> None:
    worker.answer = lambda: worker.lua.execute('error("http call cluster invalid. Must be configured")')
    handle = worker.request('{"foo": "x"}')
    assert (handle["decision"], handle["reason"]) == (
        "fallback",
        "the sidecar does not know the cluster of the devroute proxy",
    )


def test_a_failure_of_the_filter_leaves_the_request_to_the_service(worker: Worker) -> None:
    class Broken(Handle):
        def timestamp(self, _: object) -> int:
            raise RuntimeError("out of order")

    handle = Broken(worker, ['{"foo": "x"}'], "", None)
    names = ("headers", "metadata", "streamInfo", "timestamp", "clearRouteCache", "logErr")
    worker.lua.globals().envoy_on_request(worker.lua.table_from({n: getattr(handle, n) for n in names}))
    assert handle["decision"] == "fallback"
    assert "out of order" in worker.logged[0]


# --- the cache ---------------------------------------------------------------------------------------------


def test_an_answer_holds_for_its_time_and_no_longer(worker: Worker) -> None:
    worker.answer = worker.answers(DETOUR.replace("1000", "300"))
    for now, asked in [(0, 1), (299, 1), (300, 2)]:
        worker.now = 1_000_000 + now
        worker.request('{"foo": "x"}')
        assert len(worker.asked) == asked


def test_an_answer_never_holds_longer_than_a_second(worker: Worker) -> None:
    worker.answer = worker.answers(DETOUR.replace("1000", "9999"))
    worker.request('{"foo": "x"}')
    worker.now += 1000
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_a_clock_that_was_set_back_makes_no_answer_last(worker: Worker) -> None:
    worker.request('{"foo": "x"}')
    worker.now -= 3_600_000
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_ttl_zero_is_asked_again(worker: Worker) -> None:
    worker.answer = worker.answers(DETOUR.replace("1000", "0"))
    worker.request('{"foo": "x"}')
    worker.request('{"foo": "x"}')
    assert len(worker.asked) == 2


def test_a_dead_proxy_costs_its_timeout_once_a_second(worker: Worker) -> None:
    worker.answer = worker.answers("upstream request timeout", "504")
    assert [worker.request('{"foo": "x"}')["decision"] for _ in range(5)] == ["fallback"] * 5
    assert len(worker.asked) == 1


def test_callers_and_services_do_not_share_answers(worker: Worker) -> None:
    dialled = "outbound_.8080_._.{}.shop.svc.cluster.local"
    for sni, caller in [("foo", "spiffe://a"), ("foo", "spiffe://b"), ("foo", None), ("bar", None)]:
        worker.request('{"foo": "x"}', sni=dialled.format(sni), caller=caller)
    assert len(worker.asked) == 4


def test_a_flood_of_contracts_is_bounded(worker: Worker) -> None:
    remember, recall = worker.exports.remember, worker.exports.recall
    outcome = worker.lua.table()
    for number in range(256):
        remember(f"key {number}", outcome, 1000, 0)
    assert recall("key 0", 1) is not None
    remember("key 256", outcome, 1000, 0)
    assert [recall(f"key {number}", 1) for number in range(256)] == [None] * 256
    assert recall("key 256", 1) is not None
