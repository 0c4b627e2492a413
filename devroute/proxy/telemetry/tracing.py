"""Traces: takes what is sampled at its end, and sends it to a collector in batches. Needs the extra `otel`.

Owns what waits, its bound, and the count of what was dropped. Nothing here is on a request's way: what is
kept of one is a tuple, its spans are made some at a time between other work of the loop, and one batch is
sent at a time, by a task of its own. Whatever the collector does, only the count grows.
"""

import asyncio
import time
import uuid
from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

import structlog

from devroute.downstream.context import CompletedExchange
from devroute.downstream.sampling import Sampler
from devroute.http.spans import AgentSpan
from devroute.metrics import table
from devroute.metrics.series import Series
from devroute.proxy.telemetry.collector import (
    INVALID,
    QUEUE_FULL,
    REASONS,
    REJECTED,
    STOPPED,
    Collector,
    Delivery,
)
from devroute.proxy.telemetry.spans import Batch, SampledRequest, sampled_request
from devroute.tasks import TaskOwner, is_set_within

#: Sampled requests, and agents' spans, that wait: some 2 KiB each at most.
MAX_WAITING: Final = 4096
#: Of these in one batch: some 300 KiB, below what any collector limits a request to.
MAX_BATCH: Final = 256
#: That become spans before the loop goes on: some 0.5 ms.
AT_ONCE: Final = 16
#: Seconds that a span waits for others.
INTERVAL: Final = 1.0
#: Attempts to send a batch, and seconds before the second one, doubled for each further one.
ATTEMPTS: Final = 3
BACKOFF: Final = 1.0
#: Seconds that what waits may take at the end.
CLOSE_SECONDS: Final = 2.0

log = structlog.stdlib.get_logger("devroute.tracing")


class Tracing:
    """`sampler` is for the data port; `add` is called with each exchange at its end. `exported` and `dropped`
    count spans, the latter by reason (collector.REASONS). `problem`: why the newest batch was not taken."""

    def __init__(self, collector: Collector, interval: float = INTERVAL, backoff: float = BACKOFF) -> None:
        self.sampler = Sampler(self.add_agent)
        self.exported = 0
        self.dropped: Counter[str] = Counter()
        self.problem: str | None = None
        self._collector = collector
        self._interval = interval
        self._backoff = backoff
        self._instance = str(uuid.uuid4())
        self._waiting: deque[SampledRequest | AgentSpan] = deque()
        self._some = asyncio.Event()  # wait
        self._due = asyncio.Event()  # a whole batch waits, or the end has come
        self._closing = asyncio.Event()
        self._tasks = TaskOwner()
        self._task: asyncio.Task[None] | None = None

    @property
    def lost(self) -> int:
        return self.dropped.total()

    def series(self) -> Iterator[Series]:
        """For the metrics; `exported` comes apart, since it is there without traces, too."""
        for reason in REASONS:
            yield table.SPANS_DROPPED, (reason,), self.dropped[reason]

    # --- from requests

    def add(self, exchange: CompletedExchange) -> None:
        if exchange.spans is not None:
            self._put(sampled_request(exchange, exchange.spans))

    def add_agent(self, span: AgentSpan) -> None:
        self._put(span)

    def _put(self, sampled: SampledRequest | AgentSpan) -> None:
        if len(self._waiting) >= MAX_WAITING:
            self.dropped[QUEUE_FULL] += sampled.spans
            return
        self._waiting.append(sampled)
        self._some.set()
        if len(self._waiting) >= MAX_BATCH:
            self._due.set()

    # --- to the collector

    def start(self) -> None:
        self._task = self._tasks.start(self._run())

    async def close(self) -> None:
        """Send what waits, in bounded time."""
        self._closing.set()
        self._due.set()
        self._some.set()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        await self._tasks.close()
        self.dropped[STOPPED] += sum(each.spans for each in self._waiting)
        self._waiting.clear()
        await self._collector.close()

    async def _run(self) -> None:
        while not self._closing.is_set() or self._waiting:
            await self._some.wait()
            await is_set_within(self._due, self._interval)
            batch = Batch(time.time_ns() - time.monotonic_ns(), self._instance)
            try:
                await self._fill(batch)
                await self._send(batch)
            except asyncio.CancelledError:
                self.dropped[STOPPED] += batch.spans
                raise
            except Exception as error:  # the last resort: a bug must not end all traces
                self.dropped[INVALID] += batch.spans
                log.error("traces.failed", exc_info=error)

    async def _fill(self, batch: Batch) -> None:
        waiting = self._waiting
        for taken in range(1, min(len(waiting), MAX_BATCH) + 1):
            batch.add(waiting.popleft())
            if taken % AT_ONCE == 0:
                await asyncio.sleep(0)
        if len(waiting) < MAX_BATCH and not self._closing.is_set():
            self._due.clear()
        if not waiting and not self._closing.is_set():
            self._some.clear()

    async def _send(self, batch: Batch) -> None:
        if not batch.spans:
            return
        body = batch.body()
        delivery = Delivery()
        for attempt in range(ATTEMPTS):
            delivery = await self._collector.send(body)
            if not delivery.again or attempt == ATTEMPTS - 1 or self._closing.is_set():
                break
            pause = self._backoff * 2**attempt if delivery.after is None else delivery.after
            await is_set_within(self._closing, pause)
        lost = batch.spans if delivery.reason else 0
        if delivery.reason == REJECTED:
            lost = min(delivery.rejected, batch.spans)
        self.exported += batch.spans - lost
        if lost:
            self.dropped[delivery.reason] += lost
        self.problem = delivery.problem or None
