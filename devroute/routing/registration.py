"""A registered link of a process of a laptop, and which services older ones keep beside newer ones. Pure.

The rule is the same on every replica, whatever the order in which it learns of registrations: generations
decide, and the newest wins. Links of one process may stand beside each other, each at another replica: either
may carry a request.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from devroute.errors import DevrouteError
from devroute.routing.decision import LaptopService
from devroute.timestamps import rfc3339
from devroute.tunnel.protocol.handshake import Hello, OtherProcess
from devroute.upstream.interface import ProbedUpstream


class LaptopLink(Hashable, Protocol):
    """The connection of a laptop that registers."""

    @property
    def usable(self) -> bool:
        """Whether requests can be sent to it, as far as is known; asked where the laptop has another one."""

    def upstream(self, service: str) -> ProbedUpstream: ...

    def reject(self, error: DevrouteError) -> None:
        """Send the error to the agent, and close."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A link of a process of a laptop that is online. `since`: seconds since the epoch. `services`: by the
    name that it offers. `generation`: larger than that of all older registrations of the name. `remote`: the
    link ends at another replica. `tickets`: of its services that take shadow traffic."""

    name: str
    subject: str
    link: LaptopLink
    hello: Hello
    since: float
    services: dict[str, LaptopService] = field(default_factory=dict)
    generation: int = 0
    remote: bool = False
    tickets: Mapping[str, str] = field(default_factory=dict)

    @property
    def process(self) -> Hashable:
        """The same for all links of one process. An agent that sends no `instance` has one link."""
        return self.link if self.hello.instance is None else (self.name, self.hello.instance)

    @property
    def since_when(self) -> str:
        """RFC 3339, in UTC."""
        return rfc3339(self.since)

    def as_dict(self) -> dict[str, object]:
        """For the API."""
        return {
            "name": self.name,
            "subject": self.subject,
            "since": self.since_when,
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
        return OtherProcess(services=names, agent=self.hello.agent, since=self.since_when)

    def shared(self, hello: Hello) -> list[str]:
        """The services that this process has and `hello` offers too."""
        return sorted(offer.service for offer in hello.services if offer.service in self.services)

    def is_same_process(self, hello: Hello) -> bool:
        """Whether it is the same process that registers. Agents that send no `instance` are the same if they
        offer a service in common: they could not come back otherwise."""
        if hello.instance is None or self.hello.instance is None:
            return hello.instance is self.hello.instance is None and bool(self.shared(hello))
        return hello.instance == self.hello.instance

    def is_earlier_link_of(self, hello: Hello) -> bool:
        """Whether the same process registers a link in the place of this one."""
        stands = hello.instance is not None and hello.beside and hello.link != self.hello.link
        return not stands and self.is_same_process(hello)

    def without(self, services: Sequence[str]) -> "Registration | None":
        """What remains once others have taken these services over; None if nothing does, or if the agent does
        not know that it can be a part."""
        offers = tuple(offer for offer in self.hello.services if offer.service not in services)
        if not offers or self.hello.instance is None:
            return None
        kept = {offer.service: self.services[offer.service] for offer in offers}
        return replace(self, hello=self.hello.model_copy(update={"services": offers}), services=kept)


@dataclass(frozen=True, slots=True)
class Displaced:
    """A registration that lost `services` to a newer one. `remaining`: None if its link has to end. `again`:
    the newer one is of the same process, which has left this link."""

    before: Registration
    services: tuple[str, ...]
    remaining: Registration | None
    again: bool


def displaced_by(hello: Hello, processes: Sequence[Registration]) -> list[Displaced]:
    """What the older links of a laptop lose to a newer one."""
    found: list[Displaced] = []
    for process in processes:
        if process.is_earlier_link_of(hello):
            found.append(Displaced(process, tuple(process.services), None, again=True))
        elif process.is_same_process(hello):
            continue
        elif shared := process.shared(hello):
            found.append(Displaced(process, tuple(shared), process.without(shared), again=False))
    return found


def settle(processes: Sequence[Registration]) -> tuple[list[Registration], list[Displaced]]:
    """The links of a laptop that stay, with the services that each keeps, the oldest first; and what those
    that were given lose."""
    kept: list[Registration] = []
    lost: dict[LaptopLink, Displaced] = {}
    given = {process.link: process for process in processes}
    for process in sorted(processes, key=lambda each: each.generation):
        for each in displaced_by(process.hello, kept):
            link, at = each.before.link, kept.index(each.before)
            kept[at : at + 1] = [] if each.remaining is None else [each.remaining]
            before, earlier = given[link], lost[link].services if link in lost else ()
            lost[link] = Displaced(before, (*earlier, *each.services), each.remaining, each.again)
        kept.append(process)
    return kept, list(lost.values())


def one_of_each(registrations: Iterable[Registration]) -> list[Registration]:
    """One link of each process: the first, which is the oldest where the oldest come first."""
    found: dict[Hashable, Registration] = {}
    for each in registrations:
        found.setdefault(each.process, each)
    return list(found.values())
