"""The metrics of requests by service: durations by method, status and error, and counts by result and reason.

Owns their cardinality: which services have a value of their own, how many combinations each may have, and
when those that are not used any more end. A route looks its `Results` up once. Compiled (setup.py).
"""

from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Final

from devroute.metrics.instruments import Histogram
from devroute.metrics.table import HTTP_BUCKETS, OTHER

#: Services that have a value of their own: those that a laptop has registered, and others that a permitted
#: contract names, so that no flood of invented names displaces the first.
MAX_REGISTERED: Final = 500
MAX_CONTRACTED: Final = 100
#: Combinations of method, status and error type of one service. An app may return any status: beyond these,
#: method and error type become `_OTHER`, and the status that of its class (RFC 9110 §15).
MAX_OUTCOMES: Final = 100
#: Combinations of result, reason and laptop of one service.
MAX_RESULTS: Final = 300
#: Calls of `prune` without a request, after which a combination ends.
IDLE_PRUNES: Final = 6

#: The methods that OpenTelemetry's conventions name, with the values of the label.
METHODS: Final[dict[bytes, str]] = {
    name.encode(): name
    for name in ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE")
}
#: 499: a client that left (errors.ClientClosed).
STATUSES: Final = frozenset({*(int(status) for status in HTTPStatus), 499})
_BOUNDS: Final = list(HTTP_BUCKETS)


class Outcome:
    """Requests to one service with one method, status and error type. `due`: by bucket of `server`, when
    another exemplar may take the place of the last one, as monotonic time."""

    __slots__ = ("client", "due", "error_type", "idle", "method", "seen", "server", "status")

    def __init__(self, method: str, status: str, error_type: str) -> None:
        self.method = method
        self.status = status
        self.error_type = error_type
        self.server = Histogram(_BOUNDS)
        self.client = Histogram(_BOUNDS)
        self.due = [0.0] * (len(_BOUNDS) + 1)
        self.seen = 0
        self.idle = 0


class Results:
    """Requests to one service with one result, reason and laptop, or fallbacks with one reason. `outcomes`
    caches those of the service, by method and status of requests without an error. `ended`: it is exposed no
    more, and must not be counted with. `own`: the proxy itself responds, in the app's place."""

    __slots__ = ("count", "ended", "idle", "laptop", "outcomes", "own", "reason", "result", "seen", "service")

    def __init__(self, service: "ServiceSeries", result: str, reason: str, laptop: str) -> None:
        self.service = service
        self.result = result
        self.reason = reason
        self.laptop = laptop
        self.count = 0
        self.own = False
        self.ended = False
        self.outcomes: dict[bytes, dict[int, Outcome]] = {}
        self.seen = 0
        self.idle = 0


class ServiceSeries:
    """All that is counted of one service. `name` is the value of the label."""

    __slots__ = ("contracted", "fallbacks", "name", "outcomes", "results")

    def __init__(self, name: str, *, contracted: bool) -> None:
        self.name = name
        self.contracted = contracted  # and not registered, when it came
        self.outcomes: dict[tuple[str, str, str], Outcome] = {}
        self.results: dict[tuple[str, str, str], Results] = {}
        self.fallbacks: dict[tuple[str, str, str], Results] = {}

    def outcome(self, method: bytes, status: int, error_type: str) -> Outcome:
        """`status` is 0 without a response. `error_type`: "" for requests that succeeded."""
        key = (METHODS.get(method, OTHER), _status_label(status), error_type)
        found = self.outcomes.get(key)
        if found is None:
            if len(self.outcomes) >= MAX_OUTCOMES:
                key = (OTHER, _class_label(status), OTHER if error_type else "")
                found = self.outcomes.get(key)
            if found is None:
                found = self.outcomes[key] = Outcome(key[0], key[1], key[2])
        return found

    def results_for(self, result: str, reason: str, laptop: str) -> Results:
        return self._found(self.results, result, reason, laptop)

    def fallbacks_for(self, reason: str, laptop: str) -> Results:
        return self._found(self.fallbacks, "fallback", reason, laptop)

    def _found(
        self, among: dict[tuple[str, str, str], Results], result: str, reason: str, laptop: str
    ) -> Results:
        key = (result, reason, laptop)
        found = among.get(key)
        if found is None:
            if len(among) >= MAX_RESULTS:
                key = (result, OTHER, OTHER if laptop else "")
                found = among.get(key)
            if found is None:
                found = among[key] = Results(self, key[0], key[1], key[2])
        return found

    def cached_outcome(self, results: Results, method: bytes, status: int) -> Outcome:
        """The outcome of requests without an error, which `results` finds by itself from now on. Clients may
        invent methods, so only those that are known are cached."""
        found = self.outcome(method, status, error_type("", status))
        if method in METHODS:
            results.outcomes.setdefault(method, {})[status] = found
        return found

    def prune(self) -> None:
        """End what had no request for IDLE_PRUNES calls."""
        for key, outcome in list(self.outcomes.items()):
            total = outcome.server.total
            outcome.idle = 0 if total != outcome.seen else outcome.idle + 1
            outcome.seen = total
            if outcome.idle >= IDLE_PRUNES:
                del self.outcomes[key]
                for each in self.results.values():
                    each.outcomes.clear()
        for among in (self.results, self.fallbacks):
            for name, results in list(among.items()):
                results.idle = 0 if results.count != results.seen else results.idle + 1
                results.seen = results.count
                if results.idle >= IDLE_PRUNES:
                    results.ended = True
                    del among[name]


class RequestSeries:
    """By service. `registered` says whether a laptop offers a service."""

    def __init__(self, registered: Callable[[str], bool]) -> None:
        self._registered = registered
        self._other = ServiceSeries(OTHER, contracted=False)
        self._services: dict[str, ServiceSeries] = {}
        self._contracted = 0

    def service(self, name: str | None, *, contracted: bool) -> ServiceSeries:
        """`contracted`: a contract that policy permits names it. The names in other requests are anyone's,
        and count as `_OTHER` unless they are known."""
        if name is None:
            return self._other
        found = self._services.get(name)
        if found is not None:
            return found
        if self._registered(name):
            if len(self._services) - self._contracted >= MAX_REGISTERED:
                return self._other
            found = ServiceSeries(name, contracted=False)
        elif contracted and self._contracted < MAX_CONTRACTED:
            found = ServiceSeries(name, contracted=True)
            self._contracted += 1
        else:
            return self._other
        self._services[name] = found
        return found

    def all(self) -> Iterator[ServiceSeries]:
        yield from self._services.values()
        yield self._other

    def prune(self) -> None:
        """To be called every ten minutes: what had no request for an hour ends."""
        self._other.prune()
        for name, service in list(self._services.items()):
            service.prune()
            if not (service.results or service.outcomes or service.fallbacks):
                del self._services[name]
                if service.contracted:
                    self._contracted -= 1


def error_type(code: str, status: int) -> str:
    """The value of this label: the code of devroute's error, or a status of the app's that is one, or ""."""
    return code or (str(status) if status >= 500 else "")


def _status_label(status: int) -> str:
    return str(status) if status in STATUSES else _class_label(status)


def _class_label(status: int) -> str:
    """RFC 9110 §15: a status that is not known is as the x00 of its class."""
    return str(status // 100 * 100) if status else ""
