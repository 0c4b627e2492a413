"""The proxy's control listener: upgrades of GET /tunnel become links, everything else is for aiohttp.

Owns a connection until its first head is read; then a ProxyLink or aiohttp has it for good. Registers each
laptop, and takes it offline when its link goes.
"""

import asyncio
import math
import os
import time
from collections.abc import Callable
from typing import Final, cast

import structlog

from devroute.auth.identity import Authenticate, Identity
from devroute.errors import (
    DevrouteError,
    HeadTooLarge,
    LinkReplaced,
    NameNotOwned,
    ProtocolError,
    RequestTimeout,
    UpstreamReset,
)
from devroute.http.http1.request import check_partial_head
from devroute.proxy.control.token_renewal import TokenRenewals, expires_in
from devroute.proxy.telemetry.audit_events import RecordEvent, discard_event, refusal_fields
from devroute.routing.registry import Registration, Registry
from devroute.token_bucket import Allowance
from devroute.tunnel.liveness import PROXY_LIVENESS, Liveness
from devroute.tunnel.protocol import handshake
from devroute.tunnel.protocol.websocket import WebSocket, accept_upgrade, split_head
from devroute.tunnel.proxy_link import ProxyLink
from devroute.upstream.quota import Shares

#: An upgrade has a token and what ingresses add.
MAX_HEAD: Final = 16 * 1024

#: Of other requests: a contract, and baggage that repeats it among other members (proxy/control/http.py).
MAX_HTTP_HEAD: Final = 128 * 1024

#: Seconds for the first request's head, and for HELLO after the upgrade.
HEAD_SECONDS: Final = 10.0
HELLO_SECONDS: Final = 10.0

#: Wrong tokens that are logged at once, and more a second: a flood of them fills no disk. The audit trail
#: counts those that it leaves out.
LOGGED_BURST: Final = 100
LOGGED_PER_SECOND: Final = 10

_PATHS: Final = (b"GET /tunnel ", b"GET /tunnel?")
_LONGEST: Final = max(map(len, _PATHS))

#: Seconds for the requests under way of a laptop that policy permits no longer; as of a proxy that ends.
REVOKED_SECONDS: Final = 20.0

Permit = Callable[[str, frozenset[str], handshake.Offer], None]

log = structlog.stdlib.get_logger("devroute.tunnel")


class TunnelListener:
    """What the control port's connections share, and the factory of their protocols.

    `http()` makes aiohttp's protocol. `authenticate(authorization, certificate)` may take as long as a head.
    `permit(subject, groups, offer)` is asked about each service that a laptop registers, and again about all
    of them by `review`; it raises RegistrationDenied, or TargetDenied for an address of the laptop's own.
    """

    def __init__(
        self,
        *,
        http: Callable[[], asyncio.BaseProtocol],
        authenticate: Authenticate,
        registry: Registry,
        server_version: str,
        permit: Permit,
        record: RecordEvent = discard_event,
        random: Callable[[int], bytes] = os.urandom,
        liveness: Liveness = PROXY_LIVENESS,
        head_seconds: float = HEAD_SECONDS,
        hello_seconds: float = HELLO_SECONDS,
        revoked_seconds: float = REVOKED_SECONDS,
    ) -> None:
        self.http = http
        self.authenticate = authenticate
        self.head_seconds = head_seconds
        self.waiting: set[FirstHead] = set()
        self.shares = Shares()
        self.links: dict[ProxyLink, Identity] = {}
        # What the identities were last held to, None where one is new; and when the first of them expires.
        self._held_to: object = None
        self._expires = math.inf
        self._renewals = TokenRenewals(authenticate, self._take)
        self._registry = registry
        self._server_version = server_version
        self._permit = permit
        self._record = record
        self._random = random
        self._liveness = liveness
        self._hello_seconds = hello_seconds
        self._revoked_seconds = revoked_seconds
        self._deadlines: dict[ProxyLink, asyncio.TimerHandle] = {}
        self.may_log = Allowance(LOGGED_BURST, LOGGED_PER_SECOND, asyncio.get_running_loop().time())

    def __call__(self) -> "FirstHead":
        return FirstHead(self, asyncio.get_running_loop())

    async def close(self) -> None:
        """Tell every agent to dial anew, end all links, and return once their connections are closed."""
        for connection in list(self.waiting):
            connection.transport.abort()
        links = list(self.links)
        for link in links:
            link.drain("draining", "the server is stopping", "dial anew")
            link.close_with(UpstreamReset("the server is stopping"))
        for link in links:
            await link.disconnected

    # --- links

    def link(self, identity: Identity, loop: asyncio.AbstractEventLoop) -> ProxyLink:
        websocket = WebSocket(client=False, random=self._random)
        link = ProxyLink(websocket, loop, self._hello, self._gone, self._renewals.begin, self._liveness)
        self.links[link] = identity
        self._held_to = None
        late = ProtocolError(f"no HELLO within {self._hello_seconds:g} s")
        self._deadlines[link] = loop.call_later(self._hello_seconds, link.reject, late)
        return link

    def _hello(self, link: ProxyLink, body: bytes) -> None:
        self._deadlines.pop(link).cancel()
        identity = self.links[link]
        subject = identity.subject
        try:
            message = handshake.decode(handshake.Hello, body)
            for offer in message.services:
                self._permit(subject, identity.groups, offer)
            share = link.share = self.shares.join(subject, link)
            registration, older = self._registry.register(subject, message, link, time.time(), share)
        except DevrouteError as error:
            log.warning("laptop.refused", subject=subject, code=error.code, reason=error.message)
            self.refused(error, subject, link.transport)
            link.reject(error)
            return
        if isinstance(older, ProxyLink):
            older.reject(
                LinkReplaced(f"a newer `devroute up` of '{subject}' took the name '{registration.name}'")
            )
        welcome = handshake.Welcome(
            server=self._server_version,
            name=registration.name,
            features=handshake.FEATURES,
            expires_in=expires_in(identity, time.time()),
        )
        link.send_welcome(welcome.encode())
        services = [offer.service for offer in message.services]
        log.info("laptop.online", laptop=registration.name, subject=subject, services=services)
        self._record(
            "registration" if older is None else "takeover",
            subject=subject,
            laptop=registration.name,
            services=registration.as_dict()["services"],
            peer=_peer(link.transport),
        )

    def refused(self, error: DevrouteError, subject: str | None, transport: asyncio.BaseTransport) -> None:
        """Somebody may not register."""
        fields = {"caller": None, **refusal_fields(error), "request_id": None}
        self._record("refusal", at="tunnel", subject=subject, peer=_peer(transport), **fields)

    def _left(self, registration: Registration, reason: str) -> None:
        self._record("leave", subject=registration.subject, laptop=registration.name, reason=reason)

    def _take(self, link: ProxyLink, identity: Identity) -> None:
        """A newer token of a link's. Raises NameNotOwned, or what does not permit its services any more."""
        subject = self.links[link].subject
        if identity.subject != subject:
            raise NameNotOwned(
                f"the new token is that of '{identity.subject}', and this tunnel is '{subject}'s"
            )
        for registration in self._registry.registrations():
            if registration.link is link:
                for offer in registration.hello.services:
                    self._permit(subject, identity.groups, offer)
        self.links[link] = identity
        self._held_to = None

    def review(self) -> None:
        """Another policy is in force: a laptop that it does not permit gets no further request, and is told
        why. Requests under way have REVOKED_SECONDS to come to their end, and then its link ends."""
        for registration in self._registry.registrations():
            link = registration.link
            if not isinstance(link, ProxyLink):
                continue
            try:
                for offer in registration.hello.services:
                    self._permit(registration.subject, self.links[link].groups, offer)
            except DevrouteError as error:
                log.warning("laptop.revoked", laptop=registration.name, code=error.code, reason=error.message)
                self._registry.unregister(link)
                self._left(registration, error.message)
                link.drain(error.code, error.message, error.hint)
                loop = asyncio.get_running_loop()
                self._deadlines[link] = loop.call_later(self._revoked_seconds, link.close_with, error)

    def end_unless(self, in_force: Callable[[Identity, float], None], now: float, tokens: object) -> None:
        """End the links whose identity is no longer in force: `in_force` raises the reason for those. It is
        asked about none while `tokens`, which it goes by, are the same, no link is new and none expires:
        there may be thousands."""
        if tokens is self._held_to and now < self._expires:
            return
        self._held_to = tokens
        self._expires = min((each.expires for each in self.links.values() if each.expires), default=math.inf)
        for link, identity in list(self.links.items()):
            try:
                in_force(identity, now)
            except DevrouteError as error:
                log.warning("laptop.ended", subject=identity.subject, code=error.code, reason=error.message)
                link.reject(error)

    def _gone(self, link: ProxyLink) -> None:
        if link.share is not None:
            self.shares.leave(link.share.subject, link)
        if link.close_error is not None:  # until then its deadline holds, whatever the agent says
            self.links.pop(link, None)
            if (deadline := self._deadlines.pop(link, None)) is not None:
                deadline.cancel()
            self._renewals.cancel(link)
        registration = self._registry.unregister(link)
        if registration is not None:
            why = link.close_error.message if link.close_error is not None else "it is leaving"
            log.info("laptop.offline", laptop=registration.name, reason=why)
            self._left(registration, why)


def _peer(transport: asyncio.BaseTransport) -> str | None:
    """The address of the other end, which may be an ingress."""
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if isinstance(peer, tuple) else None


class FirstHead(asyncio.Protocol):
    """A new connection, until it is known whose it is."""

    def __init__(self, listener: TunnelListener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener = listener
        self._loop = loop
        self._read = b""
        self._deadline: asyncio.TimerHandle | None = None
        self._checking: asyncio.Task[None] | None = None
        self.transport: asyncio.Transport = cast(asyncio.Transport, None)  # until connection_made

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._listener.waiting.add(self)
        self._deadline = self._loop.call_later(self._listener.head_seconds, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._let_go()
        if self._checking is not None:
            self._checking.cancel()

    def _let_go(self) -> None:
        self._listener.waiting.discard(self)
        if self._deadline is not None:
            self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        read = self._read = self._read + data
        if self._checking is not None:
            return
        for_tunnel = any(read.startswith(path) or path.startswith(read[:_LONGEST]) for path in _PATHS)
        most = MAX_HEAD if for_tunnel else MAX_HTTP_HEAD
        end = read.find(b"\r\n\r\n") + 4
        try:
            if end < 4 or end > most:
                if len(read) > most:
                    raise HeadTooLarge(f"the request's head is longer than {most} bytes")
                if not for_tunnel:
                    check_partial_head(read)
                return
            if not for_tunnel:
                self._hand_over(self._listener.http(), read)
                return
            head = split_head(read[:end])
            answer = accept_upgrade(head)
        except DevrouteError as error:
            self._refuse(error)
            return
        self.transport.pause_reading()  # the agent says HELLO after our answer, or has it ready: it waits
        authorization = head.fields.get(b"authorization", b"").decode("latin-1")
        self._read = read[end:]
        self._checking = self._loop.create_task(self._admit(authorization, answer))

    async def _admit(self, authorization: str, answer: bytes) -> None:
        """Upgrade if they are who they say. It ends with the connection, or by the deadline of the head."""
        listener = self._listener
        try:
            certificate = self.transport.get_extra_info("peercert")
            identity = await listener.authenticate(authorization, certificate)
        except DevrouteError as error:
            if listener.may_log.spend(self._loop.time()):
                log.warning("laptop.refused", code=error.code, reason=error.message)
            listener.refused(error, None, self.transport)
            self._refuse(error)
            return
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        link = listener.link(identity, self._loop)
        self._hand_over(link, b"")
        self.transport.resume_reading()
        link.feed(self._read)

    def _hand_over(self, protocol: asyncio.BaseProtocol, read: bytes) -> None:
        self._let_go()
        self.transport.set_protocol(protocol)
        protocol.connection_made(self.transport)
        if read:
            cast(asyncio.Protocol, protocol).data_received(read)

    def _late(self) -> None:
        if self._checking is not None:
            self._checking.cancel()
        self._refuse(RequestTimeout(f"no request within {self._listener.head_seconds:g} s"))

    def _refuse(self, error: DevrouteError) -> None:
        body = error.as_json()
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n%b\r\n"
            % (error.status, error.code.encode(), len(body), _CHALLENGE if error.status == 401 else b"")
            + body
        )
        self.transport.close()


#: RFC 9110 §11.6.1.
_CHALLENGE: Final = b'www-authenticate: Bearer realm="devroute"\r\n'
