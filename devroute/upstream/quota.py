"""How many requests may be under way in one tunnel, and in all of one subject. Never looks at requests.

A link has its own bound (its session's); the sum over a subject's links, and over the connections to laptops
that it registered by their addresses, is asked for only where there are several, so the usual request pays
nothing.
"""

import asyncio
from typing import Protocol

from devroute.errors import DevrouteError, TargetOverloaded
from devroute.http.message import Headers, RequestHead
from devroute.tunnel.link import Link
from devroute.tunnel.protocol.frames import MAX_STREAMS
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream


class Pool(Upstream, Protocol):
    """The connections to an address."""

    @property
    def in_flight(self) -> int: ...


class Quota:
    """The links of one subject, the pools of its laptops that have addresses, and what they may have open
    together. What others send to such an address counts, too: it is the same laptop that is busy."""

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

    def count(self, pool: Pool) -> None:
        """A request is about to be sent there. Those that have none are forgotten."""
        if pool not in self.pools:
            self.pools = {each for each in self.pools if each.in_flight}
            self.pools.add(pool)

    def overloaded(self) -> TargetOverloaded:
        return TargetOverloaded(f"{self.limit} requests are open to '{self.subject}' already")


class QuotaUpstream:
    """An address that a laptop is registered with; takes no more requests than its subject may have."""

    __slots__ = ("_pool", "_quota")

    def __init__(self, pool: Pool, quota: Quota) -> None:
        self._pool = pool
        self._quota = quota

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        quota = self._quota
        quota.count(self._pool)
        return _Refused(sink, quota.overloaded()) if quota.full else self._pool.open(head, sink)


class _Refused:
    """A request that is not sent; its sender hears why once open() has returned."""

    def __init__(self, sink: ResponseSink, error: DevrouteError) -> None:
        self._answer = asyncio.get_running_loop().call_soon(sink.on_error, error)

    def send_data(self, data: bytes) -> None: ...

    def send_end(self, trailers: Headers) -> None: ...

    def cancel(self) -> None:
        self._answer.cancel()

    def pause_response(self) -> None: ...

    def resume_response(self) -> None: ...


class Quotas:
    """All of them. `per_link` and `per_subject` may change while requests are under way: those go on."""

    def __init__(self, per_link: int = MAX_STREAMS, per_subject: int = MAX_STREAMS) -> None:
        self._per_link = per_link
        self._per_subject = per_subject
        self._by_subject: dict[str, Quota] = {}

    def join(self, subject: str, link: Link) -> Quota:
        quota = self._by_subject.get(subject)
        if quota is None:
            quota = self._by_subject[subject] = Quota(subject, self._per_subject)
        quota.links.add(link)
        self._bound(link)
        return quota

    def leave(self, subject: str, link: Link) -> None:
        quota = self._by_subject.get(subject)
        if quota is not None:
            quota.links.discard(link)
            if not quota.links:
                del self._by_subject[subject]

    def set_limits(self, *, per_link: int, per_subject: int) -> None:
        self._per_link, self._per_subject = per_link, per_subject
        for quota in self._by_subject.values():
            quota.limit = per_subject
            for link in quota.links:
                self._bound(link)

    def _bound(self, link: Link) -> None:
        link.limit_streams(min(self._per_link, self._per_subject, MAX_STREAMS))
