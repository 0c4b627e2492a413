"""Limits on open requests per link, and per subject over all its links and addresses. Looks at no request.

A link enforces its own limit. What a subject has open is looked at only where it has several links or
addresses, so the usual request pays nothing for it.
"""

import asyncio
from typing import Protocol

from devroute.errors import DevrouteError, TargetOverloaded
from devroute.http.message import RequestHead
from devroute.upstream.interface import DiscardedRequest, Reservable, ResponseSink, Upstream, UpstreamStream


class LimitedLink(Protocol):
    """A laptop's tunnel, which enforces a limit of its own."""

    @property
    def in_flight(self) -> int: ...

    def limit_streams(self, most: int) -> None: ...


class LimitedPool(Upstream, Reservable, Protocol):
    """The connections to an address."""

    @property
    def in_flight(self) -> int: ...


class Quota:
    """What one subject may have open over its `links` and the `pools` of the addresses that it registered.
    Requests of other subjects to such an address count too: the same laptop serves them.

    A subject may have 1,000 links, so they are not added up for each request: `_tunnelled` is what they had
    open when they were, and one more for each request since then. They are added up again where that reaches
    the limit, and where a link or pool is new, before which requests may not have asked.
    """

    __slots__ = ("_tunnelled", "limit", "links", "pools", "subject")

    def __init__(self, subject: str, limit: int) -> None:
        self.subject = subject
        self.limit = limit
        self.links: set[LimitedLink] = set()
        self.pools: set[LimitedPool] = set()
        self._tunnelled: int | None = None  # unknown: they have to be added up

    def admit(self) -> bool:
        """Whether one more request may be opened. Each request over a link asks, if the subject has several
        links or pools."""
        pooled = sum(pool.in_flight for pool in self.pools) if self.pools else 0
        tunnelled = self._tunnelled
        if tunnelled is None or tunnelled + pooled >= self.limit:
            tunnelled = sum(link.in_flight for link in self.links)
        admitted = tunnelled + pooled < self.limit
        self._tunnelled = tunnelled + 1 if admitted else tunnelled
        return admitted

    def join(self, link: LimitedLink) -> None:
        """Count `link` from now on."""
        self.links.add(link)
        self._tunnelled = None

    def add(self, pool: LimitedPool) -> None:
        """Count `pool` from now on; pools without open requests are forgotten."""
        if pool not in self.pools:
            self.pools = {each for each in self.pools if each.in_flight}
            self.pools.add(pool)
            self._tunnelled = None

    def overloaded(self) -> TargetOverloaded:
        return TargetOverloaded(f"{self.limit} requests are open to '{self.subject}' already")


class QuotaUpstream:
    """The pool of an address that a laptop registered, bounded by its subject's quota."""

    __slots__ = ("_pool", "_quota")

    def __init__(self, pool: LimitedPool, quota: Quota) -> None:
        self._pool = pool
        self._quota = quota

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        quota = self._quota
        quota.add(self._pool)
        return self._pool.open(head, sink) if quota.admit() else RefusedStream(sink, quota.overloaded())

    def reserve(self) -> DevrouteError | None:
        quota = self._quota
        quota.add(self._pool)
        return self._pool.reserve() if quota.admit() else quota.overloaded()

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

    def join(self, subject: str, link: LimitedLink) -> Quota:
        quota = self._by_subject.get(subject)
        if quota is None:
            quota = self._by_subject[subject] = Quota(subject, self._per_subject)
        quota.join(link)
        self._limit(link)
        return quota

    def leave(self, subject: str, link: LimitedLink) -> None:
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

    def _limit(self, link: LimitedLink) -> None:
        link.limit_streams(min(self._per_link, self._per_subject, self._most))
