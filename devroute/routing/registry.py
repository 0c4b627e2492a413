"""The registered laptops by name, and the services that each offers.

A laptop is one or more processes of its subject that share its name: their services differ, since a process
takes a service over only if it asks for that. Their links end here or, where replicas share a registry
(devroute/replicas), at others; a process may have a link at each of two. Never awaits: the links that lost
something are returned, for the caller to notify or end.
"""

import secrets
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import Final, Protocol, TypeVar

from devroute.auth.tokens import owns
from devroute.contract.target import SUFFIX_SEPARATOR
from devroute.errors import (
    DevrouteError,
    LaptopOffline,
    LinkReplaced,
    NameNotOwned,
    NameTaken,
    ServiceNotServed,
    TooManyLinks,
)
from devroute.quoting import quote
from devroute.routing.decision import LaptopService
from devroute.routing.registration import (
    Displaced,
    LaptopLink,
    Registration,
    displaced_by,
    one_of_each,
    settle,
)
from devroute.tunnel.protocol.handshake import Hello
from devroute.upstream.quota import Quota

#: Processes that one subject may have online: a person has few, a CI system some.
MAX_LINKS_PER_SUBJECT: Final = 16
#: Characters of a ticket: 128 bits as hexadecimal digits, too many to guess.
TICKET_LENGTH: Final = 32


class RegistryObserver(Protocol):
    """Learns of each registration, and of its end."""

    def registered(self, registration: Registration) -> None: ...
    def unregistered(self, registration: Registration) -> None: ...


class _Laptop:
    """The links of the processes with one name, the oldest first. `services`: by which links each is served,
    those that end here first."""

    def __init__(self, processes: list[Registration]) -> None:
        self.processes = processes
        self.services: dict[str, list[tuple[LaptopLink, LaptopService]]] = {}
        for process in sorted(processes, key=lambda each: each.remote):
            for name, served in process.services.items():
                self.services.setdefault(name, []).append((process.link, served))


class Registry:
    """Implements devroute.routing.decision.Directory. `max_links`: processes of one subject. `owner`: the
    address of this replica's data port, "" where there is one replica."""

    def __init__(self, observers: Sequence[RegistryObserver] = ()) -> None:
        self.max_links = MAX_LINKS_PER_SUBJECT
        self.owner = ""
        self.observers = list(observers)
        self._by_name: dict[str, _Laptop] = {}
        self._by_link: dict[LaptopLink, Registration] = {}
        # By subject: how many links each of its processes has.
        self._processes: defaultdict[str, Counter[Hashable]] = defaultdict(Counter)

    def register(
        self, subject: str, hello: Hello, link: LaptopLink, now: float, quota: Quota | None = None
    ) -> tuple[Registration, list[Displaced]]:
        """Register a process of a laptop. The second value is what it replaces. `now`: seconds since the
        epoch.

        Raises NameNotOwned, NameTaken and TooManyLinks.
        """
        registration = self.draft(subject, hello, link, now, quota)
        return registration, self.add(registration)

    def draft(
        self, subject: str, hello: Hello, link: LaptopLink, now: float, quota: Quota | None = None
    ) -> Registration:
        """What `add` would put in, newer than all that is known. Raises as `register`."""
        name = hello.name or subject
        if not owns(subject, name):
            raise NameNotOwned(
                f"'{subject}' may not register {quote(name)}", hint=_owned_names(subject, name)
            )
        processes = self.processes(name)
        displaced = displaced_by(hello, processes)
        taken = [each for each in displaced if not each.again]
        if taken and not hello.takeover:
            raise _taken(name, subject, taken[0])
        again = any(each.is_same_process(hello) for each in processes)
        ended = any(each.remaining is None for each in displaced)
        if not again and not ended and len(self._processes.get(subject, ())) >= self.max_links:
            raise self.too_many(subject)
        services = {
            offer.service: LaptopService(link.upstream(offer.service), None, offer.terms, owner=self.owner)
            if offer.direct is None
            else LaptopService(None, offer.direct, offer.terms, quota, self.owner)
            for offer in hello.services
        }
        beside = [
            each for each in processes if each.is_same_process(hello) and not each.is_earlier_link_of(hello)
        ]
        known = {service: ticket for each in beside for service, ticket in each.tickets.items()}
        tickets = {
            offer.service: known.get(offer.service) or secrets.token_hex(TICKET_LENGTH // 2)
            for offer in hello.services
            if offer.terms.shadow is not None
        }
        newest = max((each.generation for each in processes), default=0)
        generation = max(int(now * 1e6), newest + 1)
        return Registration(name, subject, link, hello, now, services, generation, tickets=tickets)

    def add(self, registration: Registration) -> list[Displaced]:
        """Put a draft in; returns what it replaces. Raises LinkReplaced if a newer one has replaced it
        meanwhile."""
        kept, displaced = settle([*self.processes(registration.name), registration])
        if all(each.link is not registration.link for each in kept):
            raise LinkReplaced(f"another devroute up of laptop '{registration.name}' took its place")
        self._replace(registration.name, kept)
        return displaced

    def place(self, name: str, remote: Sequence[Registration]) -> list[Displaced]:
        """Put these in the place of all that other replicas had registered under a name. Returns what
        processes of this one lose to newer ones."""
        own = [each for each in self.processes(name) if not each.remote]
        kept, displaced = settle([*own, *remote])
        self._replace(name, kept)
        return [each for each in displaced if not each.before.remote]

    def holders(self, subject: str, hello: Hello) -> list[LaptopLink]:
        """The links of other processes that have a service which `hello` offers, if it may not just take it
        over."""
        processes = [] if hello.takeover else self.processes(hello.name or subject)
        return [
            each.link
            for each in processes
            if each.subject == subject and each.shared(hello) and not each.is_same_process(hello)
        ]

    def others(self, registration: Registration) -> list[Registration]:
        """The links of other processes of the same laptop."""
        processes = self.processes(registration.name)
        return [each for each in processes if each.process != registration.process]

    def siblings(self, registration: Registration) -> list[Registration]:
        """The other links of the same process."""
        return [
            each
            for each in self.processes(registration.name)
            if each.process == registration.process and each.link is not registration.link
        ]

    def excess(self, arrived: Registration) -> list[Registration]:
        """What this replica has to end because `arrived` has registered at another one at the same time, and
        neither knew of the other: the processes beyond `max_links` that are newer. All replicas find the same
        ones. What is older stays, also if the limit has been lowered since."""
        if len(self._processes.get(arrived.subject, ())) <= self.max_links:
            return []
        newest = self._by_age(arrived.subject)[self.max_links :]
        ended = {each.process for each in newest if _age(each) > _age(arrived)}
        return [each for each in self._by_link.values() if each.process in ended and not each.remote]

    def check_room(self, registration: Registration) -> None:
        """For a draft that has waited: others may have registered meanwhile. Raises TooManyLinks if it would
        exceed the limit, and those that are there are older."""
        if len(self._processes.get(registration.subject, ())) < self.max_links:
            return
        processes = self.processes(registration.name)
        replaced = any(each.remaining is None for each in displaced_by(registration.hello, processes))
        if replaced or any(each.process == registration.process for each in processes):
            return
        older = [each for each in self._by_age(registration.subject) if _age(each) < _age(registration)]
        if len(older) >= self.max_links:
            raise self.too_many(registration.subject)

    def _by_age(self, subject: str) -> list[Registration]:
        """One link of each of its processes."""
        all_links = [each for each in self._by_link.values() if each.subject == subject]
        return one_of_each(sorted(all_links, key=_age))

    def too_many(self, subject: str) -> TooManyLinks:
        return TooManyLinks(
            f"'{subject}' has {self.max_links} laptops online already",
            hint="end one of them; devroute ls shows them",
        )

    def processes(self, name: str) -> list[Registration]:
        """The links of one laptop's processes, the oldest first."""
        laptop = self._by_name.get(name)
        return [] if laptop is None else laptop.processes

    def _replace(self, name: str, processes: list[Registration]) -> None:
        """Let a laptop consist of these, and notify the observers of those that are new, changed or gone."""
        before = {each.link: each for each in self.processes(name)}
        after = {each.link: each for each in processes}
        if processes:
            self._by_name[name] = _Laptop(processes)
        else:
            self._by_name.pop(name, None)
        for link, old in before.items():
            if after.get(link) is not old:
                del self._by_link[link]
                self._count(old, -1)
                for observer in self.observers:
                    observer.unregistered(old)
        for link, new in after.items():
            if before.get(link) is not new:
                self._by_link[link] = new
                self._count(new, 1)
                for observer in self.observers:
                    observer.registered(new)

    def _count(self, registration: Registration, links: int) -> None:
        processes = self._processes[registration.subject]
        processes[registration.process] += links
        if not processes[registration.process]:
            del processes[registration.process]
        if not processes:
            del self._processes[registration.subject]

    def unregister(self, link: LaptopLink) -> Registration | None:
        """End a link's registration. None if it has none, or a newer link has replaced it."""
        registration = self._by_link.get(link)
        if registration is not None:
            processes = self.processes(registration.name)
            self._replace(registration.name, [each for each in processes if each.link is not link])
        return registration

    def registration_of(self, link: LaptopLink) -> Registration | None:
        return self._by_link.get(link)

    def registrations(self) -> list[Registration]:
        return list(self._by_link.values())

    def lookup(self, name: str, service: str) -> LaptopService:
        """By the link that ends here, if one does; else by the oldest that can be used. Raises LaptopOffline
        or ServiceNotServed."""
        laptop = self._by_name.get(name)
        found = None if laptop is None else laptop.services.get(service)
        if found is None:
            found = self._served(name, service)
        if len(found) == 1:
            return found[0][1]
        return next((served for link, served in found if link.usable), found[0][1])

    def lookup_other(self, name: str, service: str, failed: LaptopService) -> LaptopService | None:
        """By another link than that which has failed; None if there is none. Raises as `lookup`."""
        found = self._served(name, service)
        others = [(link, served) for link, served in found if served is not failed]
        return next((served for link, served in others if link.usable), None)

    def _served(self, name: str, service: str) -> list[tuple[LaptopLink, LaptopService]]:
        laptop = self._by_name.get(name)
        if laptop is None:
            raise _missing(LaptopOffline, f"laptop '{name}' is not online", name, service)
        found = offer_for(laptop.services, service)
        if found is None:
            offered = ", ".join(sorted(laptop.services)) or "nothing"
            raise _missing(
                ServiceNotServed, f"laptop '{name}' serves {offered}, not '{service}'", name, service
            )
        return found

    def listing(self) -> list[dict[str, object]]:
        """The processes of the registered laptops as JSON objects, by name, the oldest first; `links`: how
        many each has."""
        return [
            {**each.as_dict(), "links": self._processes[each.subject][each.process]}
            for name in sorted(self._by_name)
            for each in one_of_each(self.processes(name))
        ]

    def count(self) -> int:
        """The processes that are registered."""
        return sum(map(len, self._processes.values()))

    def owned(self) -> int:
        """The processes that this replica counts as its own: their oldest link ends here."""
        laptops = self._by_name.values()
        return sum(not each.remote for laptop in laptops for each in one_of_each(laptop.processes))


_T = TypeVar("_T")


def offer_for(offers: Mapping[str, _T], service: str) -> _T | None:
    """The offer for a service as a contract names it: the one for its namespace first."""
    found = offers.get(service)
    return found if found is not None or "." not in service else offers.get(service.partition(".")[0])


def _age(registration: Registration) -> tuple[int, str]:
    """Sorts the oldest first, on all replicas alike."""
    return registration.generation, registration.name


def _taken(name: str, subject: str, by: Displaced) -> NameTaken:
    """For agents that do not know --takeover, too: they end with these words."""
    holder, services = by.before, ", ".join(f"'{service}'" for service in by.services)
    return NameTaken(
        f"laptop '{name}' serves {services} already: another devroute up of '{subject}' (version"
        f" {holder.hello.agent}) since {holder.since_when}",
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
