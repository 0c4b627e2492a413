"""`python -m bench.telemetry_cost`: what metrics, the access log and traces cost a request, in nanoseconds.

Each figure is the least of several rounds, so that other work of the machine affects it little, minus that of
an empty call. With the compiled package: `make compiled`, then
`PYTHONSAFEPATH=1 PYTHONPATH=build/compiled:. .venv/bin/python -m bench.telemetry_cost`.
"""

import asyncio
import gc
import sys
from collections.abc import Callable
from time import perf_counter_ns, process_time_ns

from devroute.downstream.context import CompletedExchange, Context, Timeouts
from devroute.downstream.exchange import Exchange
from devroute.downstream.sampling import Sampler
from devroute.http.http1.request import parse_request_head
from devroute.http.message import Framing, RequestHead
from devroute.http.spans import AgentSpan
from devroute.metrics.exposition import expose
from devroute.metrics.requests import RequestSeries
from devroute.proxy.telemetry import metrics as compiled_or_not
from devroute.proxy.telemetry.access_log import AccessLog
from devroute.proxy.telemetry.control_metrics import ControlMetrics
from devroute.proxy.telemetry.metrics import Metrics
from devroute.proxy.telemetry.scrape import all_series
from devroute.proxy.telemetry.spans import Batch, sampled_request
from devroute.routing.route import Route
from devroute.upstream.interface import DiscardedRequest, ResponseSink, UpstreamStream

ROUNDS, REQUESTS = 400, 200
SCRAPES, OUTCOMES = 5, 200
#: Requests whose spans make a batch.
IN_BATCH = 16

#: What a request may cost, in nanoseconds, compiled.
BUDGETS = {
    "metrics": 1_000,
    "log": 4_000,
    "traces, request not sampled": 500,
    "traces, request sampled, on its way": 6_000,
    "traces, request sampled, at its end": 6_000,
    "traces, request sampled, its spans later": 40_000,
}

#: As a sidecar sends it.
HEAD = (
    b"GET /orders/17?page=2 HTTP/1.1\r\nhost: b.shop.svc.cluster.local\r\naccept: */*\r\n"
    b"user-agent: curl/8\r\n"
    b"x-forwarded-for: 10.1.2.3\r\nx-forwarded-proto: http\r\n"
    b"x-request-id: 0c7d0b8e-41a3-4c1f-8b1e-6a1b5f6f7a11\r\n"
    b"traceparent: 00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01\r\n"
    b"authorization: Bearer " + b"t" * 200 + b"\r\ncookie: session=8f2b6a; theme=dark\r\n"
    b'x-devroute: {"b": "alice"}\r\nx-devroute-matched: b\r\nx-devroute-via: b\r\n\r\n'
)


class Nowhere:
    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return DiscardedRequest()


def exchange(milliseconds: float) -> Exchange:
    """One that is complete."""
    route = Route(Nowhere(), "b", "alice", "laptop", "b answered by alice (tunnel)", laptop="alice")
    timeouts = Timeouts(head=60, body=60, first_byte=60, idle=60, keep_alive=60, total=60)
    context = Context(lambda request: route, timeouts, lambda done: None, 0.0)
    made = Exchange(context, parse_request_head(HEAD))
    made.route = route
    made.status, made.bytes_out = 200, 1024
    made.opened = made.started + 0.0001
    made.ended = made.started + milliseconds / 1000
    made.finished = made.ended + 0.0001
    return made


def cost(
    call: Callable[[CompletedExchange], object], done: CompletedExchange, calls: int = REQUESTS
) -> float:
    """Nanoseconds of a call."""
    numbers = range(calls)
    least = float("inf")
    for _ in range(ROUNDS):
        before = perf_counter_ns()
        for _ in numbers:
            call(done)
        least = min(least, perf_counter_ns() - before)
    return least / calls


def tracing_costs() -> dict[str, Callable[[CompletedExchange], object]]:
    """The parts of what traces cost: a look at the head; ids and a new head; what is kept of the request; and
    its three spans, with their part of a batch's bytes."""
    agents: list[AgentSpan] = []
    sampler = Sampler(agents.append)
    route = exchange(12.0).route
    assert route is not None
    plain = parse_request_head(HEAD.replace(b"-01\r\n", b"-00\r\n"))

    def begin(done: CompletedExchange) -> None:
        ids = sampler.sample(done.request)
        assert ids is not None
        sampler.pass_on(ids, RequestHead(b"GET", b"/", Framing.NONE, 0, done.request.raw), route)

    ids = sampler.sample(parse_request_head(HEAD))
    assert ids is not None
    kept = sampled_request(exchange(12.0), ids)
    agent = AgentSpan(ids.parent, "b", "alice", agents.append)
    agent.opened, agent.ended = kept.opened, kept.ended

    def build(done: CompletedExchange) -> None:
        batch = Batch(0, "bench")
        for _ in range(IN_BATCH):
            batch.add(kept)
            batch.add(agent)
        batch.body()

    return {
        "traces, request not sampled": lambda done: sampler.sample(plain),
        "traces, request sampled, on its way": begin,
        "traces, request sampled, at its end": lambda done: sampled_request(done, ids),
        "traces, request sampled, its spans later": build,
    }


def measured() -> dict[str, float]:
    """What each part costs a request, in nanoseconds. Needs a running event loop, for the log's batches."""
    done = exchange(12.0)
    gc.collect()
    gc.disable()
    try:
        empty = cost(lambda one: None, done)
        metrics = Metrics(RequestSeries(lambda service: True), by_laptop=False)
        log = AccessLog(lambda lines: None)
        found = {"metrics": cost(metrics.count, done) - empty, "log": cost(log.completed, done) - empty}
        for name, call in tracing_costs().items():
            found[name] = cost(call, done, 10 if "later" in name else REQUESTS) - empty
        found["traces, request sampled, its spans later"] /= IN_BATCH
        return found
    finally:
        gc.enable()


async def scrape() -> tuple[float, float]:
    """Seconds of CPU time that /metrics takes with OUTCOMES pairs of histograms, and that it takes at most
    before requests have their turn."""
    requests = RequestSeries(lambda service: True)
    for number in range(OUTCOMES):
        outcome = requests.service(f"s{number // 10}", contracted=True).outcome(b"GET", 200 + number % 10, "")
        outcome.server.observe(0.1)
        outcome.client.observe(0.1)
    metrics, control = Metrics(requests, by_laptop=False), ControlMetrics(by_laptop=False)
    started = last = process_time_ns()
    longest = 0
    writing = asyncio.ensure_future(expose("", all_series(metrics, control, {})))
    while not writing.done():
        await asyncio.sleep(0)
        now = process_time_ns()
        last, longest = now, max(longest, now - last)
    return (last - started) / 1e9, longest / 1e9


async def main() -> int:
    form = "plain Python" if str(compiled_or_not.__file__).endswith(".py") else "compiled"
    missed = False
    for name, nanoseconds in measured().items():
        missed = missed or nanoseconds > BUDGETS[name]
        print(f"{name}: {nanoseconds:,.0f} ns a request ({form}; at most {BUDGETS[name]:,} ns)")
    scrapes = [await scrape() for _ in range(SCRAPES)]
    took, longest = (min(each) * 1000 for each in zip(*scrapes, strict=True))
    print(
        f"scrape of {2 * OUTCOMES} histograms: {took:.0f} ms, of which requests wait {longest:.1f} ms at once"
    )
    return int(missed)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
