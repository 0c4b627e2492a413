"""The registered laptops by name, and the services that each offers.

Never awaits: the link that a newer registration replaces is returned, for the caller to end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from devroute.auth.tokens import owns
from devroute.errors import (
    DevrouteError,
    LaptopOffline,
    NameNotOwned,
    NameTaken,
    ServiceNotServed,
    TooManyLinks,
)
from devroute.quoting import quote
from devroute.routing.decision import LaptopService
from devroute.tunnel.protocol.handshake import Hello
from devroute.upstream.interface import ProbedUpstream
from devroute.upstream.quota import Quota

#: Laptops that one subject may have online: a person has few, a CI system some.
MAX_LINKS_PER_SUBJECT: Final = 16


class Link(Protocol):
    """The connection of a laptop that registers."""

    def upstream(self, service: str) -> ProbedUpstream: ...

    def reject(self, error: DevrouteError) -> None:
        """Send the error to the agent, and close."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A laptop that is online. `since`: seconds since the epoch. `services`: by the name that it offers."""

    name: str
    subject: str
    link: Link
    hello: Hello
    since: float
    services: dict[str, LaptopService] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For the API."""
        return {
            "name": self.name,
            "subject": self.subject,
            "since": _time(self.since),
            "agent": self.hello.agent,
            "services": [
                {
                    "service": offer.service,
                    "scheme": offer.scheme,
                    "via": "tunnel" if offer.direct is None else "direct",
                    "address": None if offer.direct is None else str(offer.direct),
                    "terms": offer.terms.as_dict(),
                }
                for offer in self.hello.services
            ],
        }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class RegistryObserver(Protocol):
    """Learns of each registration, and of its end."""

    def registered(self, registration: Registration) -> None: ...
    def unregistered(self, registration: Registration) -> None: ...


class Registry:
    """Implements devroute.routing.decision.Directory. `max_links`: of one subject."""

    def __init__(self, observers: Sequence[RegistryObserver] = ()) -> None:
        self.max_links = MAX_LINKS_PER_SUBJECT
        self._observers = observers
        self._by_name: dict[str, Registration] = {}

    def register(
        self, subject: str, hello: Hello, link: Link, now: float, quota: Quota | None = None
    ) -> tuple[Registration, Link | None]:
        """Register a laptop. The second value is an older link of the same subject that it replaces, whose
        streams have to be ended. `now`: seconds since the epoch.

        Raises NameNotOwned, NameTaken and TooManyLinks.
        """
        name = hello.name or subject
        if not owns(subject, name):
            raise NameNotOwned(
                f"'{subject}' may not register {quote(name)}", hint=f"use '{subject}' or '{subject}-*'"
            )
        older = self._by_name.get(name)
        if older is not None and older.subject != subject:
            raise NameTaken(
                f"'{name}' is held by '{older.subject}' since {_time(older.since)}",
                hint=f"register another name with --name {subject}-SOMETHING",
            )
        if older is None and sum(r.subject == subject for r in self._by_name.values()) >= self.max_links:
            raise TooManyLinks(
                f"'{subject}' has {self.max_links} laptops online already",
                hint="end one of them; devroute ls shows them",
            )
        if older is not None:
            self._notify_unregistered(older)
        services = {
            offer.service: LaptopService(link.upstream(offer.service), None, offer.terms)
            if offer.direct is None
            else LaptopService(None, offer.direct, offer.terms, quota)
            for offer in hello.services
        }
        registration = self._by_name[name] = Registration(name, subject, link, hello, now, services)
        for observer in self._observers:
            observer.registered(registration)
        return registration, older.link if older is not None else None

    def _notify_unregistered(self, registration: Registration) -> None:
        for observer in self._observers:
            observer.unregistered(registration)

    def unregister(self, link: Link) -> Registration | None:
        """End a link's registration. None if it has none, or a newer link has replaced it."""
        for name, registration in self._by_name.items():
            if registration.link is link:
                self._by_name.pop(name)
                self._notify_unregistered(registration)
                return registration
        return None

    def registrations(self) -> list[Registration]:
        return list(self._by_name.values())

    def lookup(self, name: str, service: str) -> LaptopService:
        """Raises LaptopOffline or ServiceNotServed."""
        registration = self._by_name.get(name)
        if registration is None:
            raise _missing(LaptopOffline, f"laptop '{name}' is not online", name, service)
        found = registration.services.get(service)
        if found is None:
            offered = ", ".join(sorted(registration.services))
            raise _missing(
                ServiceNotServed, f"laptop '{name}' serves {offered}, not '{service}'", name, service
            )
        return found

    def listing(self) -> list[dict[str, object]]:
        """The registered laptops as JSON objects, by name."""
        return [self._by_name[name].as_dict() for name in sorted(self._by_name)]


def _missing(kind: type[DevrouteError], message: str, name: str, service: str) -> DevrouteError:
    return kind(message, hint=f"run: devroute up {service}=PORT", service=service, target=name)
