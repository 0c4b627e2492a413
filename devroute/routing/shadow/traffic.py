"""Shadow traffic, as the rest of the proxy uses it: the laptops that take it, and their comparisons.

Owns each laptop's tickets and notifier while it is registered; assignment.py decides what policy permits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from devroute.errors import LaptopOffline
from devroute.http.message import InboundRequest, RequestHead
from devroute.routing.decision import LaptopService
from devroute.routing.registration import Registration
from devroute.routing.shadow.comparison import LaptopResponseObserver, PendingComparisons, comparison_id
from devroute.routing.shadow.notifier import COMPARISON_SERVICE, Notifier
from devroute.upstream.mirror import Watch

_K = TypeVar("_K")


@dataclass(frozen=True, slots=True)
class ShadowTarget:
    """A laptop that takes shadow traffic of a service. The ticket is valid while the laptop is registered, by
    whichever link."""

    ticket: str
    name: str
    service: str
    laptop: LaptopService


class _Taker(NamedTuple):
    """A link by which a laptop takes shadow traffic of a service."""

    registration: Registration
    target: ShadowTarget
    notifier: Notifier


class ShadowTraffic:
    """Implements devroute.routing.registry.RegistryObserver. `clock` gives seconds, for the comparisons."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.comparisons = PendingComparisons(clock)
        self._takers: dict[tuple[str, str], list[_Taker]] = {}  # by laptop and service
        self._by_ticket: dict[str, list[_Taker]] = {}

    def registered(self, registration: Registration) -> None:
        notifier: Notifier | None = None
        for service, laptop in registration.services.items():
            if laptop.options.shadow is not None:
                name, ticket = registration.name, registration.tickets[service]
                notifier = notifier or Notifier(registration.link.upstream(COMPARISON_SERVICE))
                target = ShadowTarget(ticket, name, service, laptop)
                taker = _Taker(registration, target, notifier)
                for takers in (
                    self._takers.setdefault((name, service), []),
                    self._by_ticket.setdefault(ticket, []),
                ):
                    takers.append(taker)
                    takers.sort(key=lambda each: (each.registration.remote, each.registration.generation))

    def unregistered(self, registration: Registration) -> None:
        for service in registration.services:
            _without(self._takers, (registration.name, service), registration)
        for ticket in registration.tickets.values():
            _without(self._by_ticket, ticket, registration)

    def targets(self, service: str) -> list[ShadowTarget]:
        """The laptops that take shadow traffic of a service, by name."""
        found = [_first(takers).target for (_, each), takers in self._takers.items() if each == service]
        return sorted(found, key=lambda target: target.name)

    def target(self, ticket: str) -> ShadowTarget:
        """Raises LaptopOffline."""
        found = self._by_ticket.get(ticket)
        if found is None:
            raise LaptopOffline("the laptop that takes this shadow traffic is no longer online")
        return _first(found).target

    def refused(self, request: InboundRequest) -> None:
        """The request is sent to no laptop, so that there will be no comparison."""
        key = comparison_id(request.raw)
        if key is not None:
            self.comparisons.refuse(key)

    def watch(self, laptop: str, service: str) -> Watch | None:
        """Observes the laptop's responses for comparisons; None where the laptop takes no shadow traffic."""
        takers = self._takers.get((laptop, service))
        if takers is None:  # the laptop takes it in all namespaces
            takers = self._takers.get((laptop, service.partition(".")[0]))
        if takers is None:
            return None
        notifier = _first(takers).notifier

        def observe(head: RequestHead) -> LaptopResponseObserver | None:
            key = comparison_id(head.wire)
            return None if key is None else self.comparisons.expect(key, service, head, notifier.notify)

        return observe


def _first(takers: list[_Taker]) -> _Taker:
    """As Registry.lookup chooses among a laptop's links."""
    if len(takers) == 1:
        return takers[0]
    return next((each for each in takers if each.registration.link.usable), takers[0])


def _without(found: dict[_K, list[_Taker]], key: _K, registration: Registration) -> None:
    kept = [each for each in found.pop(key, []) if each.registration.link is not registration.link]
    if kept:
        found[key] = kept
