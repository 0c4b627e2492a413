"""Limits on open requests per link, and per subject over all its links and addresses. Looks at no request.

A link enforces its own limit. The sum over a subject is computed only where the subject has several links or
addresses, so the usual request pays nothing for it.
"""

import asyncio
from typing import Protocol

from devroute.errors import DevrouteError, TargetOverloaded
from devroute.http.message import RequestHead
from devroute.upstream.interface import DiscardedRequest, Reservable, ResponseSink, Upstream, UpstreamStream


class Link(Protocol):
    """A laptop's tunnel, which enforces a limit of its own."""

    @property
    def in_flight(self) -> int: ...

    def limit_streams(self, most: int) -> None: ...


class Pool(Upstream, Reservable, Protocol):
    """The connections to an address."""

    @property
    def in_flight(self) -> int: ...


class Quota:
    """What one subject may have open over its `links` and the `pools` of the addresses that it registered.
    Requests of other subjects to such an address count too: the same laptop serves them."""

    __slots__ = ("limit", "links", "pools", "subject")

    def __init__(self, subject: str, limit: int) -> None:
        self.subject = subject
        self.limit = limit
        self.links: set[Link] = set()
        self.pools: set[Pool] = set()

    @property
    def full(self) -> bool:
        tunnelled = sum(link.in_flight for link in self.links)
        return tunnelled + sum(pool.in_flight for pool in self.pools) >= self.limit

    def add(self, pool: Pool) -> None:
        """Count `pool` from now on; pools without open requests are forgotten."""
        if pool not in self.pools:
            self.pools = {each for each in self.pools if each.in_flight}
            self.pools.add(pool)

    def overloaded(self) -> TargetOverloaded:
        return TargetOverloaded(f"{self.limit} requests are open to '{self.subject}' already")


class QuotaUpstream:
    """The pool of an address that a laptop registered, bounded by its subject's quota."""

    __slots__ = ("_pool", "_quota")

    def __init__(self, pool: Pool, quota: Quota) -> None:
        self._pool = pool
        self._quota = quota

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        quota = self._quota
        quota.add(self._pool)
        return RefusedStream(sink, quota.overloaded()) if quota.full else self._pool.open(head, sink)

    def reserve(self) -> DevrouteError | None:
        quota = self._quota
        quota.add(self._pool)
        return quota.overloaded() if quota.full else self._pool.reserve()

    def unreserve(self) -> None:
        self._pool.unreserve()


class RefusedStream(DiscardedRequest):
    """A request that is not sent: the sink gets `error` once open() has returned."""

    def __init__(self, sink: ResponseSink, error: DevrouteError) -> None:
        # None once it has run: it refers to the sink.
        self._handle: asyncio.Handle | None = asyncio.get_running_loop().call_soon(self._refuse, sink, error)

    def _refuse(self, sink: ResponseSink, error: DevrouteError) -> None:
        self._handle = None
        sink.on_error(error)

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()


class RefusingUpstream:
    """Fails each request with this error; implements Upstream."""

    def __init__(self, error: DevrouteError) -> None:
        self._error = error

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return RefusedStream(sink, self._error)


class Quotas:
    """The quotas of all subjects. `most` is the tunnel protocol's own limit of streams on a link."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._per_link = most
        self._per_subject = most
        self._by_subject: dict[str, Quota] = {}

    def join(self, subject: str, link: Link) -> Quota:
        quota = self._by_subject.get(subject)
        if quota is None:
            quota = self._by_subject[subject] = Quota(subject, self._per_subject)
        quota.links.add(link)
        self._limit(link)
        return quota

    def leave(self, subject: str, link: Link) -> None:
        quota = self._by_subject.get(subject)
        if quota is not None:
            quota.links.discard(link)
            if not quota.links:
                del self._by_subject[subject]

    def set_limits(self, *, per_link: int, per_subject: int) -> None:
        """Change the limits; requests that are open already go on."""
        self._per_link, self._per_subject = per_link, per_subject
        for quota in self._by_subject.values():
            quota.limit = per_subject
            for link in quota.links:
                self._limit(link)

    def _limit(self, link: Link) -> None:
        link.limit_streams(min(self._per_link, self._per_subject, self._most))
