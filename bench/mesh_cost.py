"""The cost of devroute's filters in a sidecar and a gateway, against the same Envoy without them.

The two Envoys of a pair share one core and run at the same time, so that a disturbance affects both; CPU time
is that of the kernel's scheduler. wrk and the app have the other cores. `--apart` runs them one after the
other instead, which needs an idle machine.
"""

import argparse
import asyncio
import itertools
import json
import os
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.processes import Stage, free_ports, stage
from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio import gateway, sidecar
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.rules import RELEASES, Release
from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter
from devroute.mesh.manifests.model import Carriers, Document, MeshScope, ProxyService
from devroute.mesh.manifests.patches import LUA_ROUTE_TYPE, LUA_TYPE, turned_on
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from devroute.mesh.manifests.sidecar_routes import FILTER

HERE = Path(__file__).parent
PROXY = ProxyService()
CONNECTIONS = 32
#: The headers that a request in a mesh has anyway.
HEADERS = {
    "user-agent": "wrk",
    "accept": "application/json",
    "accept-language": "en",
    "x-forwarded-for": "10.1.2.3",
    "x-forwarded-proto": "http",
    "x-request-id": "0c7d0b8e-41a3-4c1f-8b1e-6a1b5f6f7a11",
    "x-b3-traceid": "80f198ee56343ba864fe8b2a57d3eff7",
    "x-b3-spanid": "e457b5a2e4d86bd1",
    "traceparent": "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01",
    "authorization": "Bearer " + "t" * 200,
    "x-tenant": "shop",
    "cookie": "session=8f2b6a; theme=dark",
    "baggage": "user=1,tenant=shop",
}
THIRTY = {"foo": "alice"} | {f"service-{number}": f"192.168.1.{number}:8001" for number in range(29)}
CONTRACTS = {"other": '{"bar": "alice"}', "ours": '{"foo": "alice"}', "thirty": json.dumps(THIRTY)}

#: The least that a Lua filter can do, and one that looks for a contract in every request.
EMPTY = "function envoy_on_request(handle) end"
UNGATED = """
function envoy_on_request(handle)
  if handle:headers():get("x-devroute") == nil then
    return
  end
end
"""
MATCHER_TYPE = "type.googleapis.com/envoy.extensions.common.matching.v3.ExtensionWithMatcher"
SKIP_TYPE = "type.googleapis.com/envoy.extensions.filters.common.matcher.action.v3.SkipFilter"
INPUT_TYPE = "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput"

Shape = Callable[[int, int], Document]


def _sidecar(app: int, control: int) -> tuple[sidecar.Sidecar, Document]:
    """The app takes the proxy's place too, so that a detour differs from none by the filter's work alone."""
    clusters = {
        PROXY.data_cluster: Endpoint("127.0.0.1", app),
        PROXY.control_cluster: Endpoint("127.0.0.1", control),
    }
    shape = sidecar.Sidecar("foo", Endpoint("127.0.0.1", app), clusters=clusters)
    return shape, sidecar.bootstrap(shape)


def plain(app: int, control: int) -> Document:
    return _sidecar(app, control)[1]


def shipped(app: int, control: int) -> Document:
    """Gate A: routes enable filters that are disabled."""
    return _patched(app, control, RELEASES[-1])


def lua_in_front(app: int, control: int) -> Document:
    """The same with the first filter in Lua, as releases have it whose Envoy has none of its own."""
    return _patched(app, control, RELEASES[0])


def _patched(app: int, control: int, release: Release) -> Document:
    shape, configuration = _sidecar(app, control)
    return apply([envoy_filter(MeshScope())], shape, configuration, release)


def idle_filter(app: int, control: int) -> Document:
    """Gate A in its first form: the Lua filter is in every chain, but has code for devroute's routes only."""
    return _with_filter(app, control, {"@type": LUA_TYPE})


def gate_b(app: int, control: int) -> Document:
    """Envoy's matcher around the filter."""
    carries = {
        "single_predicate": {
            "input": {
                "name": "header",
                "typed_config": {"@type": INPUT_TYPE, "header_name": "x-devroute"},
            },
            "value_match": {"safe_regex": {"google_re2": {}, "regex": ".+"}},
        }
    }
    skip = {"action": {"name": "skip", "typed_config": {"@type": SKIP_TYPE}}}
    matchers = {"matchers": [{"predicate": {"not_matcher": carries}, "on_match": skip}]}
    code = {
        "@type": LUA_TYPE,
        "default_source_code": {
            "inline_string": lua.source(
                "decide", SETTINGS={"control": PROXY.control_cluster, **Carriers().settings}
            )
        },
    }
    return _with_filter(
        app,
        control,
        {
            "@type": MATCHER_TYPE,
            "xds_matcher": {"matcher_list": matchers},
            "extension_config": {"name": FILTER, "typed_config": code},
        },
    )


def ungated(app: int, control: int) -> Document:
    return _with_filter(app, control, {"@type": LUA_TYPE, "default_source_code": {"inline_string": UNGATED}})


def empty_lua(app: int, control: int) -> Document:
    """Lua that does nothing, on a route to the app: the lower bound of the cost."""
    configuration = _with_filter(
        app, control, {"@type": LUA_TYPE, "source_codes": {"empty": {"inline_string": EMPTY}}}
    )
    _filters(configuration)[-2]["disabled"] = True
    (host,) = _manager(configuration)["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    turned = turned_on({"@type": LUA_ROUTE_TYPE, "name": "empty"})
    match = {"prefix": "/", "headers": [{"name": "x-devroute", "present_match": True}]}
    host["routes"].insert(0, {**route, "match": match, "typed_per_filter_config": {FILTER: turned}})
    return configuration


def _with_filter(app: int, control: int, config: Document) -> Document:
    configuration = plain(app, control)
    _filters(configuration).insert(-1, {"name": FILTER, "typed_config": config})
    return configuration


def _filters(configuration: Document) -> list[Document]:
    found: list[Document] = _manager(configuration)["http_filters"]
    return found


def _manager(configuration: Document) -> Document:
    (chain,) = configuration["static_resources"]["listeners"][0]["filter_chains"]
    found: Document = chain["filters"][0]["typed_config"]
    return found


def plain_gateway(app: int, control: int) -> Document:
    return gateway.bootstrap(gateway.Gateway({"shop.example": Endpoint("127.0.0.1", app)}))


def edge(app: int, control: int) -> Document:
    shape = gateway.Gateway({"shop.example": Endpoint("127.0.0.1", app)})
    return apply([edge_filter(EdgeSettings())], shape, gateway.bootstrap(shape))


@dataclass(frozen=True)
class Case:
    """One line of the table: a request, and the two configurations that it is sent to."""

    name: str
    without: Shape
    with_ours: Shape
    contract: str | None = None
    least_ratio: float | None = None


CASES = (
    Case("no contract: the same twice (noise)", plain, plain),
    Case("no contract", plain, shipped, least_ratio=0.985),
    Case("no contract, filter idle in the chain", plain, idle_filter),
    Case("no contract, gate B", plain, gate_b),
    Case("no contract, Lua in every chain", plain, ungated),
    Case("names another service", plain, shipped, "other", 0.95),
    Case("names another service, Lua that does nothing", plain, empty_lua, "other"),
    Case("names another service, first filter in Lua", plain, lua_in_front, "other"),
    Case("detour", plain, shipped, "ours", 0.85),
    Case("detour, first filter in Lua", plain, lua_in_front, "ours"),
    Case("detour, 30 entries", plain, shipped, "thirty", 0.80),
    Case("gateway, nothing of ours", plain_gateway, edge),
)


@dataclass(frozen=True)
class Cost:
    """One round of one Envoy: microseconds of CPU per request, and requests per second."""

    cpu: float
    rate: float


@dataclass(frozen=True)
class Row:
    case: Case
    rounds: Sequence[tuple[Cost, Cost]]
    requests: int
    executions: int

    @property
    def ratio(self) -> float:
        return statistics.median(before.cpu / after.cpu for before, after in self.rounds)

    def line(self) -> str:
        base = statistics.median(before.cpu for before, _ in self.rounds)
        extra = [after.cpu - before.cpu for before, after in self.rounds]
        low, middle, high = statistics.quantiles(extra, n=4)
        rate = statistics.median(after.rate / before.rate for before, after in self.rounds)
        wanted = "" if self.case.least_ratio is None else f"{self.case.least_ratio:.3f}"
        return (
            f"| {self.case.name} | {base:.1f} | {middle:+.2f} | {low:+.2f} … {high:+.2f} | {self.ratio:.3f} "
            f"| {rate:.3f} | {wanted} | {self.executions / self.requests:.2f} |"
        )


HEAD = """\
| case | CPU without, µs | extra, µs | middle half | CPU ratio | req/s ratio | wanted | Lua runs a request |
| --- | --- | --- | --- | --- | --- | --- | --- |"""


def cpu_ns(pid: int) -> int:
    """CPU time of all threads, by the scheduler's own account (proc_pid_schedstat)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


async def drive(envoy: Envoy, headers: Mapping[str, str], seconds: int, cores: set[int]) -> Cost:
    (door,) = envoy.listeners.values()
    fields = itertools.chain.from_iterable(("-H", f"{name}: {value}") for name, value in headers.items())
    before = cpu_ns(envoy.process.pid)
    wrk = await asyncio.create_subprocess_exec(
        *("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", *fields, f"http://{door.host}:{door.port}/"),
        stdout=asyncio.subprocess.PIPE,
    )
    os.sched_setaffinity(wrk.pid, cores)
    output = (await wrk.communicate())[0].decode()
    spent = cpu_ns(envoy.process.pid) - before
    count, rate = re.search(r"(\d+) requests in", output), re.search(r"Requests/sec:\s+([\d.]+)", output)
    if count is None or rate is None or "Non-2xx" in output or "Socket errors" in output:
        raise RuntimeError(f"wrk reports errors:\n{output}")
    return Cost(spent / int(count[1]) / 1000, float(rate[1]))


async def measure(case: Case, ports: tuple[int, int], folder: Path, options: argparse.Namespace) -> Row:
    """Rounds of several pairs of Envoys: the memory layout of one process is worth a microsecond."""
    rounds: list[tuple[Cost, Cost]] = []
    requests = executions = 0
    for _ in range(options.pairs):
        row = await measure_pair(case, ports, folder, options)
        rounds += row.rounds
        requests += row.requests
        executions += row.executions
    return Row(case, rounds, requests, executions)


async def measure_pair(case: Case, ports: tuple[int, int], folder: Path, options: argparse.Namespace) -> Row:
    cores = sorted(os.sched_getaffinity(0))
    own, others = cores[-1], set(cores[:-1]) or set(cores)
    headers = HEADERS | ({"Host": "shop.example"} if "gateway" in case.name else {})
    if case.contract is not None:
        headers |= {"x-devroute": CONTRACTS[case.contract]}
    async with AsyncExitStack() as stack:
        pair = []
        for name, shape in (("without", case.without), ("with", case.with_ours)):
            environment = {"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "default"}
            envoy = await stack.enter_async_context(running(shape(*ports), folder, name, environment))
            for task in os.listdir(f"/proc/{envoy.process.pid}/task"):
                os.sched_setaffinity(int(task), {own})
            pair.append(envoy)
        rounds: list[tuple[Cost, Cost]] = []
        for number in range(options.rounds // options.pairs + 1):
            runs = [drive(envoy, headers, options.seconds, others) for envoy in pair]
            if options.apart:
                turn = 1 if number % 2 else -1
                costs = [await run for run in runs[::turn]][::turn]
            else:
                costs = await asyncio.gather(*runs)
            if number:  # the first one warms up
                rounds.append((costs[0], costs[1]))
        prefix = "http." + ("outbound_0.0.0.0_8080" if "gateway" in case.name else "inbound_0.0.0.0_8080")
        requests = await pair[1].counter(f"{prefix}.downstream_rq_total")
        return Row(case, rounds, requests, await pair[1].lua("executions"))


def start_app(run: Stage) -> tuple[int, int]:
    """nginx as the app, with 1 KB, and as the proxy's control port, which detours every contract."""
    app, control = free_ports(2)
    answer = "devroute 1\\ndecision detour\\nservice foo\\nttl 1000\\n"
    config = run.folder / "app.conf"
    config.write_text(
        "daemon off; worker_processes 1; pid app.pid; error_log stderr;\n"
        "events { worker_connections 1024; }\n"
        "http { access_log off; keepalive_requests 100000000; large_client_header_buffers 8 32k;\n"
        f'server {{ listen 127.0.0.1:{app} backlog=1024; location / {{ return 200 "{"x" * 1024}"; }} }}\n'
        f'server {{ listen 127.0.0.1:{control}; location / {{ return 200 "{answer}"; }} }} }}\n'
    )
    run.run("app", "nginx", "-p", run.folder, "-c", config)
    return app, control


async def run_all(options: argparse.Namespace) -> None:
    with stage(Path("/usr/bin"), {}) as run:
        ports = start_app(run)
        print(HEAD)
        for case in CASES:
            if options.only in case.name:
                print((await measure(case, ports, run.folder, options)).line(), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--pairs", type=int, default=5, help="restarts of both Envoys")
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--apart", action="store_true")
    parser.add_argument("--only", default="", help="the cases with this text in their name")
    asyncio.run(run_all(parser.parse_args()))
