"""What the other replicas have registered, as they have written it, and as registrations in this one's
registry. Everything is kept whole in memory, also what cannot be read, so that two replicas that compare what
they know of a name compare the same bytes.
"""

from collections.abc import Callable, Mapping
from typing import Final

import structlog

from devroute.replicas.node import Node, NodeLink
from devroute.replicas.record import ProcessRecord, decode_processes
from devroute.routing.decision import LaptopService
from devroute.routing.registration import Displaced, Registration
from devroute.routing.registry import Registry

#: Names of one replica; a mesh has 10,000 laptops over all.
MAX_NAMES: Final = 50_000

log = structlog.stdlib.get_logger("devroute.replicas")

#: Called with a process that has registered at another replica, and what processes of this one lose to it.
Arrived = Callable[[Registration, list[Displaced]], None]


class Known:
    """What is known of a replica. `version`: of its key, when it was read last; `missing_since`: when its key
    was found to be gone, None while it is there."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.version = 0
        self.missing_since: float | None = None
        self.values: dict[str, bytes] = {}
        self.processes: dict[str, list[Registration]] = {}
        self.unreadable = False  # logged once


class RemoteLaptops:
    """`known`: the other replicas by id."""

    def __init__(self, registry: Registry, arrived: Arrived) -> None:
        self.known: dict[str, Known] = {}
        self._registry = registry
        self._arrived = arrived

    def values_of(self, name: str) -> dict[str, bytes]:
        """What each has written under a name."""
        return {id_: known.values[name] for id_, known in self.known.items() if name in known.values}

    def put(self, known: Known, name: str, value: bytes) -> None:
        """A replica has written this under a name; b"" if nothing is there any more."""
        if value == known.values.get(name, b""):
            return
        before = {each.generation: each for each in known.processes.pop(name, [])}
        if not value:
            del known.values[name]
        elif name in known.values or len(known.values) < MAX_NAMES:
            known.values[name] = value
            processes = [
                _registration(known.node, name, each, before.get(each.generation))
                for each in self._decoded(known, name, value)
            ]
            if processes:
                known.processes[name] = processes
        self._place(name, [each for each in known.processes.get(name, []) if each.generation not in before])

    def _decoded(self, known: Known, name: str, value: bytes) -> tuple[ProcessRecord, ...]:
        try:
            return decode_processes(name, value)
        except ValueError as error:
            if not known.unreadable:
                known.unreadable = True
                reason = str(error).partition("\n")[0]
                log.warning("registry.unreadable", replica=known.node.record.id, reason=reason)
            return ()

    def _place(self, name: str, arrived: list[Registration]) -> None:
        remote = [
            process
            for known in self.known.values()
            if not known.node.dead
            for process in known.processes.get(name, ())
        ]
        displaced = self._registry.place(name, remote)
        there = {each.link: each for each in self._registry.processes(name)}
        for registration in arrived:
            if registration.link in there:  # not if a newer one has replaced it
                self._arrived(there[registration.link], displaced)
                displaced = []

    def add(self, id_: str, node: Node) -> Known:
        known = self.known[id_] = Known(node)
        return known

    def remove(self, id_: str) -> None:
        """A replica has ended, and with it all links to it."""
        for name in list(self.known.pop(id_).values):
            self._place(name, [])

    def bury(self, node: Node, now: float) -> None:
        """The same, while its key may still be there."""
        node.dead_since = now
        self._place_all(node)

    def revive(self, node: Node) -> None:
        """It was not dead, or is not any more."""
        node.dead_since = None
        self._place_all(node)

    def _place_all(self, node: Node) -> None:
        for known in self.known.values():
            if known.node is node:
                for name in list(known.values):
                    self._place(name, [])


def _registration(node: Node, name: str, record: ProcessRecord, before: Registration | None) -> Registration:
    """The same object as before if nothing has changed, since routes are kept by it."""
    if before is not None and before.hello == record.hello and before.tickets == record.tickets:
        return before
    link = NodeLink(node, name, record.generation) if before is None else before.link
    services: Mapping[str, LaptopService] = {
        offer.service: LaptopService(
            link.upstream(offer.service), offer.direct, offer.terms, owner=node.record.data, remote=True
        )
        for offer in record.hello.services
    }
    return Registration(
        name,
        record.subject,
        link,
        record.hello,
        record.since,
        dict(services),
        record.generation,
        remote=True,
        tickets=record.tickets,
    )
