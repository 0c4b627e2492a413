"""What the proxy reports about itself and its exchanges: log, audit trail, metrics, traces. Owns their
writers, and reports how many lines those have lost.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final

import structlog

from devroute.downstream.sampling import Sampler
from devroute.errors import ConfigInvalid
from devroute.http.spans import AgentSpan
from devroute.metrics import table
from devroute.metrics.series import Series
from devroute.metrics.table import Metric
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.access_log import request_log
from devroute.proxy.telemetry.activity import Activity
from devroute.proxy.telemetry.audit import Audit
from devroute.proxy.telemetry.audit_events import RecordEvent, discard_event
from devroute.proxy.telemetry.audit_file import OFF, AuditFile
from devroute.proxy.telemetry.background_writer import BackgroundWriter, LineFile
from devroute.proxy.telemetry.control_metrics import ControlMetrics
from devroute.proxy.telemetry.metrics import Metrics
from devroute.proxy.telemetry.observer import Observer
from devroute.proxy.telemetry.scrape import all_series
from devroute.routing.decision import Decision
from devroute.routing.shadow.assignment import Assignment
from devroute.routing.trace import Traces
from devroute.tasks import import_in_thread
from devroute.token_bucket import TokenBucket

if TYPE_CHECKING:
    from devroute.proxy.telemetry.tracing import Tracing

STDERR: Final = 2

#: What the loop reports at once, and more a second: asyncio says a thousand times that it cannot accept.
REPORTS_BURST: Final = 20
REPORTS_PER_SECOND: Final = 1
_reports = TokenBucket(REPORTS_BURST, REPORTS_PER_SECOND, 0.0)

log = structlog.stdlib.get_logger("devroute.telemetry")


def report_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """The loop's exception handler."""
    if _reports.spend(loop.time()):
        loop.default_exception_handler(context)


def standard_error() -> BackgroundWriter:
    """For all lines of a process: two writers would mix theirs."""
    return BackgroundWriter(LineFile(STDERR).write)


class Telemetry:
    """`record` writes to the audit trail, if there is one; `observer` is called with each exchange; `control`
    counts what happens at the control port."""

    def __init__(
        self, settings: ProxySettings, clock: Callable[[], float], log_writer: BackgroundWriter | None
    ) -> None:
        """`clock` gives seconds; without `log_writer` it has its own. Raises ConfigInvalid for an audit trail
        that cannot be opened, and for traces without their libraries."""
        self._owns_writer = log_writer is None
        self._log_writer = log_writer = log_writer or standard_error()
        self._audit = None if settings.audit == OFF else Audit(AuditFile(settings.audit))
        self.record: RecordEvent = discard_event if self._audit is None else self._audit.record
        self.control = ControlMetrics(by_laptop=settings.metrics_by_laptop)
        self.metrics = Metrics(self.control.requests, by_laptop=settings.metrics_by_laptop)
        self.activity = Activity()
        self.traces = Traces()
        log_exchange, self._flush_log = request_log(
            settings.log_format, settings.log_level, settings.log_sample, log_writer.write
        )
        self.tracing = None if settings.otlp_endpoint is None else _tracing(settings.otlp_endpoint)
        self.observer = Observer(
            self.metrics, log_exchange, self._audit, self.traces, clock, self.activity, self.tracing
        )
        self._reported: dict[str, int] = {}

    def resolved(self, resolved: Decision | Assignment, seconds: float) -> None:
        """A sidecar has got this decision, after so many seconds."""
        self.control.resolved(resolved, seconds)
        if isinstance(resolved, Decision) and resolved.kind == "fallback" and resolved.error is not None:
            self.control.fell_back(resolved, resolved.error)
            self.activity.fell_back(resolved.service, resolved.target, resolved.error, time.time())

    @property
    def sampler(self) -> Sampler | None:
        """For the data port."""
        return None if self.tracing is None else self.tracing.sampler

    @property
    def report_span(self) -> Callable[[AgentSpan], None] | None:
        """For the spans of requests that other replicas forward."""
        return None if self.tracing is None else self.tracing.add_agent

    def report_losses(self) -> None:
        """Log and record what was left out and lost since the last call; to be called periodically."""
        if (lines := self._more("log", self._log_writer.lost)) > 0:
            log.error("log.lost", lines=lines, problem=self._log_writer.problem)
        if (tracing := self.tracing) is not None and (spans := self._more("spans", tracing.lost)) > 0:
            log.warning("traces.lost", spans=spans, problem=tracing.problem)
        if (audit := self._audit) is None:
            return
        audit.record_omitted()
        if (lines := self._more("audit", audit.writer.lost)) > 0:
            log.error("audit.lost", lines=lines, problem=audit.writer.problem)
            audit.record("omission", at="trail", code="lines-lost", count=lines)

    def _more(self, name: str, lost: int) -> int:
        before = self._reported.get(name, 0)
        self._reported[name] = lost
        return lost - before

    async def exposed(
        self, accept: str, state: Mapping[Metric, float], further: Iterable[Series] = ()
    ) -> tuple[bytes, str]:
        """The body of /metrics for an Accept, and its Content-Type; `state`: metrics without labels."""
        lost: dict[Metric, float] = {
            table.LOG_DROPPED: self._log_writer.lost,
            table.AUDIT_DROPPED: 0 if self._audit is None else self._audit.writer.lost,
            table.SPANS_EXPORTED: 0 if self.tracing is None else self.tracing.exported,
        }
        series = [*all_series(self.metrics, self.control, {**state, **lost}), *further]
        if self.tracing is not None:
            series += self.tracing.series()
        await import_in_thread("devroute.metrics.exposition")  # for the first scrape: a tenth of a start
        from devroute.metrics.exposition import expose

        return await expose(accept, series, by_laptop=self.metrics.by_laptop)

    def status(self) -> dict[str, object]:
        """For /readyz."""
        return {
            "log_problem": self._log_writer.problem,
            "audit_problem": None if self._audit is None else self._audit.writer.problem,
            "traces_problem": None if self.tracing is None else self.tracing.problem,
        }

    def reopen_audit(self) -> None:
        if self._audit is not None:
            self._audit.reopen()

    def start(self) -> None:
        if self.tracing is not None:
            self.tracing.start()

    async def stop(self) -> None:
        """Send and write what waits, in bounded time."""
        if self.tracing is not None:
            await self.tracing.close()
        self._flush_log()
        if self._audit is not None:
            self._audit.close()
        if self._owns_writer:
            self._log_writer.close()


def _tracing(endpoint: str) -> "Tracing":
    """Raises ConfigInvalid."""
    try:
        from devroute.proxy.telemetry.collector import Collector
        from devroute.proxy.telemetry.tracing import Tracing
    except ImportError as error:
        raise ConfigInvalid(
            "otlp_endpoint: what sends traces is not installed", hint="pip install 'devroute[otel]'"
        ) from error
    return Tracing(Collector(endpoint))
