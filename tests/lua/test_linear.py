"""The filters of sidecars and waypoints take linear time for whatever caller, app or proxy send: each
shape that makes a careless pattern quadratic, 60 KB of it and as much as is read, compared with its copy."""

import time
from collections.abc import Callable
from functools import cache

import pytest

from devroute.contract.grammar import MAX_BYTES
from devroute.http.baggage import MAX_READ_BYTES
from devroute.mesh.manifests import lua
from devroute.policy.rules import matches
from tests.lua.test_edge_linear import ALLOWED, COPY, SHAPES, SIZE, repeated
from tests.lua.worker import SETTINGS, Handle, Worker
from tests.support.cpu_time import cpu_seconds

#: Of everything; as much baggage as is read; as much of a contract and of a path.
SIZES = (SIZE, MAX_READ_BYTES, MAX_BYTES)
DECIDE = SETTINGS | {"proxy": "devroute/devroute-proxy", "service": "foo", "namespace": "shop"}
SOURCES = {
    "decide": lua.source("decide", SETTINGS=DECIDE),
    "decide, name by SNI": lua.source("decide", SETTINGS=SETTINGS),
    "waypoint": lua.source("waypoint", SETTINGS=DECIDE),
    "shadow": lua.source("shadow", SETTINGS=DECIDE | {"share": "100"}),
}
#: Those of the edge, and some that only sidecars read.
EVERY_SHAPE = SHAPES | {
    "slashes": repeated("/"),
    "encoded slashes": repeated("%2f", "/"),
    "dots": repeated("/.", "/"),
    "parameters": repeated(";", "/"),
    "overlong UTF-8": repeated("%c0%ae", "/"),
    "quotes": repeated('"', "devroute="),
    "backslashes": repeated("\\", "devroute={", "}"),
    "names": repeated('"foo', "{", "}"),
    "spaces behind a name": repeated(" ", 'devroute={"bar"', "}"),
    "a list of a contract": repeated('"a",', '{"bar":{"from":[', "}}"),
    "colons": repeated(":1", "foo"),
    "digits": repeated("1", "foo:", "x"),
    "spaces inside a list": repeated(" ", "devroute-via=foo", "x"),
    "tildes": repeated("~", "devroute-via="),
    "services": repeated("foo,", "devroute-via="),
    "identity": repeated("/ns/shop/sa/web", "spiffe://a"),
    "client certificate": repeated(";URI=spiffe://a", "By=b"),
    "dialled": repeated("_.", "outbound_.80_"),
    "lines": repeated("key value\n", "devroute 1\n"),
    "a key": repeated("a", "devroute 1\n", " b\n"),
}
RULE = "devroute 1\ndecision {}\nservice foo\nttl 0\nversion v2\norigin yes\ncompare yes\n"
CONDITIONS = "path /\nonly-paths / /api/\ncallers */*,*a*a*a*a*a*a/*a*a*a*a*b,spiffe://*\n"
KEYS = ("path", "only-paths", "methods", "from", "callers", "reason", "ttl", "percent", "timeout")
HEADERS = (
    *(
        "x-devroute",
        "baggage",
        "x-devroute-via",
        "x-devroute-trace",
        "x-devroute-failover",
        "x-devroute-host",
    ),
    *("x-devroute-matched", "x-devroute-caller", ":path", ":method", ":authority", "cookie", "upgrade"),
    *("content-length", "content-type", "x-request-id", "x-forwarded-client-cert", "tracestate", "b3"),
)


@cache
def allowed(size: int) -> float:
    """CPU seconds for a text of this size."""
    return ALLOWED * cpu_seconds(lambda: COPY.copied("a" * size))


def failures(
    worker: Worker, handle: Callable[[str], Handle], hook: str = "envoy_on_request"
) -> dict[tuple[str, int], str]:
    """How long the filter takes, by the shape and size of what it takes too long for."""
    found = {}
    for shape, text in EVERY_SHAPE.items():
        for size in SIZES:
            sent = text[: size - 20] + text[-20:]
            began = time.thread_time()
            worker.handle(handle(sent), hook)
            taken = time.thread_time() - began
            if taken > allowed(size):  # perhaps once only
                taken = cpu_seconds(lambda sent=sent: worker.handle(handle(sent), hook))  # type: ignore[misc]
            if taken > allowed(size):
                found[shape, size] = f"{taken * 1000:.0f} ms of {allowed(size) * 1000:.0f}"
    assert worker.logged == []
    return found


def request(worker: Worker, place: str, text: str) -> Handle:
    fields = {":method": "GET", ":path": "/", ":authority": "foo:8080"}
    if place not in ("baggage", "tracestate"):
        fields["x-devroute"] = '{"foo": "x"}'
    if place in HEADERS:
        fields[place] = text
    sni = text if place == "SNI" else "outbound_.80_._.foo.shop.svc.cluster.local"
    caller = text if place == "certificate" else "spiffe://cluster.local/ns/shop/sa/web"
    return Handle(worker, list(fields.items()), sni, caller)


@pytest.mark.parametrize("place", [*HEADERS, "SNI", "certificate"])
@pytest.mark.parametrize(
    ("entry", "decision"),
    [("decide", "mirror"), ("decide, name by SNI", "version"), ("waypoint", "detour")],
)
def test_a_decision_takes_linear_time(entry: str, decision: str, place: str) -> None:
    worker = Worker(SOURCES[entry], {"ISTIO_META_WORKLOAD_NAME": "foo"})
    worker.response = worker.responds(RULE.format(decision) + CONDITIONS)
    worker.owns("foo.shop")
    assert failures(worker, lambda text: request(worker, place, text)) == {}


@pytest.mark.parametrize("place", [*HEADERS[1:], "certificate"])
def test_shadow_traffic_takes_linear_time(place: str) -> None:
    worker = Worker(SOURCES["shadow"])
    copied = f"copy {'ab' * 16} 100 GET,POST / /api/"
    worker.response = worker.responds(f"devroute 1\ndecision copy\nservice foo\nttl 0\n{copied}\n")
    assert failures(worker, lambda text: request(worker, place, text)) == {}


@pytest.mark.parametrize("line", ["{}", *(f"{RULE.format('detour')}{key} {{}}\n" for key in KEYS)])
@pytest.mark.parametrize("entry", ["decide", "shadow"])
def test_a_response_of_resolve_takes_linear_time(entry: str, line: str) -> None:
    worker = Worker(SOURCES[entry])

    def handle(text: str) -> Handle:
        worker.response = worker.responds(line.format(text))
        worker.now += 10_000
        return request(worker, "response", text)

    assert failures(worker, handle) == {}


@pytest.mark.parametrize("place", ["header", "trailer", "names", "status"])
def test_a_comparison_takes_linear_time(place: str) -> None:
    worker = Worker(lua.source("compare", SETTINGS=SETTINGS))

    def handle(text: str) -> Handle:
        found = Handle(worker, [(":status", text if place == "status" else "200")])
        if place == "header":
            found.fields.append(("x-own", text))
        elif place == "names":
            found.fields += [(f"x-{text[at : at + 64]}", "") for at in range(0, len(text), 64)]
        found.trailing = [("x-own", text)] if place == "trailer" else []
        found.decided["devroute", "compare"] = "ab" * 16
        return found

    assert failures(worker, handle, "envoy_on_response") == {}


def test_the_proxy_matches_a_caller_with_policy_in_linear_time() -> None:
    text = "a" * SIZE

    def run() -> None:
        assert not matches("*a*a*a*a*b*a*a/*a*a", text)
        assert not matches("*a*a*a*a*a*a/*a*b", f"{text}/{text}")

    assert cpu_seconds(run) < allowed(SIZE)
