"""Metrics of the control port: decisions of /resolve, fallbacks, links, and what laptops offer."""

from collections import Counter
from typing import Final

from devroute.bounded_cache import BoundedCache
from devroute.contract.target import Laptop
from devroute.errors import DevrouteError
from devroute.metrics.instruments import Histogram
from devroute.metrics.requests import RequestSeries
from devroute.metrics.table import RESOLVE_BUCKETS, RTT
from devroute.proxy.telemetry.audit_events import REFUSAL_STATUSES
from devroute.routing.decision import Decision
from devroute.routing.registration import Registration
from devroute.routing.resolve_codec import decision_word
from devroute.routing.shadow.assignment import Assignment

#: Of the cache of processes that have registered: some 10,000.
MAX_PROCESSES_BYTES: Final = 1024 * 1024


class ControlMetrics:
    """Implements RegistryObserver. `resolves` are durations by decision; their number is bounded, since the
    decisions are a few words. `requests`: the data port's, which know by `offers` what laptops offer."""

    def __init__(self, *, by_laptop: bool) -> None:
        self.by_laptop = by_laptop
        self.requests = RequestSeries(self.offers)
        self.resolves: dict[str, Histogram] = {}
        self.round_trips = Histogram(list(RTT.buckets))
        self.reconnects = 0
        self._offered: Counter[str] = Counter()
        self._processes = BoundedCache[tuple[str, str, int], int](MAX_PROCESSES_BYTES)  # newest generations

    def resolved(self, resolved: Decision | Assignment, seconds: float) -> None:
        word = decision_word(resolved)
        histogram = self.resolves.get(word)
        if histogram is None:
            histogram = self.resolves[word] = Histogram(list(RESOLVE_BUCKETS))
        histogram.observe(seconds)

    def fell_back(self, decision: Decision, error: DevrouteError) -> None:
        """The decision is that a service responds in its target's place."""
        laptop = decision.target if self.by_laptop and _names_laptop(decision) else ""
        permitted = error.status not in REFUSAL_STATUSES
        service = self.requests.service(decision.service, contracted=permitted)
        service.fallbacks_for(error.code, laptop).count += 1

    def offers(self, service: str) -> bool:
        """Whether a laptop offers a service, as a contract names it: `b` or `b.namespace`."""
        return service in self._offered or ("." in service and service.partition(".")[0] in self._offered)

    def registered(self, registration: Registration) -> None:
        self._offered.update(registration.services.keys())
        hello, generation = registration.hello, registration.generation
        if hello.instance is None:
            return
        process = (registration.name, hello.instance, hello.link)
        before = self._processes.get(process)
        if before is not None and before != generation and not registration.remote:
            self.reconnects += 1
        if before != generation:
            self._processes.put(process, generation, len(registration.name) + len(hello.instance))

    def unregistered(self, registration: Registration) -> None:
        self._offered.subtract(registration.services.keys())
        for name in registration.services:
            if not self._offered[name]:
                del self._offered[name]


def _names_laptop(decision: Decision) -> bool:
    """Not an address: that may be a laptop's, too."""
    return decision.entry is not None and isinstance(decision.entry.target, Laptop)
