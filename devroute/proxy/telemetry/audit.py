"""The audit trail: a line of JSON for each registration, takeover, refusal, change of the configuration, and
detoured request. audit_events.py has the events' fields, audit_file.py the file.

A request's event is put together from bytes that many have in common: with its writing that costs 2.5 µs,
less than json.dumps alone.
"""

import json
import time
from typing import Final

from devroute.bounded_cache import BoundedCache
from devroute.downstream.context import CompletedExchange
from devroute.errors import DevrouteError
from devroute.http.message import header_value
from devroute.proxy.telemetry.audit_events import (
    MAX_CALLER,
    VERSION,
    Event,
    line,
    refusal_fields,
    route_members,
)
from devroute.proxy.telemetry.audit_file import AuditFile
from devroute.proxy.telemetry.background_writer import BackgroundWriter
from devroute.proxy.telemetry.line_writer import LineWriter, digits, identifier, quoted
from devroute.routing.route import CALLER
from devroute.token_bucket import TokenBucket

#: Bytes of the members that are cached, for combinations of route, status and caller: some 20,000.
MAX_CACHED_BYTES: Final = 8 * 1024 * 1024

#: Refusals of one kind (place and code) that are recorded at once, and further ones a second: a flood of
#: wrong tokens fills no disk, and hides no other refusal. What is left out is counted.
REFUSAL_BURST: Final = 100
REFUSALS_PER_SECOND: Final = 10

_BEGIN: Final = b'{"audit": %d, "time": "' % VERSION


class Audit(LineWriter):
    """`record` is for the events that are few, `completed` for requests. `cached` are the members that
    requests have in common, by what determines them."""

    def __init__(self, file: AuditFile) -> None:
        self.writer = BackgroundWriter(file.write)
        super().__init__(self.writer.write)
        self._file = file
        self.cached: BoundedCache[tuple[bytes, int, bytes, str | None], bytes] = BoundedCache(
            MAX_CACHED_BYTES
        )
        self._refusals: dict[tuple[object, object], TokenBucket] = {}
        self._omitted: dict[tuple[object, object], int] = {}

    def record(self, event: Event, /, **fields: object) -> None:
        if event == "refusal" and not self._within_rate((fields["at"], fields["code"])):
            return
        self.add(line(event, self.timestamp(time.time()).decode(), fields))

    def _within_rate(self, kind: tuple[object, object]) -> bool:
        """Kinds are few, since devroute itself names places and codes."""
        now = self._loop.time()
        bucket = self._refusals.get(kind)
        if bucket is None:
            bucket = self._refusals[kind] = TokenBucket(REFUSAL_BURST, REFUSALS_PER_SECOND, now)
        if bucket.spend(now):
            return True
        self._omitted[kind] = self._omitted.get(kind, 0) + 1
        return False

    def record_omitted(self) -> None:
        """Record how many refusals were left out since the last call; to be called periodically."""
        omitted, self._omitted = self._omitted, {}
        for (at, code), count in omitted.items():
            self.record("omission", at=at, code=code, count=count)

    def completed(self, exchange: CompletedExchange) -> None:
        """Record a detoured request; one without a route was refused."""
        route = exchange.route
        error = exchange.error
        caller = (header_value(exchange.request.raw, CALLER) or b"")[:MAX_CALLER]
        if route is None:
            if error is not None:
                self._refused(exchange, error, caller)
            return
        key = (
            route.audit_members or route_members(route),
            exchange.status,
            caller,
            None if error is None else error.code,
        )
        self.add(
            b"".join(
                (
                    _BEGIN,
                    self.timestamp(time.time()),
                    b'", "event": "detour", ',
                    self.cached.get(key) or self._cache(key),
                    b', "request_id": "',
                    identifier(exchange.request_id),
                    b'"}\n',
                )
            )
        )

    def _cache(self, key: tuple[bytes, int, bytes, str | None]) -> bytes:
        """The members that many requests have in common."""
        route, status, caller, code = key
        members = b'%b, "status": %b, "code": %b, "caller": %b' % (
            route,
            digits(status),
            json.dumps(code).encode(),
            b'"%b"' % quoted(caller) if caller else b"null",
        )
        self.cached.put(key, members, len(route) + len(caller) + len(members))
        return members

    def _refused(self, exchange: CompletedExchange, error: DevrouteError, caller: bytes) -> None:
        fields = refusal_fields(
            error,
            caller=caller.decode("latin-1") or None,
            request_id=exchange.request_id.decode("latin-1"),
        )
        self.record("refusal", at="data", **fields)

    def reopen(self) -> None:
        """The file was moved away: what waits belongs to the older one."""
        self.flush()
        self.writer.write(b"")

    def close(self) -> None:
        self.record_omitted()
        self.flush()
        if self.writer.close():
            self._file.close()
