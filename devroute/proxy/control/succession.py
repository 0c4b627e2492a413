"""Replaces a laptop's links when a newer one is registered, here or at another replica: the old link ends,
the laptop's other processes get a notice, and a proxy that stops waits for the newer ones.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from devroute.errors import DevrouteError, LinkReplaced
from devroute.routing.registration import Displaced, LaptopLink, Registration
from devroute.routing.registry import Registry
from devroute.routing.shadow.notifier import Notifier
from devroute.tunnel.protocol import handshake
from devroute.tunnel.proxy_link import ProxyLink

#: What a proxy that stops says to the agents.
DIAL_AGAIN: Final = ("draining", "the server is stopping", "dial again")


class Succession:
    """`take_offline(link, reason)` ends a registration."""

    def __init__(self, registry: Registry, take_offline: Callable[[ProxyLink, str], object]) -> None:
        self._registry = registry
        self._take_offline = take_offline
        self._moving: dict[LaptopLink, ProxyLink] = {}  # asked to dial another replica

    def notify_others(self, registration: Registration, displaced: list[Displaced]) -> None:
        """End the links that have lost all their services to a newer process, and notify the others of the
        laptop, of which an agent with two links may hear twice. Links to other replicas are theirs to end and
        notify: they learn of the process, too. A process that dials again, or its second link, is no news."""
        partly: dict[LaptopLink, tuple[str, ...]] = {}
        for each in displaced:
            if each.before.remote:
                continue
            if each.remaining is not None:
                partly[each.before.link] = each.services
                continue
            if each.again and (moved := self._moving.get(each.before.link)) is not None:
                moved.drain("draining", "the laptop has dialled another replica")
                continue
            what = f"took over {', '.join(each.services)}" if not each.again else "took its place"
            name = f"laptop '{registration.name}'"
            each.before.link.reject(LinkReplaced(f"another devroute up of {name} {what}"))
        known = any(each.again for each in displaced) or bool(self._registry.siblings(registration))
        for other in self._registry.others(registration):
            services = partly.get(other.link)
            if other.hello.instance is not None and not other.remote and not (known and services is None):
                event = "joined" if services is None else "taken-over"
                newer = registration.described(services).model_dump()
                notice = handshake.Notice(event=event, **newer)
                Notifier(other.link.upstream(handshake.NOTICE_SERVICE), b"/notice").notify(notice.encode())

    def arrived(self, registration: Registration, displaced: list[Displaced]) -> None:
        """A process has registered at another replica."""
        self.notify_others(registration, displaced)
        for each in self._registry.excess(registration):
            each.link.reject(self._registry.too_many(each.subject))

    async def hand_over(self, links: Sequence[ProxyLink], within: float) -> None:
        """Ask every laptop to dial another replica within so many seconds, and return once their links, and
        the requests on them, have ended; the caller bounds it. A link takes requests until its laptop is
        registered elsewhere. An agent that does not know the question is asked to dial again at once."""
        body = handshake.Move(within=within).encode()
        for link in links:
            if self._registry.registration_of(link) is not None:
                self._moving[link] = link
                refused = partial(self._cannot_move, link)
                Notifier(link.upstream(handshake.MOVE_SERVICE), b"/move", refused).notify(body)
        if self._moving:
            await asyncio.wait([link.disconnected for link in self._moving.values()])

    def _cannot_move(self, link: ProxyLink, error: DevrouteError) -> None:
        self._take_offline(link, "the server is stopping")
        link.drain(*DIAL_AGAIN)

    def gone(self, link: ProxyLink) -> None:
        """It has ended, or is about to."""
        self._moving.pop(link, None)
