"""What laptops reach in the mesh: judges each stream that an agent opens by policy, sends it by HTTP or TCP,
and records it. The replica that has the laptop's link does all of this.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from devroute.auth.identity import Identity
from devroute.bounded_cache import BoundedCache
from devroute.contract.destination import Destination, parse_destination
from devroute.contract.target import Malformed
from devroute.errors import (
    BY_CODE,
    DevrouteError,
    HeadTooLarge,
    NotSupported,
    ReachDenied,
    RequestMalformed,
    ServiceUnknown,
    TargetOverloaded,
    TargetUnreachable,
)
from devroute.http.message import HeadLimits, RequestHead
from devroute.metrics.series import Series
from devroute.metrics.table import REACH, REACH_OPEN
from devroute.policy.policy import Policy
from devroute.proxy.egress.mesh_http import MeshHttp
from devroute.proxy.egress.tcp import MeshTcp
from devroute.proxy.egress.watched_stream import WatchedStream
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.audit_events import RecordEvent, refusal_fields
from devroute.quoting import quote
from devroute.tunnel.protocol.flood_guard import REFUSED_AS_TINY
from devroute.tunnel.protocol.windows import PROCESS_WAITING, SUBJECT_UNREAD, SUBJECT_WAITING, WindowBudget
from devroute.tunnel.proxy_link import ProxyLink
from devroute.tunnel.served_stream import Finished
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.quota import RefusingUpstream
from devroute.upstream.resolver import Resolver

#: Destinations of TCP that are remembered, for their circuit breakers; and of one laptop, once judged.
MAX_TCP: Final = 1024
MAX_JUDGED_BYTES: Final = 16 * 1024

#: Errors of streams that were not sent, unless these have a response or their laptop ended them: refusals in
#: the audit trail.
_NOT_SENT: Final = (ReachDenied, RequestMalformed, HeadTooLarge, NotSupported, TargetOverloaded)


class Egress:
    """Implements devroute.proxy.egress.interface.Reach. `mesh`: the egress listener of the proxy's sidecar,
    None without one. `now`: the data path's clock, in seconds."""

    def __init__(
        self,
        settings: ProxySettings,
        policy: Callable[[], Policy],
        mesh: Upstream | None,
        record: RecordEvent,
        resolver: Resolver | None = None,
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.mesh = mesh
        self.record = record
        self.open: dict[WatchedStream, None] = {}
        self.now = asyncio.get_running_loop().time()
        self.limits = HeadLimits(settings.max_head_bytes, settings.max_header_fields)
        self.max_per_subject = settings.max_reach_per_subject
        self.counts: Counter[tuple[str, str]] = Counter()  # by protocol and code
        self._drained: asyncio.Event | None = None
        self._resolver = Resolver() if resolver is None else resolver
        self._tcp: dict[Destination, MeshTcp] = {}
        self._links: defaultdict[str, set[ProxyLink]] = defaultdict(set)
        self._waiting: dict[str, WindowBudget] = {}  # by subject
        self.all_waiting = WindowBudget(PROCESS_WAITING)

    def attach(self, link: ProxyLink, laptop: str, identity: Callable[[], Identity]) -> None:
        subject = identity().subject
        self._links[subject].add(link)
        link.disconnected.add_done_callback(lambda _: self._detach(link, subject))
        link.waiting = self._waiting.setdefault(subject, WindowBudget(SUBJECT_WAITING, self.all_waiting))
        reaching = _Laptop(self, link, laptop, identity)
        link.enable_reach(reaching.upstream, reaching.finished)

    def _detach(self, link: ProxyLink, subject: str) -> None:
        links = self._links[subject]
        links.discard(link)
        if not links:
            del self._links[subject], self._waiting[subject]

    def full(self, subject: str) -> bool:
        """Whether a subject's laptops have as many streams open as they may, the newest one not counted."""
        return sum(link.reached for link in self._links[subject]) > self.max_per_subject

    def unread(self, subject: str) -> int:
        """Bytes that wait because a subject's laptops do not read."""
        return sum(link.unread for link in self._links[subject])

    def destination(self, service: bytes) -> Destination:
        """Raises RequestMalformed."""
        settings = self.settings
        try:
            return parse_destination(service.decode("ascii"), settings.reach_namespace, settings.reach_domain)
        except (Malformed, UnicodeDecodeError) as problem:
            raise RequestMalformed(f"what is to be reached is no NAME:PORT: {problem}") from None

    def permit(self, identity: Identity, destination: Destination) -> None:
        """Raises ReachDenied."""
        if destination.namespace in self.settings.reach_denied_namespaces:
            raise ReachDenied(
                f"{destination} is in a namespace that no laptop may reach, whatever the policy lists",
                hint="the platform team decides with reach_denied_namespaces",
                service=str(destination),
            )
        self.policy().permit_reach(identity.subject, identity.groups, destination)

    def upstream(self, destination: Destination, subject: str) -> Upstream:
        """For a destination that is permitted."""
        if destination.protocol == "tcp":
            return self._tcp_upstream(destination)
        host = f"{destination.host(self.settings.reach_domain)}:{destination.port}".encode("ascii")
        return MeshHttp(self.mesh, destination, host, subject.encode("ascii"), self.limits)

    def _tcp_upstream(self, destination: Destination) -> MeshTcp:
        found = self._tcp.get(destination)
        if found is None:
            if len(self._tcp) >= MAX_TCP:
                del self._tcp[next(iter(self._tcp))]
            dialer = Dialer(
                f"{destination.host(self.settings.reach_domain)}.",  # absolute: no search domains
                destination.port,
                unreachable=TargetUnreachable,
                unknown=ServiceUnknown,
                permit=lambda ip, port: self.policy().permit_reached_address(ip, destination),
                permit_alias=lambda name, ips: self._permit_alias(destination, name, ips),
                connect_timeout=self.settings.connect_timeout,
                resolver=self._resolver,
            )
            dialer.label = str(destination)
            found = self._tcp[destination] = MeshTcp(destination, dialer)
        return found

    def _permit_alias(self, destination: Destination, name: str, addresses: list[str]) -> None:
        """Check where an alias leads, as a Service of type ExternalName: policy has judged its own name only.
        Raises ReachDenied."""
        if f".{name}".endswith(f".{self.settings.reach_domain}"):
            raise ReachDenied(
                f"{destination} is an alias of {quote(name)}, in the cluster: no laptop may reach that",
                hint="name the service itself, which the policy can judge",
                service=str(destination),
            )
        for ip in addresses:
            self.policy().permit_reached_address(ip, destination, outside=True)

    # --- periodic work, and reloads

    def tick(self, now: float) -> None:
        """End what has been idle for too long."""
        self.now = now
        for stream in [each for each in self.open if now - each.active > self.settings.reach_idle_timeout]:
            stream.idle(self.settings.reach_idle_timeout)

    def review_policy(self) -> None:
        """Another policy is in force: end what it does not permit."""
        self._review(list(self.open))

    def review_identity(self, subject: str) -> None:
        """A laptop of this subject has another identity: end what its groups do not permit any more."""
        self._review([each for each in self.open if each.identity().subject == subject])

    def _review(self, streams: Iterable[WatchedStream]) -> None:
        for stream in streams:
            try:
                self.permit(stream.identity(), stream.destination)
            except ReachDenied as error:
                stream.end(error)

    async def drain(self) -> None:
        """Return once no request is open; connections and upgraded requests may never end."""
        self._drained = asyncio.Event()
        self.ended()
        await self._drained.wait()

    def ended(self) -> None:
        """A stream is open no more."""
        if self._drained is not None and all(each.endless for each in self.open):
            self._drained.set()

    def series(self) -> Iterator[Series]:
        yield REACH_OPEN, (), len(self.open)
        for labels, count in self.counts.items():
            yield REACH, labels, count

    async def close(self) -> None:
        for upstream in self._tcp.values():
            await upstream.close()


class _Laptop:
    """What the agent of one link reaches. Decisions are kept while policy and identity are the same."""

    def __init__(self, egress: Egress, link: ProxyLink, name: str, identity: Callable[[], Identity]) -> None:
        self._egress = egress
        self._link = link
        self._name = name
        self._identity = identity
        self._judged = BoundedCache[bytes, Upstream](MAX_JUDGED_BYTES)
        self._judged_by: tuple[Policy, Identity] | None = None

    def upstream(self, service: bytes) -> Upstream:
        """For a stream that the agent has just opened; one that refuses it where it may not be sent."""
        egress, identity = self._egress, self._identity()
        judged_by = (egress.policy(), identity)
        if self._judged_by != judged_by:
            self._judged_by = judged_by
            self._judged = BoundedCache(MAX_JUDGED_BYTES)
        if egress.full(identity.subject):
            many = f"'{identity.subject}' has {egress.max_per_subject} requests and connections open already"
            return RefusingUpstream(
                TargetOverloaded(many, hint="close some; the policy has limits.reach_per_subject")
            )
        if self._link.write_paused and (unread := egress.unread(identity.subject)) > SUBJECT_UNREAD:
            waits = f"'{identity.subject}' does not read its responses: {unread} bytes wait"
            return RefusingUpstream(TargetOverloaded(waits, hint="request less at once"))
        found = self._judged.get(service)
        if found is not None:
            return found
        try:
            destination = egress.destination(service)
            egress.permit(identity, destination)
        except DevrouteError as error:
            return RefusingUpstream(error)
        found = _Watching(egress, self._identity, destination, egress.upstream(destination, identity.subject))
        self._judged.put(service, found, len(service) + 64)
        return found

    def finished(self, finished: Finished) -> None:
        """A stream has ended."""
        egress, subject = self._egress, self._identity().subject
        try:
            destination = egress.destination(finished.service.encode())
            service, protocol = str(destination), destination.protocol
        except RequestMalformed:
            service, protocol = "", "http"
        egress.counts[protocol, finished.code or "ok"] += 1
        kind = None if finished.status or finished.abandoned else BY_CODE.get(finished.code)
        if kind is not None and issubclass(kind, _NOT_SENT):
            error = kind(finished.reason, service=service, target=self._name)
            egress.record("refusal", at="reach", **refusal_fields(error, subject=subject))
            self._link.slow_down(REFUSED_AS_TINY)
            return
        egress.record(
            "reach",
            subject=subject,
            laptop=self._name,
            service=service,
            status=finished.status or None,
            code=finished.code or None,
            bytes=finished.size,
            seconds=round(finished.duration, 3),
        )


class _Watching:
    """Keeps the open streams of an upstream in sight of `Egress.tick`; implements Upstream."""

    def __init__(
        self,
        egress: Egress,
        identity: Callable[[], Identity],
        destination: Destination,
        upstream: Upstream,
    ) -> None:
        self._egress = egress
        self._identity = identity
        self._destination = destination
        self._upstream = upstream

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return WatchedStream(self._egress, self._identity, self._destination, head, sink).send(self._upstream)
