"""Shadow traffic, as the rest of the proxy uses it: the laptops that take it, and their comparisons.

Owns each laptop's tickets and notifier while it is registered; assignment.py decides what policy permits.
"""

from collections.abc import Callable
from dataclasses import dataclass

from devroute.errors import LaptopOffline
from devroute.http.message import RequestHead
from devroute.routing.decision import LaptopService
from devroute.routing.registration import Registration
from devroute.routing.shadow.comparison import LaptopResponseObserver, PendingComparisons, comparison_id
from devroute.routing.shadow.notifier import COMPARISON_SERVICE, Notifier
from devroute.upstream.mirror import Watch


@dataclass(frozen=True, slots=True)
class ShadowTarget:
    """A laptop that takes shadow traffic of a service. The ticket is valid while the laptop is registered."""

    ticket: str
    name: str
    service: str
    laptop: LaptopService


class ShadowTraffic:
    """Implements devroute.routing.registry.RegistryObserver. `clock` gives seconds, for the comparisons."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.comparisons = PendingComparisons(clock)
        self._targets: dict[str, ShadowTarget] = {}
        self._notifiers: dict[tuple[str, str], Notifier] = {}  # by laptop and service; one for each process

    def registered(self, registration: Registration) -> None:
        notifier: Notifier | None = None
        for service, laptop in registration.services.items():
            if laptop.options.shadow is not None:
                ticket = registration.tickets[service]
                self._targets[ticket] = ShadowTarget(ticket, registration.name, service, laptop)
                notifier = notifier or Notifier(registration.link.upstream(COMPARISON_SERVICE))
                self._notifiers[registration.name, service] = notifier

    def unregistered(self, registration: Registration) -> None:
        name, services = registration.name, registration.services
        ended = {service for service in services if self._notifiers.pop((name, service), None) is not None}
        if ended:
            self._targets = {
                ticket: target
                for ticket, target in self._targets.items()
                if target.name != name or target.service not in ended
            }

    def targets(self, service: str) -> list[ShadowTarget]:
        """The laptops that take shadow traffic of a service, by name."""
        found = [target for target in self._targets.values() if target.service == service]
        return sorted(found, key=lambda target: target.name)

    def target(self, ticket: str) -> ShadowTarget:
        """Raises LaptopOffline."""
        found = self._targets.get(ticket)
        if found is None:
            raise LaptopOffline("the laptop that takes this shadow traffic is no longer online")
        return found

    def watch(self, laptop: str, service: str) -> Watch | None:
        """Observes the laptop's responses for comparisons; None where the laptop takes no shadow traffic."""
        notifier = self._notifiers.get((laptop, service))
        if notifier is None:  # the laptop takes it in all namespaces
            notifier = self._notifiers.get((laptop, service.partition(".")[0]))
        if notifier is None:
            return None

        def observe(head: RequestHead) -> LaptopResponseObserver | None:
            key = comparison_id(head)
            return None if key is None else self.comparisons.expect(key, service, head, notifier.notify)

        return observe
