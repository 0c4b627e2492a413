"""A contract that passes apps without knowledge of it: OpenTelemetry's own propagator forwards it.

caller ─► foo's sidecar ─► foo (OpenTelemetry) ─► bar's sidecar ─► bar, or its replacement
"""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote, unquote

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web
from opentelemetry import baggage
from opentelemetry.propagate import get_global_textmap
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from devroute.http.carriers import KNOWN
from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests.model import Carriers
from tests.envoy.harness import filters_in_lua, lua_is_counted, serving
from tests.envoy.real import Mesh, real_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

PROPAGATOR = get_global_textmap()  # its default: trace context and baggage
TRACER = TracerProvider().get_tracer("foo")


def seen_by(who: str) -> Any:
    async def answer(request: web.Request) -> web.Response:
        headers = {key.lower(): request.headers.getall(key) for key in request.headers}
        return web.json_response({"who": who, "headers": headers})

    return answer


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def mesh(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    async with real_mesh(tmp_path_factory.mktemp("propagation")) as found:
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bar(mesh: Mesh) -> str:
    return await mesh.sidecar("bar", await mesh.stack.enter_async_context(serving(seen_by("bar"))))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(mesh: Mesh) -> str:
    """A sidecar of bar with all carriers."""
    app = await mesh.stack.enter_async_context(serving(seen_by("bar")))
    return await mesh.sidecar("bar", app, "reader", carriers=Carriers((*KNOWN, "x-acme-context")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def laptop(mesh: Mesh) -> Endpoint:
    return await mesh.stack.enter_async_context(serving(seen_by("laptop")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def foo(mesh: Mesh, bar: str) -> str:
    """An app that forwards what OpenTelemetry's baggage propagator forwards, and nothing else."""

    async def app(request: web.Request) -> web.Response:
        context = PROPAGATOR.extract({key.lower(): value for key, value in request.headers.items()})
        headers: dict[str, str] = {}
        context = baggage.set_baggage("of-foo", "café, you", context)
        PROPAGATOR.inject(headers, set_span_in_context(TRACER.start_span("onwards", context), context))
        async with (
            aiohttp.ClientSession() as client,
            client.get(bar + "/onwards", headers=headers) as response,
        ):
            result = response.headers.get("x-devroute-result")
            return web.json_response(
                {
                    "here": request.headers.getall("baggage", []),
                    "there": await response.json(),
                    "result": result,
                }
            )

    return await mesh.sidecar("foo", await mesh.stack.enter_async_context(serving(app)))


async def called(mesh: Mesh, url: str, headers: Any) -> tuple[dict[str, Any], str | None]:
    async with mesh.client.get(url, headers=headers) as response:
        return await response.json(), response.headers.get("x-devroute-result")


def members(seen: dict[str, Any]) -> dict[str, str]:
    """The baggage that the last app reads."""
    (text,) = seen["headers"]["baggage"]
    return {key: str(value) for key, value in baggage.get_all(PROPAGATOR.extract({"baggage": text})).items()}


async def test_a_contract_in_the_header_reaches_the_next_service_by_baggage(
    mesh: Mesh, foo: str, laptop: Endpoint
) -> None:
    contract = f'{{ "bar" : "{laptop.host}:{laptop.port}" }}'
    seen, result = await called(mesh, foo, {"x-devroute": contract, "baggage": "a=b;p=q"})
    assert (result, seen["result"], seen["there"]["who"]) == ("service", "laptop", "laptop")
    headers = seen["there"]["headers"]
    assert json.loads(headers["x-devroute"][0]) == json.loads(contract)
    assert headers["x-devroute-via"] == ["bar"]
    assert headers["traceparent"]
    found = members(seen["there"])
    assert json.loads(found["devroute"]) == json.loads(contract)
    assert (found["devroute-via"], found["of-foo"]) == ("bar", "café, you")


async def test_a_contract_in_baggage_alone_is_obeyed(mesh: Mesh, bar: str, laptop: Endpoint) -> None:
    contract = json.dumps({"bar": f"{laptop.host}:{laptop.port}"}, separators=(",", ":"))
    ours = quote(contract, safe="")
    for sent in (
        f"devroute={ours}",
        f"a=b, devroute={ours};p , c=d",
        f"a=b ,devroute\t= {ours}",
        f"é=ü,devroute={ours}",
    ):
        seen, result = await called(mesh, bar, {"baggage": sent})
        assert (seen["who"], result) == ("laptop", "laptop")
        assert seen["headers"]["x-devroute"] == [contract]
        assert seen["headers"]["baggage"] == [f"{sent},devroute-via=bar"]


@pytest.mark.parametrize("before", ["a=b ", "a=b\t", "a=b; ", "a=b;", "a "])
async def test_a_part_of_another_member_is_no_contract(mesh: Mesh, bar: str, before: str) -> None:
    contract = quote('{"bar":"x"}')
    seen, _ = await called(mesh, bar, {"baggage": f"{before}devroute={contract}"})
    assert (seen["who"], "x-devroute" in seen["headers"]) == ("bar", False)


async def test_bytes_that_are_no_utf8_do_not_hide_a_contract(mesh: Mesh, bar: str) -> None:
    port = bar.rpartition(":")[2]
    reader, writer = await asyncio.open_connection("127.0.0.1", int(port))
    writer.write(b"GET / HTTP/1.1\r\nhost: bar\r\nconnection: close\r\nbaggage: a=\xff,devroute=x\r\n\r\n")
    response = await reader.read()
    writer.close()
    assert b"contract-invalid" in response


@pytest.mark.parametrize(
    "others",
    [
        "a=b",
        "a = b ;p=q; r ,\tc=%20d",
        "malformed,,=, a=b=c",
        "xdevroute=1,devroutex=2",
        "caf%C3%A9=%E2%82%AC",
    ],
)
async def test_other_members_stay_byte_for_byte(mesh: Mesh, foo: str, others: str) -> None:
    contract = '{"baz":"alice"}'
    expected = f"{others},devroute={quote(contract, safe='')}"
    seen, _ = await called(mesh, foo, {"x-devroute": contract, "baggage": others})
    assert seen["here"] == [expected]
    seen, _ = await called(mesh, foo, {"x-devroute": contract, "baggage": expected})
    assert seen["here"] == [expected], "once is enough"


async def test_the_header_wins_and_a_stale_member_is_replaced(mesh: Mesh, bar: str, laptop: Endpoint) -> None:
    contract = f'{{"bar":"{laptop.host}:{laptop.port}"}}'
    stale = "a=b,devroute=%7B%22bar%22%3A%22nobody%22%7D;p=q,c=d"
    seen, _ = await called(mesh, bar, {"x-devroute": contract, "baggage": stale})
    assert seen["who"] == "laptop"
    encoded = quote(contract, safe="")
    assert seen["headers"]["baggage"] == [f"a=b,devroute={encoded},c=d,devroute-via=bar"]


async def test_repeated_baggage_headers_are_one_list(mesh: Mesh, bar: str, laptop: Endpoint) -> None:
    contract = f'{{"bar":"{laptop.host}:{laptop.port}"}}'
    sent = [("baggage", "a=b"), ("baggage", f"devroute={quote(contract)}"), ("baggage", "c=d")]
    seen, _ = await called(mesh, bar, sent)
    assert seen["who"] == "laptop"
    assert members(seen).keys() == {"a", "c", "devroute", "devroute-via"}


@pytest.mark.parametrize(
    "full",
    [",".join(f"k{number}=v" for number in range(64)), "big=" + "x" * 8170],
    ids=["64 members", "8 KB"],
)
async def test_full_baggage_is_left_alone(mesh: Mesh, bar: str, full: str) -> None:
    seen, result = await called(mesh, bar, {"x-devroute": '{"baz":"alice"}', "baggage": full})
    assert (seen["who"], result, seen["headers"]["baggage"]) == ("bar", "service", [full])


async def test_foreign_baggage_runs_no_lua(mesh: Mesh, bar: str) -> None:
    envoy = mesh.envoys["bar"]
    before = await envoy.lua("executions")
    seen, result = await called(mesh, bar, {"baggage": "a=b,devroute-via=foo,c=devroute"})
    assert (result, "x-devroute" in seen["headers"]) == (None, False)
    assert await envoy.lua("executions") == before
    await called(mesh, bar, {"baggage": "devroute=%7B%7D"})
    assert await envoy.lua("executions") == before + filters_in_lua() or not lua_is_counted()


async def test_a_contract_in_baggage_cannot_inject_headers(mesh: Mesh, bar: str) -> None:
    value = quote('{"bar":"x"}\r\nx-evil: 1', safe="")
    async with mesh.client.get(bar, headers={"baggage": f"devroute={value}"}) as response:
        assert (response.status, (await response.json())["code"]) == (400, "contract-invalid")
    assert unquote(value).count("\n") == 1


# --- other carriers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("carrier", "value"),
    [
        ("tracestate", "congo=t61,devroute={}"),
        ("tracestate", "congo=t61 , devroute={}"),
        ("ot-baggage-devroute", "{}"),
        ("uberctx-devroute", "{}"),
        ("correlation-context", "a=b, devroute={}"),
        ("x-acme-context", "{}"),
    ],
)
async def test_a_contract_in_any_carrier_is_obeyed_and_reaches_the_app_in_all_that_are_written(
    mesh: Mesh, reader: str, laptop: Endpoint, carrier: str, value: str
) -> None:
    contract = f'{{"bar":"{laptop.host}:{laptop.port}"}}'
    seen, result = await called(mesh, reader, {carrier: value.format(quote(contract, safe=""))})
    assert (seen["who"], result) == ("laptop", "laptop")
    headers = seen["headers"]
    assert headers["x-devroute"] == [contract]
    assert members(seen)["devroute"] == contract
    for name in ("ot-baggage-devroute", "uberctx-devroute", "x-acme-context"):
        assert unquote(headers[name][0]) == contract
        assert headers[f"{name}-via"] == ["bar"]
    state = headers["tracestate"][0].split(",")
    assert state[0] == "devroute-via=bar"
    assert f"devroute={contract}" in state or f"devroute={quote(contract, safe='')}" in map(str.strip, state)
    assert headers["traceparent"][0].startswith("00-"), "tracers read tracestate only beside it"
    assert headers["traceparent"][0].endswith("-00")


async def test_a_contract_passes_an_app_whose_tracer_knows_trace_context_alone(
    mesh: Mesh, bar: str, laptop: Endpoint
) -> None:
    contract = f'{{"bar":"{laptop.host}:{laptop.port}"}}'
    seen, _ = await called(mesh, bar, {"x-devroute": '{"baz":"alice"}', "tracestate": "congo=t61"})
    headers = {name: values[0] for name, values in seen["headers"].items()}
    assert headers["tracestate"] == 'devroute={"baz":"alice"},congo=t61'
    propagator = TraceContextTextMapPropagator()
    onwards: dict[str, str] = {}
    seen, _ = await called(mesh, bar, {"x-devroute": contract, "tracestate": "congo=t61"})
    context = propagator.extract({name: values[0] for name, values in seen["headers"].items()})
    propagator.inject(onwards, set_span_in_context(TRACER.start_span("onwards", context), context))
    assert onwards.keys() == {"traceparent", "tracestate"}
    assert onwards["traceparent"][3:35] == seen["headers"]["traceparent"][0][3:35]
    again, result = await called(mesh, bar, onwards)
    assert (again["headers"]["x-devroute"], result) == ([contract], "fallback"), "bar has detoured it before"


async def test_the_tracestate_of_other_vendors_runs_no_lua(mesh: Mesh, bar: str) -> None:
    envoy = mesh.envoys["bar"]
    before = await envoy.lua("executions")
    for state in ("dd=s:1;o:rum,congo=t61", "devroute-via=foo", "congo=devroute", "xdevroute=1,devroute@x=2"):
        seen, result = await called(
            mesh, bar, {"tracestate": state, "traceparent": f"00-{'ab' * 16}-{'c' * 16}-01"}
        )
        assert (seen["who"], result, seen["headers"]["tracestate"]) == ("bar", None, [state])
    assert await envoy.lua("executions") == before
    await called(mesh, bar, {"tracestate": "congo=t61,devroute={}"})
    assert await envoy.lua("executions") == before + filters_in_lua() or not lua_is_counted()
