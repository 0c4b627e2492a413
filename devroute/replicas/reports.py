"""Sidecars' reports, wherever they have arrived: a trace is put together when it is read, and a service's
response is passed on to the replica that has the laptop's, for which its sidecar could not have known it.

Of a copied request, the copy and the report reach two replicas in any order. If the copy is first, its
replica expects the report, and takes it when it is passed on. If not, that replica asks for it once the
laptop has responded.
"""

import json
import time
from collections.abc import Coroutine
from dataclasses import replace
from typing import Final, NamedTuple

from devroute.errors import NotFound
from devroute.replicas.node import REPORTS
from devroute.replicas.peers import Peers
from devroute.routing.shadow.comparison import ComparedResponse, PendingComparisons, decode_response
from devroute.routing.trace import KnownServices, Reports, Traces
from devroute.tasks import TaskOwner

#: Reports that are passed on or asked for at the same time; further ones stay where they are.
MAX_ASKING: Final = 64

_TRACES: Final = "traces/"
_PUT: Final = "put/"
_GET: Final = "get/"


class Reported(NamedTuple):
    """What sidecars have reported to a proxy."""

    traces: Traces
    services: KnownServices
    comparisons: PendingComparisons


class SharedReports:
    """Implements devroute.proxy.control.api.SharedReports. `reported` is what has been reported here."""

    def __init__(self, reported: Reported, peers: Peers) -> None:
        self._traces, self._services, self._comparisons = reported
        self._peers = peers
        self._tasks = TaskOwner()
        self._comparisons.missing = self.fetch

    async def close(self) -> None:
        await self._tasks.close()

    @property
    def busy(self) -> bool:
        """Whether reports are being passed on or fetched."""
        return self._tasks.active

    # --- to other replicas

    async def traces(self, trace_id: str) -> list[Reports]:
        found = []
        for body in await self._ask_all(f"{_TRACES}{trace_id}"):
            try:
                found.append(Reports.decode(body))
            except (ValueError, KeyError, TypeError):
                continue  # of another release
        return found

    def pass_on(self, key: str) -> None:
        """Pass on the service's response with this key; it stays here unless another replica takes it."""
        self._start(self._pass_on(key))

    def fetch(self, key: str) -> None:
        """Ask for the service's response with this key."""
        self._start(self._fetch(key))

    async def _pass_on(self, key: str) -> None:
        response = self._comparisons.waiting(key)
        if response is not None and await self._ask_all(f"{_PUT}{key}", _encoded(response)):
            self._comparisons.discard(key)

    async def _fetch(self, key: str) -> None:
        for body in await self._ask_all(f"{_GET}{key}"):
            self._take(key, body)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        if self._tasks.count < MAX_ASKING:
            self._tasks.start(work)
        else:
            work.close()

    async def _ask_all(self, question: str, body: bytes = b"") -> list[bytes]:
        return await self._peers.ask_all(REPORTS + question.encode("latin-1"), body)

    # --- from other replicas

    def answer(self, question: str, body: bytes) -> bytes:
        """Raises NotFound."""
        kind, _, key = question.partition("/")
        found: bytes | None = None
        if kind + "/" == _TRACES:
            now = time.monotonic()
            self._traces.announce(key, now)
            found = replace(self._traces.reports(key, now), services=tuple(self._services)).encode()
        elif kind + "/" == _PUT and self._comparisons.expects(key):
            found = b"taken" if self._take(key, body) else None
        elif kind + "/" == _GET and (response := self._comparisons.waiting(key)) is not None:
            found = _encoded(response)
            self._comparisons.discard(key)
        if found is None:
            raise NotFound("this replica does not know it")
        return found

    def _take(self, key: str, body: bytes) -> bool:
        try:
            response = decode_response(body)
        except (ValueError, KeyError, TypeError):
            return False  # of another release
        self._comparisons.add_service_response(key, response)
        return True


def _encoded(response: ComparedResponse) -> bytes:
    return json.dumps(response.as_dict(), separators=(",", ":")).encode()
