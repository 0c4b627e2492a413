"""Who is online: laptops by name, with the services that each offers and the way to them.

It decides and never awaits: what it decided about an older link is returned for the caller to do.
"""

import secrets
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
from devroute.routing.shadow.assignment import TICKET_LENGTH, ShadowTarget
from devroute.routing.shadow.notifier import COMPARISON_SERVICE, Notifier
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
    """`since`: seconds since the epoch."""

    name: str
    subject: str
    link: Link
    hello: Hello
    since: float
    ways: dict[str, LaptopService] = field(default_factory=dict)

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


class Registry:
    def __init__(self, *, max_links_per_subject: int = MAX_LINKS_PER_SUBJECT) -> None:
        self.max_links = max_links_per_subject
        self._by_name: dict[str, Registration] = {}
        self._shadows: dict[str, ShadowTarget] = {}

    def register(
        self, subject: str, hello: Hello, link: Link, now: float, quota: Quota | None = None
    ) -> tuple[Registration, Link | None]:
        """Put a laptop online. The second value is an older link of the same owner that it replaces, whose
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
        shadows = any(offer.terms.shadow is not None for offer in hello.services)
        tell = Notifier(link.upstream(COMPARISON_SERVICE)) if shadows else None
        ways = {
            offer.service: LaptopService(link.upstream(offer.service), None, offer.terms, tell=tell)
            if offer.direct is None
            else LaptopService(None, offer.direct, offer.terms, quota, tell)
            for offer in hello.services
        }
        registration = self._by_name[name] = Registration(name, subject, link, hello, now, ways)
        self._forget_shadows(name)
        for service, served in ways.items():
            if served.options.shadow is not None:
                ticket = secrets.token_hex(TICKET_LENGTH // 2)
                self._shadows[ticket] = ShadowTarget(ticket, name, service, served)
        return registration, older.link if older is not None else None

    def unregister(self, link: Link) -> Registration | None:
        """Take a laptop offline. None if this link is not, or no longer, the way to it."""
        for name, registration in self._by_name.items():
            if registration.link is link:
                self._forget_shadows(name)
                return self._by_name.pop(name)
        return None

    def registrations(self) -> list[Registration]:
        return list(self._by_name.values())

    def lookup(self, name: str, service: str) -> LaptopService:
        """Raises LaptopOffline or ServiceNotServed."""
        registration = self._by_name.get(name)
        if registration is None:
            raise LaptopOffline(
                f"laptop '{name}' is not online",
                hint=f"run: devroute up {service}=PORT",
                service=service,
                target=name,
            )
        served = registration.ways.get(service)
        if served is None:
            raise ServiceNotServed(
                f"laptop '{name}' serves {', '.join(sorted(registration.ways))}, not '{service}'",
                hint=f"run: devroute up {service}=PORT",
                service=service,
                target=name,
            )
        return served

    def _forget_shadows(self, name: str) -> None:
        self._shadows = {ticket: each for ticket, each in self._shadows.items() if each.name != name}

    def shadows(self, service: str) -> list[ShadowTarget]:
        """The laptops that want copies of a service's requests, by name."""
        found = [each for each in self._shadows.values() if each.service == service]
        return sorted(found, key=lambda each: each.name)

    def shadow(self, ticket: str) -> ShadowTarget:
        """The laptop that a copy is for. Raises LaptopOffline."""
        found = self._shadows.get(ticket)
        if found is None:
            raise LaptopOffline("the laptop that wanted this copy is not online any more")
        return found

    def listing(self) -> list[dict[str, object]]:
        """Everybody who is online, by name."""
        return [self._by_name[name].as_dict() for name in sorted(self._by_name)]
