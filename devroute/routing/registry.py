"""The registered laptops by name, and the services that each offers.

A laptop is one or more processes of its subject that share its name: their services differ, since a process
takes a service over only if it asks for that. Never awaits: the links that lost something are returned, for
the caller to notify or end.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol, TypeVar

from devroute.auth.tokens import owns
from devroute.contract.target import SUFFIX_SEPARATOR
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
from devroute.tunnel.protocol.handshake import Hello, OtherProcess
from devroute.upstream.interface import ProbedUpstream
from devroute.upstream.quota import Quota

#: Processes that one subject may have online: a person has few, a CI system some.
MAX_LINKS_PER_SUBJECT: Final = 16


class Link(Protocol):
    """The connection of a laptop that registers."""

    def upstream(self, service: str) -> ProbedUpstream: ...

    def reject(self, error: DevrouteError) -> None:
        """Send the error to the agent, and close."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A process of a laptop that is online. `since`: seconds since the epoch. `services`: by the name that it
    offers."""

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

    def described(self, services: Sequence[str] | None = None) -> OtherProcess:
        """For the agent of another process; `services`: some of them, None for all."""
        names = tuple(self.services) if services is None else tuple(services)
        return OtherProcess(services=names, agent=self.hello.agent, since=_time(self.since))

    def shared(self, hello: Hello) -> list[str]:
        """The services that this process has and `hello` offers too."""
        return sorted(offer.service for offer in hello.services if offer.service in self.services)

    def is_earlier_link_of(self, hello: Hello) -> bool:
        """Whether it is the same process that registers again. Agents that send no `instance` are the same if
        they offer a service in common: they could not come back otherwise."""
        if hello.instance is None or self.hello.instance is None:
            return hello.instance is self.hello.instance is None and bool(self.shared(hello))
        return hello.instance == self.hello.instance

    def without(self, services: Sequence[str]) -> "Registration | None":
        """What remains once others have taken these services over; None if nothing does, or if the agent does
        not know that it can be a part."""
        offers = tuple(offer for offer in self.hello.services if offer.service not in services)
        if not offers or self.hello.instance is None:
            return None
        kept = {offer.service: self.services[offer.service] for offer in offers}
        return replace(self, hello=self.hello.model_copy(update={"services": offers}), services=kept)


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@dataclass(frozen=True, slots=True)
class Displaced:
    """A registration that lost `services` to a newer one. `remaining`: None if its link has to end. `again`:
    the newer one is of the same process, which has left this link."""

    before: Registration
    services: tuple[str, ...]
    remaining: Registration | None
    again: bool


class RegistryObserver(Protocol):
    """Learns of each registration, and of its end."""

    def registered(self, registration: Registration) -> None: ...
    def unregistered(self, registration: Registration) -> None: ...


class _Laptop:
    """The processes with one name, the oldest first, and the services of all of them."""

    def __init__(self) -> None:
        self.processes: list[Registration] = []
        self.services: dict[str, LaptopService] = {}

    def put(self, registration: Registration) -> None:
        self.processes.append(registration)
        self.services.update(registration.services)

    def change(self, before: Registration, remaining: Registration | None) -> None:
        at = self.processes.index(before)
        self.processes[at : at + 1] = [] if remaining is None else [remaining]
        self.services = {name: each for process in self.processes for name, each in process.services.items()}


class Registry:
    """Implements devroute.routing.decision.Directory. `max_links`: of one subject."""

    def __init__(self, observers: Sequence[RegistryObserver] = ()) -> None:
        self.max_links = MAX_LINKS_PER_SUBJECT
        self._observers = observers
        self._by_name: dict[str, _Laptop] = {}
        self._by_link: dict[Link, Registration] = {}

    def register(
        self, subject: str, hello: Hello, link: Link, now: float, quota: Quota | None = None
    ) -> tuple[Registration, list[Displaced]]:
        """Register a process of a laptop. The second value is what it replaces. `now`: seconds since the
        epoch.

        Raises NameNotOwned, NameTaken and TooManyLinks.
        """
        name = hello.name or subject
        displaced = self._displaced_by(subject, name, hello)
        gone = sum(each.remaining is None for each in displaced)
        if not gone and sum(each.subject == subject for each in self.registrations()) >= self.max_links:
            raise TooManyLinks(
                f"'{subject}' has {self.max_links} laptops online already",
                hint="end one of them; devroute ls shows them",
            )
        laptop = self._by_name.setdefault(name, _Laptop())
        for each in displaced:
            self._change(laptop, each.before, each.remaining)
        services = {
            offer.service: LaptopService(link.upstream(offer.service), None, offer.terms)
            if offer.direct is None
            else LaptopService(None, offer.direct, offer.terms, quota)
            for offer in hello.services
        }
        registration = Registration(name, subject, link, hello, now, services)
        laptop.put(registration)
        self._by_link[link] = registration
        for observer in self._observers:
            observer.registered(registration)
        return registration, displaced

    def _displaced_by(self, subject: str, name: str, hello: Hello) -> list[Displaced]:
        """Raises NameNotOwned, and NameTaken where a service may not be taken over."""
        if not owns(subject, name):
            raise NameNotOwned(
                f"'{subject}' may not register {quote(name)}", hint=_owned_names(subject, name)
            )
        found: list[Displaced] = []
        for process in self._processes(name):
            if process.is_earlier_link_of(hello):
                found.append(Displaced(process, tuple(process.services), None, again=True))
            elif shared := process.shared(hello):
                found.append(Displaced(process, tuple(shared), process.without(shared), again=False))
        taken = [each for each in found if not each.again]
        if taken and not hello.takeover:
            raise _taken(name, subject, taken[0])
        return found

    def holders(self, subject: str, hello: Hello) -> list[Link]:
        """The links of other processes that have a service which `hello` offers, if it may not just take it
        over."""
        processes = [] if hello.takeover else self._processes(hello.name or subject)
        return [
            each.link
            for each in processes
            if each.subject == subject and each.shared(hello) and not each.is_earlier_link_of(hello)
        ]

    def others(self, registration: Registration) -> list[Registration]:
        """The other processes of the same laptop."""
        return [each for each in self._processes(registration.name) if each.link is not registration.link]

    def _processes(self, name: str) -> list[Registration]:
        laptop = self._by_name.get(name)
        return [] if laptop is None else laptop.processes

    def _change(self, laptop: _Laptop, before: Registration, remaining: Registration | None) -> None:
        laptop.change(before, remaining)
        if remaining is None:
            self._by_link.pop(before.link)
        else:
            self._by_link[before.link] = remaining
        for observer in self._observers:
            observer.unregistered(before)
            if remaining is not None:
                observer.registered(remaining)

    def unregister(self, link: Link) -> Registration | None:
        """End a link's registration. None if it has none, or a newer link has replaced it."""
        registration = self._by_link.get(link)
        if registration is not None:
            laptop = self._by_name[registration.name]
            self._change(laptop, registration, None)
            if not laptop.processes:
                self._by_name.pop(registration.name)
        return registration

    def registration_of(self, link: Link) -> Registration | None:
        return self._by_link.get(link)

    def registrations(self) -> list[Registration]:
        return list(self._by_link.values())

    def lookup(self, name: str, service: str) -> LaptopService:
        """Raises LaptopOffline or ServiceNotServed."""
        laptop = self._by_name.get(name)
        if laptop is None:
            raise _missing(LaptopOffline, f"laptop '{name}' is not online", name, service)
        found = offer_for(laptop.services, service)
        if found is None:
            offered = ", ".join(sorted(laptop.services))
            raise _missing(
                ServiceNotServed, f"laptop '{name}' serves {offered}, not '{service}'", name, service
            )
        return found

    def listing(self) -> list[dict[str, object]]:
        """The processes of the registered laptops as JSON objects, by name, the oldest first."""
        return [each.as_dict() for name in sorted(self._by_name) for each in self._processes(name)]


_T = TypeVar("_T")


def offer_for(offers: Mapping[str, _T], service: str) -> _T | None:
    """The offer for a service as a contract names it: the one for its namespace first."""
    found = offers.get(service)
    return found if found is not None or "." not in service else offers.get(service.partition(".")[0])


def _taken(name: str, subject: str, by: Displaced) -> NameTaken:
    """For agents that do not know --takeover, too: they end with these words."""
    holder, services = by.before, ", ".join(f"'{service}'" for service in by.services)
    return NameTaken(
        f"laptop '{name}' serves {services} already: another devroute up of '{subject}' (version"
        f" {holder.hello.agent}) since {_time(holder.since)}",
        hint=f"end that one, take it over with --takeover, or use another name: --name {subject}--SOMETHING",
    )


def _missing(kind: type[DevrouteError], message: str, name: str, service: str) -> DevrouteError:
    return kind(message, hint=f"run: devroute up {service}=PORT", service=service, target=name)


def _owned_names(subject: str, name: str) -> str:
    """What to do about a name of another subject; until version 0.2 `subject-*` was the subject's, too."""
    rest = name.removeprefix(f"{subject}-")
    if rest != name:
        return f"the separator is '{SUFFIX_SEPARATOR}' now: --name {subject}{SUFFIX_SEPARATOR}{rest}"
    return f"use '{subject}' or '{subject}{SUFFIX_SEPARATOR}*'"
