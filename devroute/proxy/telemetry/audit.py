"""The audit trail: a line of JSON for each registration, refusal, takeover and change of the rules, and for
each detoured request. Owns where it is written, on standard output or at the end of a file; what events hold
is proxy/telemetry/audit_events.py's.

A request's event is put together by hand, from bytes that most of its kind have in common: that costs 2.5
microseconds with its writing, less than json.dumps alone. A trail that cannot be written never
holds requests up: it is lost, counted, and shown in the readiness.
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Final

import structlog

from devroute.errors import ConfigInvalid, DevrouteError
from devroute.http.message import header_value
from devroute.proxy.downstream.context import CompletedExchange
from devroute.proxy.telemetry.audit_events import VERSION, Event, line, refusal_fields, route_members
from devroute.proxy.telemetry.line_writer import LineWriter, identifier, quoted
from devroute.routing.route import CALLER
from devroute.token_bucket import TokenBucket

#: What `audit` is set to besides a file.
STDOUT: Final = "-"
OFF: Final = "off"

#: Of a new file: its owner's to write, its group's to read.
MODE: Final = 0o640

_DETOUR: Final = (
    b'{"audit": %d, "time": "%%b.%%06dZ", "event": "detour", %%b, "request_id": "%%b"}\n' % VERSION
)

#: Of routes, statuses and callers together: what one replica sees in a day.
MAX_REMEMBERED: Final = 4096

#: Refusals of one kind (where, and with which code) that are told at once, and more a second: whoever floods
#: us with wrong tokens fills no disk, and hides nobody else's wrong doings. What is left out is counted.
REFUSAL_BURST: Final = 100
REFUSALS_PER_SECOND: Final = 10

log = structlog.stdlib.get_logger("devroute.audit")


class AuditFile:
    """Where the lines go: `-` for standard output, or a file, which others may move away at any time: it is
    made anew as soon as that is seen. `lost` counts bytes that could not be written."""

    def __init__(self, place: str) -> None:
        """Raises ConfigInvalid where the file cannot be opened."""
        self._path = None if place == STDOUT else Path(place)
        self._file = sys.stdout.fileno() if self._path is None else self._open(self._path)
        self.lost = 0
        self.problem: str | None = None

    def write(self, lines: bytes) -> None:
        try:
            if self._path is not None and self._moved(self._path):
                self.reopen()
            rest = memoryview(lines)
            while rest:
                written = os.write(self._file, rest)  # not within the slice: see setup.py
                rest = rest[written:]
        except (OSError, ConfigInvalid) as error:
            self.lost += len(lines)
            if self.problem is None:
                self.problem = error.message if isinstance(error, ConfigInvalid) else str(error.strerror)
                log.error("audit.lost", problem=self.problem)
        else:
            if self.problem is not None:
                log.info("audit.resumed", lost_bytes=self.lost)
            self.problem = None

    def reopen(self) -> None:
        """After a rotation. Raises ConfigInvalid, and then keeps what it has."""
        if self._path is not None:
            older, self._file = self._file, self._open(self._path)
            with contextlib.suppress(OSError):
                os.close(older)

    def close(self) -> None:
        if self._path is not None:
            os.close(self._file)
            self._file = -1

    def _moved(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return True
        return not os.path.samestat(there, os.fstat(self._file))

    def _open(self, path: Path) -> int:
        try:
            return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, MODE)
        except OSError as error:
            raise ConfigInvalid(f"{path}: the audit trail cannot be written: {error.strerror}") from None


class Audit(LineWriter):
    """The events, in lines. `record` is for those that are few, `detoured` for the requests."""

    def __init__(self, trail: AuditFile) -> None:
        super().__init__(trail.write)
        self.trail = trail
        self._same: dict[tuple[bytes, int, bytes, str | None], bytes] = {}
        self._refusals: dict[tuple[object, object], TokenBucket] = {}
        self._omitted: dict[tuple[object, object], int] = {}

    def record(self, event: Event, /, **fields: object) -> None:
        if event == "refusal" and not self._may_tell((fields["at"], fields["code"])):
            return
        now = time.time()
        stamp = f"{self.stamp(now).decode()}.{int((now - int(now)) * 1e6):06d}Z"
        self.add(line(event, stamp, fields))

    def _may_tell(self, kind: tuple[object, object]) -> bool:
        """Codes and places are few, and ours."""
        now = self._loop.time()
        allowance = self._refusals.get(kind)
        if allowance is None:
            allowance = self._refusals[kind] = TokenBucket(REFUSAL_BURST, REFUSALS_PER_SECOND, now)
        if allowance.spend(now):
            return True
        self._omitted[kind] = self._omitted.get(kind, 0) + 1
        return False

    def record_omitted(self) -> None:
        """How many refusals were left out since the last call; to be called now and then."""
        omitted, self._omitted = self._omitted, {}
        for (at, code), count in omitted.items():
            self.record("omission", at=at, code=code, count=count)

    def detoured(self, exchange: CompletedExchange) -> None:
        """An exchange that is over; one without a route was refused."""
        route = exchange.route
        error = exchange.error
        caller = header_value(exchange.request.raw, CALLER) or b""
        if route is None:
            if error is not None:
                self._refused(exchange, error, caller)
            return
        members = route.audit_members
        if not members:
            members = route.audit_members = route_members(route)
        key = (members, exchange.status, caller, None if error is None else error.code)
        same = self._same.get(key)
        if same is None:
            same = self._remember(key)
        now = time.time()
        self.add(_DETOUR % (self.stamp(now), int(now % 1 * 1_000_000), same, identifier(exchange.request_id)))

    def _remember(self, key: tuple[bytes, int, bytes, str | None]) -> bytes:
        """What many requests have in common."""
        members, status, caller, code = key
        if len(self._same) >= MAX_REMEMBERED:
            self._same.clear()
        same = self._same[key] = b'%b, "status": %d, "code": %b, "caller": %b' % (
            members,
            status,
            json.dumps(code).encode(),
            b'"%b"' % quoted(caller) if caller else b"null",
        )
        return same

    def _refused(self, exchange: CompletedExchange, error: DevrouteError, caller: bytes) -> None:
        self.record(
            "refusal",
            at="data",
            subject=None,
            peer=None,
            caller=caller.decode("latin-1") or None,
            **refusal_fields(error),
            request_id=exchange.request_id.decode("latin-1"),
        )

    def reopen(self) -> None:
        """The file was moved away: what waits belongs to the older one."""
        self.flush()
        self.trail.write(b"")

    def close(self) -> None:
        self.record_omitted()
        self.flush()
        self.trail.close()
