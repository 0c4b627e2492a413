"""`devroute trace` and `devroute curl` through real sidecars: the chain a, b, c, whatever its apps pass on of
a request; who answered at each hop, and where a contract or the trace's id was lost."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.agent import trace
from devroute.agent.mcp.laptop_tools import LaptopTools
from devroute.agent.mcp.mesh_tools import MeshTools
from devroute.agent.settings import AgentSettings, ClientSettings
from devroute.agent.trace_report import TraceResult, as_document, lines, summary, unmet_expectations
from devroute.auth.tokens import new_token
from devroute.contract.grammar import parse
from devroute.contract.signer import SigningKey, sign
from devroute.mesh.istio.sidecar import Endpoint
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SECRET, RECORD = new_token("alice")
KEY = SigningKey.new("qa")


async def answer(_: web.Request) -> web.Response:
    return web.Response(text="hello\n")


@dataclass
class Chain:
    """Three services with sidecars; what `a`, `b` and the laptop at `b` pass on to the next, and add."""

    mesh: Mesh
    laptop: Endpoint
    entry: str = ""
    passed_on: tuple[str, ...] = ()
    added: dict[str, str] = field(default_factory=dict)

    def contract(self, **more: object) -> str:
        return json.dumps({"b": f"{self.laptop.host}:{self.laptop.port}", **more})

    def calling(self, url: str) -> Any:
        async def app(request: web.Request) -> web.Response:
            headers = {name: request.headers[name] for name in self.passed_on if name in request.headers}
            headers |= self.added
            async with aiohttp.ClientSession() as client, client.get(url, headers=headers) as response:
                return web.Response(text=await response.text())

        return app

    async def traced(self, contract: str, *passed_on: str, **added: str) -> TraceResult:
        self.passed_on, self.added = passed_on, added
        settings = ClientSettings(server=self.mesh.proxy.server, token=SECRET)
        trace_id = trace.new_trace()
        command = ["curl", "-sf", "-H", f"X-devroute: {contract}", self.entry]
        arguments = trace.with_trace_headers(command, trace_id)
        return await trace.run(settings, trace_id, arguments, capture=True)

    async def command(self, *words: str, **more: str) -> tuple[int | None, str, str]:
        """Exit code, standard output and standard error of devroute."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", *words),
            env={"HOME": str(self.mesh.folder), "PATH": "/usr/bin:/bin"}
            | {"DEVROUTE_SERVER": self.mesh.proxy.server, "DEVROUTE_TOKEN": SECRET}
            | more,
            cwd=self.mesh.folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, error = await process.communicate()
        return process.returncode, output.decode(), error.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chain(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Chain]:
    folder = tmp_path_factory.mktemp("trace")
    keys = folder / "contract-keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_public_jwk()]}))
    async with real_mesh(folder, RECORD, contract_keys=str(keys)) as mesh, serving(answer) as leaf:
        found = Chain(mesh, leaf)
        c = await mesh.sidecar("c", leaf)
        async with serving(found.calling(c)) as middle, serving(found.calling(c)) as found.laptop:
            b = await mesh.sidecar("b", middle)
            async with serving(found.calling(b)) as first:
                found.entry = await mesh.sidecar("a", first)
                warm = await found.traced(found.contract(c="nobody"), "x-devroute")
                assert [hop.service for hop in warm.hops] == ["a", "b", "c"], "all three are known now"
                yield found


@pytest.mark.parametrize(
    "passed_on", [["x-devroute"], ["baggage"], ["x-devroute", "x-devroute-trace"], ["traceparent", "baggage"]]
)
@pytest.mark.parametrize("form", ["plain", "signed"])
async def test_whatever_routes_also_traces(chain: Chain, passed_on: list[str], form: str) -> None:
    contract = chain.contract(c="nobody")
    if form == "signed":
        contract = sign(parse(contract), KEY, "qa", time.time(), 600)
    found = await chain.traced(contract, *passed_on)
    assert (found.exit_code, found.output) == (0, "hello\n")
    assert sorted((hop.service, hop.result) for hop in found.hops) == [
        ("a", "service"),
        ("b", "laptop"),
        ("c", "fallback"),
    ]
    assert not any(hop.by_traceparent for hop in found.hops)
    assert {hop.contract for hop in found.hops if hop.contract} >= {contract}, (
        "as it was sent, without the id"
    )
    laptop = f"{chain.laptop.host}:{chain.laptop.port}"
    assert summary(found.hops, found.services).startswith(f"{laptop} answered at 'b'; the mesh's own service")
    assert unmet_expectations(found.hops, [("b", laptop), ("c", "service")]) == []


async def test_a_name_that_a_command_has_saved_routes_and_traces_as_what_it_stands_for(chain: Chain) -> None:
    text, laptop = chain.contract(c="nobody"), f"{chain.laptop.host}:{chain.laptop.port}"
    code, printed, _ = await chain.command("contract", "save", "checkout", text)
    assert (code, printed.splitlines()[0]) == (0, "saved @checkout, for 8 hours")
    found = await chain.traced("@checkout", "baggage")
    assert [(hop.service, hop.contract, hop.stands_for) for hop in found.hops] == [
        (service, "@checkout", text) for service in ("a", "b", "c")
    ]
    assert summary(found.hops, found.services).startswith(f"{laptop} answered at 'b'; the mesh's own service")
    sent = ("curl", "--contract", "@checkout", "--expect", f"b={laptop}", "-s", chain.entry)
    assert (await chain.command(*sent))[:2] == (0, "hello\n")


@pytest.mark.parametrize("form", ["plain", "signed"])
async def test_apps_that_pass_on_what_w3c_asks_of_a_tracer_keep_the_contract(chain: Chain, form: str) -> None:
    contract = chain.contract()
    if form == "signed":
        contract = sign(parse(contract), KEY, "qa", time.time(), 600)
        assert len(contract) > 256, "which takes two members of tracestate"
    found = await chain.traced(contract, "traceparent", "tracestate")
    hops = sorted((hop.service, hop.result, hop.by_traceparent) for hop in found.hops)
    assert hops == [("a", "service", False), ("b", "laptop", False), ("c", "service", False)]
    arrived = {hop.service: hop.carriers for hop in found.hops}
    assert arrived == {"a": ("x-devroute",), "b": ("tracestate",), "c": ("tracestate",)}


async def test_apps_that_pass_on_traceparent_alone_lose_the_contract(chain: Chain) -> None:
    found = await chain.traced(chain.contract(), "traceparent")
    assert sorted((hop.service, hop.by_traceparent) for hop in found.hops) == [
        ("a", False),
        ("b", True),
        ("c", True),
    ]
    document = as_document(found)
    assert document["services"] == {"b": {"responders": [], "missing": "contract-lost"}}
    assert "'a' passes on traceparent, but neither" in str(document["summary"])
    (advice,) = (line for line in lines(found.hops) if "opentelemetry-instrument" in line)
    assert advice.startswith("'a' calls others as 'Python/"), "aiohttp, of this test's apps"
    assert found.output == "hello\n"


async def test_of_apps_that_pass_on_nothing_it_stays_open_whether_they_call(chain: Chain) -> None:
    found = await chain.traced(chain.contract())
    document = as_document(found)
    assert document["services"] == {"b": {"responders": [], "missing": "not-called"}}
    assert "'b' was not called, or 'a' passes on neither" in str(document["summary"])


async def test_an_app_that_writes_the_contract_again_loses_the_id_and_traceparent_finds_it(
    chain: Chain,
) -> None:
    found = await chain.traced(chain.contract(), "traceparent", **{"x-devroute": chain.contract()})
    assert sorted((hop.service, hop.by_traceparent) for hop in found.hops) == [
        ("a", False),
        ("b", True),
        ("c", True),
    ]
    assert [hop.result for hop in found.hops if hop.service == "b"] == ["laptop"]


async def test_a_typo_differs_from_a_service_without_a_sidecar(chain: Chain) -> None:
    found = await chain.traced('{"bb": "alice", "ledger": "bob"}', "x-devroute")
    document = as_document(found)
    typo, unknown = str(document["summary"]).split("; no service")
    assert typo == "no service on the way was 'bb'; did you mean 'b'?"
    assert "no sidecar of that name" in unknown
    assert document["missed"] == ["bb", "ledger"]


async def test_with_output_json_standard_output_is_json_alone(chain: Chain) -> None:
    chain.passed_on, chain.added = ("x-devroute",), {}
    laptop = f"{chain.laptop.host}:{chain.laptop.port}"
    request = ("--", "curl", "-s", "-H", f"X-devroute: {chain.contract()}", chain.entry)
    code, printed, error = await chain.command("trace", "--output", "json", *request)
    document = json.loads(printed)
    assert (code, error, document["output"]) == (0, "", "hello\n")
    assert [hop["responder"] for hop in document["hops"]] == ["service", laptop, "service"]
    assert document["summary"] == f"{laptop} answered at 'b'"


async def test_expect_waits_for_who_is_named_or_reports_who_responded(chain: Chain) -> None:
    chain.passed_on, chain.added = ("x-devroute",), {}
    laptop = f"{chain.laptop.host}:{chain.laptop.port}"
    met, unmet = await asyncio.gather(
        chain.command("expect", f"b={laptop}", "c=service", "--url", chain.entry, "--output", "json"),
        chain.command("expect", "b=alice", "--url", chain.entry, "--timeout", "0"),
    )
    document = json.loads(met[1])
    assert (met[0], document["unmet"], document["requests"]) == (0, [], 1)
    assert document["services"] == {"b": {"responders": [laptop], "missing": None}}
    assert unmet[0] == 110
    first, *hops, last = unmet[2].splitlines()
    assert first == "devroute: expected b=alice, but at 'b': service"
    assert len(hops) == 3
    assert last.startswith("the mesh's own service answered at 'b' (laptop 'alice' is not online")


async def test_a_coding_agent_sends_a_request_and_sees_who_responded_at_every_hop(chain: Chain) -> None:
    chain.passed_on, chain.added = ("x-devroute",), {}
    settings = ClientSettings(server=chain.mesh.proxy.server, token=SECRET)
    tools = MeshTools(lambda: settings, AgentSettings, LaptopTools(None), [chain.entry.rstrip("/")], True)
    found = json.loads(await tools.send_request(contract=chain.contract()))["data_from_outside"]
    assert (found["response"]["status"], found["response"]["body"]["text"]) == (200, "hello\n")
    laptop = f"{chain.laptop.host}:{chain.laptop.port}"
    assert [hop["responder"] for hop in found["trace"]["hops"]] == ["service", laptop, "service"]
    again = json.loads(await tools.read_trace(found["trace"]["trace"]))["data_from_outside"]
    assert again["summary"] == found["trace"]["summary"] == f"{laptop} answered at 'b'"


async def test_curl_fails_if_another_one_answered(chain: Chain) -> None:
    chain.passed_on, chain.added = ("baggage",), {}
    laptop, sent = f"{chain.laptop.host}:{chain.laptop.port}", {"DEVROUTE_CONTRACT": chain.contract()}
    met = ("--expect", f"b={laptop}", "--expect", "c=service")
    text, as_json = await asyncio.gather(
        chain.command("curl", "--expect", "b=alice", "-s", chain.entry, **sent),
        chain.command("curl", *met, "--output", "json", "-s", chain.entry, **sent),
    )
    assert text[:2] == (110, "hello\n")
    *hops, unmet, last = text[2].splitlines()
    assert [line.split()[3] for line in hops] == ["a", "b", "c"]
    assert unmet == f"devroute: expected b=alice, but at 'b': {laptop}"
    assert last == f"devroute: {laptop} answered at 'b'"
    assert (as_json[0], as_json[2]) == (0, "")
    assert (json.loads(as_json[1])["output"], json.loads(as_json[1])["unmet"]) == ("hello\n", [])


async def test_the_commands_own_failure_is_the_exit_code(chain: Chain, tmp_path: Path) -> None:
    code, _, error = await chain.command("trace", "--", "curl", "-s", f"file://{tmp_path}/nothing")
    assert (code, "no sidecar saw a contract" in error) == (37, True)
