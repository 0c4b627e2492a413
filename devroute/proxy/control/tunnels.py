"""The laptops' links: each is registered when its HELLO arrives, and taken offline when it ends or when its
identity or policy permits it no longer. proxy/control/listener.py creates them.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from devroute import __version__
from devroute.auth.identity import Authenticate, Identity
from devroute.errors import DevrouteError, LaptopOffline, NameNotOwned, ProtocolError, UpstreamReset
from devroute.headers import REPLICA
from devroute.proxy.control.succession import DIAL_AGAIN, Succession
from devroute.proxy.egress.interface import Reach
from devroute.proxy.telemetry.audit_events import RecordEvent, discard_event, refusal_fields
from devroute.routing.registration import Displaced, LaptopLink, Registration, one_of_each
from devroute.routing.registry import Registry
from devroute.tasks import TaskOwner
from devroute.tunnel.liveness import PROXY_LIVENESS, Liveness
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.frames import MAX_STREAMS
from devroute.tunnel.protocol.websocket import WebSocket
from devroute.tunnel.proxy_link import GONE_SECONDS, ProxyLink
from devroute.upstream.quota import Quotas

#: Seconds for HELLO to arrive after the upgrade.
HELLO_SECONDS: Final = 10.0

#: Seconds for the open requests of a laptop that policy permits no longer; as long as those of a stopping
#: proxy.
REVOKED_SECONDS: Final = 20.0

Permit = Callable[[str, frozenset[str], handshake.Offer], None]

log = structlog.stdlib.get_logger("devroute.tunnel")


class Claims(Protocol):
    """The registry that several replicas share (devroute/replicas/shared_registry.py). `id`: of this one."""

    id: str

    @property
    def replicas(self) -> int:
        """That are known, this one included."""

    async def register(
        self, name: str, draft: Callable[[], Registration]
    ) -> tuple[Registration, list[Displaced]]:
        """As Registry.register, with the draft that the registry of all replicas permits."""


@dataclass(slots=True)
class _Member:
    """What is known of an open link. `deadline`: for its HELLO, later for its open requests once policy
    permits it no longer. `renewal`: the newest one of its token."""

    identity: Identity
    deadline: asyncio.TimerHandle
    renewal: asyncio.Task[None] | None = None


@dataclass(kw_only=True, eq=False)
class Tunnels:
    """`permit(subject, groups, offer)` is asked about each service that a laptop registers, and again about
    all of them by `review_policy`; it raises RegistrationDenied, or TargetDenied for an address of the
    laptop's own. `authenticate` is for the tokens of upgrades and of RENEW. `claims`: where several replicas
    share the registry. `round_trip(seconds)` is called for each ping that a laptop has answered.
    `entries` and `entry_links` are for WELCOME. `reach`: None where laptops have no way into the mesh."""

    authenticate: Authenticate
    registry: Registry
    permit: Permit
    record: RecordEvent = discard_event
    round_trip: Callable[[float], object] | None = None
    entries: Mapping[str, str] = field(default_factory=dict)
    entry_links: bool = False
    reach: Reach | None = None
    liveness: Liveness = PROXY_LIVENESS
    hello_seconds: float = HELLO_SECONDS
    revoked_seconds: float = REVOKED_SECONDS

    def __post_init__(self) -> None:
        self.claims: Claims | None = None
        self.quotas = Quotas(MAX_STREAMS)
        self.links: dict[ProxyLink, _Member] = {}
        # The tokens that the identities were last checked against, None if one of them is new; and when the
        # first identity expires.
        self._checked_against: object = None
        self._next_expiry = math.inf
        self._tasks = TaskOwner()
        self.succession = Succession(self.registry, self._take_offline)

    @property
    def upgrade_fields(self) -> bytes:
        """Field lines of a 101: an agent that has a link to this replica already dials again."""
        return b"" if self.claims is None else f"{REPLICA}: {self.claims.id}\r\n".encode("ascii")

    async def hand_over(self, within: float) -> None:
        """Have every laptop dial another replica within so many seconds, and return once all have."""
        await self.succession.hand_over(list(self.links), within)

    async def close(self) -> None:
        """Ask every agent to dial again, end all links, and return once their connections are closed."""
        links = list(self.links)
        for link in links:
            link.drain(*DIAL_AGAIN)
            link.close_with(UpstreamReset("the server is stopping"))
        for link in links:
            await link.disconnected
        await self._tasks.close()

    def create_link(self, identity: Identity, loop: asyncio.AbstractEventLoop) -> ProxyLink:
        websocket = WebSocket(client=False, random=os.urandom)
        link = ProxyLink(websocket, loop, self._on_hello, self._on_gone, self._on_renew, self.liveness)
        link.heartbeat.observe = self.round_trip
        late = ProtocolError(f"no HELLO within {self.hello_seconds:g} s")
        self.links[link] = _Member(identity, loop.call_later(self.hello_seconds, link.reject, late))
        self._checked_against = None
        return link

    def _on_hello(self, link: ProxyLink, body: bytes) -> None:
        member = self.links[link]
        member.deadline.cancel()
        try:
            hello = handshake.decode(handshake.Hello, body)
        except DevrouteError as error:
            self._refuse(link, member, error)
            return
        holders = self.registry.holders(member.identity.subject, hello)
        if holders or self.claims is not None:
            self._tasks.start(self._contend(link, member, hello, holders))
        else:
            self._register(link, member, hello)

    async def _contend(
        self, link: ProxyLink, member: _Member, hello: handshake.Hello, holders: list[LaptopLink]
    ) -> None:
        """Register, once it is known which of the links that have its services still respond: a laptop that
        lost its network could not close its link, and its owner does not have to wait for the end of that."""
        for holder in holders:
            try:
                await holder.upstream(handshake.NOTICE_SERVICE).check_reachable(GONE_SECONDS)
            except LaptopOffline as error:
                holder.reject(UpstreamReset(error.message, hint=error.hint))
                self.registry.unregister(holder)  # at another replica: the reject is on its way
            except DevrouteError:
                continue  # the replica that has it has just ended
        if link.close_error is not None:
            return
        if self.claims is None:
            self._register(link, member, hello)
            return
        draft = self._draft(link, member, hello)
        try:
            registration, displaced = await self.claims.register(hello.name or member.identity.subject, draft)
        except DevrouteError as error:
            if link in self.links:
                self._refuse(link, member, error)
            return
        if link in self.links:
            self._welcome(link, member, registration, displaced)
        else:  # it has ended meanwhile
            self.registry.unregister(link)

    def _register(self, link: ProxyLink, member: _Member, hello: handshake.Hello) -> None:
        try:
            registration = self._draft(link, member, hello)()
            displaced = self.registry.add(registration)
        except DevrouteError as error:
            self._refuse(link, member, error)
            return
        self._welcome(link, member, registration, displaced)

    def _draft(self, link: ProxyLink, member: _Member, hello: handshake.Hello) -> Callable[[], Registration]:
        """What makes the registration, as policy and registry permit it at that moment."""

        def draft() -> Registration:
            if link.close_error is not None:
                raise link.close_error
            identity = member.identity
            self._permit_all(identity, hello)
            quota = link.quota = self.quotas.join(identity.subject, link)
            return self.registry.draft(identity.subject, hello, link, time.time(), quota)

        return draft

    def _welcome(
        self, link: ProxyLink, member: _Member, registration: Registration, displaced: list[Displaced]
    ) -> None:
        self.succession.notify_others(registration, displaced)
        others = one_of_each(self.registry.others(registration))
        taken = {each.before.process: each for each in displaced if not each.again}
        welcome = handshake.Welcome(
            server=__version__,
            name=registration.name,
            features=(*handshake.FEATURES, *([handshake.REACH] if self.reach is not None else [])),
            expires_in=member.identity.expires_in(time.time()),
            taken_over=tuple(each.before.described(each.services) for each in taken.values()),
            others=tuple(each.described() for each in others),
            entries=dict(self.entries),
            entry_links=self.entry_links,
            replica=None if self.claims is None else self.claims.id,
            replicas=1 if self.claims is None else self.claims.replicas,
        )
        subject = registration.subject
        if self.reach is not None and registration.hello.reach:
            self.reach.attach(link, registration.name, lambda: member.identity)
        if registration.hello.windows:
            link.enable_windows()
        link.send_welcome(welcome.encode())
        services = list(registration.services)
        number = registration.hello.link
        log.info("laptop.online", laptop=registration.name, subject=subject, services=services, link=number)
        if taken or not self.registry.siblings(registration):  # else the trail has it already
            self.record(
                "takeover" if displaced else "registration",
                subject=subject,
                laptop=registration.name,
                services=registration.as_dict()["services"],
                peer=_peer(link.transport),
            )

    def _refuse(self, link: ProxyLink, member: _Member, error: DevrouteError) -> None:
        subject = member.identity.subject
        log.warning("laptop.refused", subject=subject, code=error.code, reason=error.message)
        self.record_refusal(error, subject, link.transport)
        link.reject(error)

    def _permit_all(self, identity: Identity, hello: handshake.Hello) -> None:
        for offer in hello.services:
            self.permit(identity.subject, identity.groups, offer)

    # --- newer tokens, verified while requests go on

    def _on_renew(self, link: ProxyLink, token: bytes) -> None:
        """The session sees to it that there is one at a time for a link."""
        self.links[link].renewal = self._tasks.start(self._renew(link, token.decode("latin-1")))

    async def _renew(self, link: ProxyLink, token: str) -> None:
        """A token that is not valid changes nothing: the one before it counts until it expires."""
        try:
            certificate = link.transport.get_extra_info("peercert")
            identity = await self.authenticate(f"Bearer {token}", certificate)
            self._change_identity(link, identity)
        except DevrouteError as error:
            log.warning("laptop.not_renewed", code=error.code, reason=error.message)
            refusal = handshake.Refusal(code=error.code, message=error.message, hint=error.hint)
            renewed = handshake.Renewed(error=refusal)
        else:
            log.info("laptop.renewed", subject=identity.subject)
            renewed = handshake.Renewed(expires_in=identity.expires_in(time.time()))
        link.send_renewed(renewed.encode())

    def _change_identity(self, link: ProxyLink, identity: Identity) -> None:
        """Put the identity of a newer token into force. Raises NameNotOwned, or what `permit` raises."""
        member = self.links[link]
        subject = member.identity.subject
        if identity.subject != subject:
            new = identity.subject
            raise NameNotOwned(f"the new token is that of '{new}', but this tunnel belongs to '{subject}'")
        if (registration := self.registry.registration_of(link)) is not None:
            self._permit_all(identity, registration.hello)
        member.identity = identity
        self._checked_against = None
        if self.reach is not None:
            self.reach.review_identity(subject)

    # --- what is permitted no longer

    def review_policy(self) -> None:
        """Another policy is in force: take the laptops that it does not permit offline. Their agents get the
        reason and their open requests REVOKED_SECONDS; then the links end."""
        loop = asyncio.get_running_loop()
        for link, member in list(self.links.items()):
            registration = self.registry.registration_of(link)
            if registration is None:
                continue
            try:
                self._permit_all(member.identity, registration.hello)
            except DevrouteError as error:
                log.warning("laptop.revoked", laptop=registration.name, code=error.code, reason=error.message)
                self._take_offline(link, error.message)
                link.drain(error.code, error.message, error.hint)
                member.deadline = loop.call_later(self.revoked_seconds, link.close_with, error)

    def review_identities(
        self, check_current: Callable[[Identity, float], float | None], now: float, tokens: object
    ) -> None:
        """End the links whose identity is not current: `check_current` raises the reason, or returns when
        it expires, if ever. There may be thousands, so nothing is checked while `tokens`, which it depends
        on, are the same object, no identity is new and none has expired."""
        if tokens is self._checked_against and now < self._next_expiry:
            return
        self._checked_against = tokens
        self._next_expiry = math.inf
        for link, member in list(self.links.items()):
            identity = member.identity
            try:
                self._next_expiry = min(self._next_expiry, check_current(identity, now) or math.inf)
            except DevrouteError as error:
                log.warning("laptop.ended", subject=identity.subject, code=error.code, reason=error.message)
                link.reject(error)

    # --- the end

    def _on_gone(self, link: ProxyLink) -> None:
        self.succession.gone(link)
        if link.quota is not None:
            self.quotas.leave(link.quota.subject, link)
        error = link.close_error
        reason = "it is leaving" if error is None else error.message
        if (registration := self._take_offline(link, reason)) is not None:
            log.info("laptop.offline", laptop=registration.name, reason=reason, link=registration.hello.link)
        # After a GOAWAY alone, the deadline stays.
        if error is not None and (member := self.links.pop(link, None)) is not None:
            member.deadline.cancel()
            if member.renewal is not None:
                member.renewal.cancel()

    def _take_offline(self, link: ProxyLink, reason: str) -> Registration | None:
        """None if the laptop is not online by this link."""
        registration = self.registry.registration_of(link)
        if registration is not None:
            others = [each.hello.link for each in self.registry.siblings(registration)]
            self.registry.unregister(link)
            # An agent that ends leaves by all its links at once: one of them counts.
            if not others or (link.left and min(others) > registration.hello.link):
                self.record("leave", subject=registration.subject, laptop=registration.name, reason=reason)
        return registration

    def record_refusal(
        self, error: DevrouteError, subject: str | None, transport: asyncio.BaseTransport
    ) -> None:
        """Into the audit trail: a registration was refused."""
        fields = refusal_fields(error, subject=subject, peer=_peer(transport))
        self.record("refusal", at="tunnel", **fields)


def _peer(transport: asyncio.BaseTransport) -> str | None:
    """The address of the other end, which may be an ingress."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else None
