"""A process may have a link at each of two replicas: what stands beside what, and by which a request goes."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from devroute.contract.offer_options import OfferOptions
from devroute.errors import DevrouteError, NameTaken, TooManyLinks
from devroute.routing.decision import LaptopService
from devroute.routing.registration import Registration, settle
from devroute.routing.registry import Registry
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.tunnel.protocol.handshake import Hello, Offer

NOW = 1_700_000_000.0


class Link:
    def __init__(self, usable: bool = True) -> None:
        self.usable = usable

    def upstream(self, service: str) -> Any:
        return self

    def reject(self, error: DevrouteError) -> None: ...


def hello(process: str, link: int = 0, services: str = "foo", name: str = "alice", **more: Any) -> Hello:
    terms = {"terms": OfferOptions.from_mapping({"shadow": 10})} if more.pop("shadow", False) else {}
    offers = tuple(Offer(service=each, **terms) for each in services.split())
    return Hello(
        agent="1",
        name=name,
        services=offers,
        instance=process,
        link=link,
        beside=more.pop("beside", link > 0),
        **more,
    )


def link_of(
    process: str,
    number: int,
    generation: int,
    services: str = "foo",
    *,
    remote: bool = False,
    usable: bool = True,
    name: str = "alice",
    beside: bool = False,
) -> Registration:
    made = hello(process, number, services, name, beside=beside or number > 0)
    link = Link(usable)
    served = {each.service: LaptopService(link, None) for each in made.services}  # type: ignore[arg-type]
    return Registration(name, "alice", link, made, NOW, served, generation, remote)  # type: ignore[arg-type]


# --- what stands beside what --------------------------------------------------------------------------------

#: Links by generation, each as "process number services", with "+" for one that is to stand beside the other;
#: those that stay, with their services; and those that lose something: "again" if the process has left the
#: link, else what it has lost.
SETTLED: dict[str, tuple[list[str], list[str], list[str]]] = {
    "two links of one process": (["a 0 foo", "a 1+ foo"], ["a0 foo", "a1 foo"], []),
    "the other one is there already": (["a 1+ foo", "a 0+ foo"], ["a1 foo", "a0 foo"], []),
    "one of them again": (["a 0 foo", "a 1+ foo", "a 0+ foo"], ["a1 foo", "a0 foo"], ["again"]),
    "both again": (["a 0 foo", "a 1+ foo", "a 1+ foo", "a 0+ foo"], ["a1 foo", "a0 foo"], ["again", "again"]),
    "both were lost": (["a 0 foo", "a 1+ foo", "a 0 foo"], ["a0 foo"], ["again", "again"]),
    "another process takes all over from both": (
        ["a 0 foo", "a 1+ foo", "b 0 foo"],
        ["b0 foo"],
        ["foo", "foo"],
    ),
    "and its second link stands beside": (
        ["a 0 foo", "a 1+ foo", "b 0 foo", "b 1+ foo"],
        ["b0 foo", "b1 foo"],
        ["foo", "foo"],
    ),
    "another process takes some from both": (
        ["a 0 foo bar", "a 1+ foo bar", "b 0 bar", "b 1+ bar"],
        ["a0 foo", "a1 foo", "b0 bar", "b1 bar"],
        ["bar", "bar"],
    ),
    "it comes in between": (["a 0 foo", "b 0 foo", "a 1+ foo"], ["a1 foo"], ["foo", "foo"]),
    "processes with other services": (
        ["a 0 foo", "b 0 bar", "a 1+ foo", "b 1+ bar"],
        ["a0 foo", "b0 bar", "a1 foo", "b1 bar"],
        [],
    ),
}


@pytest.mark.parametrize(("links", "stay", "lost"), SETTLED.values(), ids=SETTLED)
def test_links_of_one_process_stand_beside_each_other_and_another_process_takes_over_all(
    links: list[str], stay: list[str], lost: list[str]
) -> None:
    given = []
    for generation, each in enumerate(links, 1):
        process, number, services = each.split(" ", 2)
        beside = number.endswith("+")
        given.append(link_of(process, int(number.rstrip("+")), generation, services, beside=beside))
    for order in (given, given[::-1]):  # replicas learn of them in any order
        kept, displaced = settle(order)
        shown = [f"{each.hello.instance}{each.hello.link} {' '.join(each.services)}" for each in kept]
        assert shown == stay
        assert ["again" if each.again else " ".join(each.services) for each in displaced] == lost
        assert all(each.remaining is None or each.remaining in kept for each in displaced)


# --- by which link a request goes ---------------------------------------------------------------------------


@dataclass(frozen=True)
class At:
    """A link of the laptop: here or at another replica, in order of age."""

    remote: bool
    usable: bool = True


HERE, THERE, LOST = At(remote=False), At(remote=True), At(remote=True, usable=False)


@pytest.mark.parametrize(
    ("links", "chosen", "other"),
    [
        ([HERE], 0, None),
        ([THERE], 0, None),
        ([LOST], 0, None),  # it is as good as any: a sidecar may reach it
        ([HERE, THERE], 0, 1),
        ([THERE, HERE], 1, 0),
        ([THERE, THERE], 0, 1),
        ([LOST, THERE], 1, None),
        ([THERE, LOST], 0, None),
        ([LOST, HERE], 1, None),
        ([LOST, LOST], 0, None),
    ],
)
def test_a_request_goes_by_the_link_that_ends_here_or_the_oldest_that_can_be_used(
    links: list[At], chosen: int, other: int | None
) -> None:
    registry = Registry()
    all_links = [
        link_of("a", number, number + 1, remote=each.remote, usable=each.usable)
        for number, each in enumerate(links)
    ]
    for each in all_links:
        if not each.remote:
            registry.add(each)
    registry.place("alice", [each for each in all_links if each.remote])
    served = [each.services["foo"] for each in all_links]
    found = registry.lookup("alice", "foo")
    assert served.index(found) == chosen
    spare = registry.lookup_other("alice", "foo", found)
    assert (None if spare is None else served.index(spare)) == other


def test_when_one_link_ends_the_other_serves_at_once() -> None:
    registry, first, second = Registry(), Link(), Link()
    registry.register("alice", hello("a", 0), first, NOW)  # type: ignore[arg-type]
    registry.register("alice", hello("a", 1), second, NOW + 1)  # type: ignore[arg-type]
    registry.unregister(first)  # type: ignore[arg-type]
    assert registry.lookup("alice", "foo").upstream is second
    registry.unregister(second)  # type: ignore[arg-type]
    assert registry.listing() == []


# --- what counts processes ----------------------------------------------------------------------------------


def test_a_laptop_with_two_links_is_one_in_lists_and_limits_and_to_others() -> None:
    registry = Registry()
    registry.max_links = 1
    (first, _), (second, displaced) = (
        registry.register("alice", hello("a", number), Link(), NOW + number)  # type: ignore[arg-type]
        for number in (0, 1)
    )
    assert displaced == []
    assert registry.siblings(first) == [second]
    assert registry.others(first) == registry.others(second) == []
    (listed,) = registry.listing()
    assert (listed["links"], listed["since"]) == (2, first.since_when)
    assert registry.owned() == 1
    with pytest.raises(TooManyLinks):
        registry.register("alice", hello("b", name="alice--2"), Link(), NOW)  # type: ignore[arg-type]
    with pytest.raises(NameTaken):
        registry.register("alice", hello("b"), Link(), NOW)  # type: ignore[arg-type]
    assert registry.holders("alice", hello("a", 1)) == []
    assert registry.holders("alice", hello("b")) == [first.link, second.link]
    over, lost = registry.register("alice", hello("b", takeover=True), Link(), NOW)  # type: ignore[arg-type]
    assert [each.before for each in lost] == [first, second]
    assert registry.processes("alice") == [over]


def test_a_replica_counts_the_processes_whose_oldest_link_it_has() -> None:
    """So that the sum over all replicas is their number."""
    links = [link_of("a", 0, 1), link_of("a", 1, 2), link_of("b", 0, 3, "bar"), link_of("c", 0, 4, "baz")]
    counts = []
    for own in ({0, 3}, {1, 2}):
        registry = Registry()
        for number in sorted(own):
            registry.add(links[number])
        registry.place("alice", [replace(each, remote=True) for n, each in enumerate(links) if n not in own])
        counts.append(registry.owned())
    assert counts == [2, 1]


@pytest.mark.parametrize(
    ("here", "there", "ended"),
    [
        ([1, 2], [3], []),  # the newer one is ended where it is
        ([1, 3], [2], [3]),
        ([3, 4], [1, 2], [3, 4]),
        ([2, 4], [1, 3], [4]),
        ([1, 2, 3], [], []),  # the limit was lowered
    ],
)
def test_of_registrations_beyond_the_limit_at_the_same_moment_the_newest_are_ended_by_their_replica(
    here: list[int], there: list[int], ended: list[int]
) -> None:
    registry, found = Registry(), set[int]()
    registry.max_links = 2
    for generation in here:
        registry.add(link_of(f"{generation:x}", 0, generation, name=f"alice--{generation}"))
    for generation in there:
        name = f"alice--{generation}"
        (arrived,) = [link_of(f"{generation:x}", 0, generation, name=name, remote=True)]
        registry.place(name, [arrived])
        found |= {each.generation for each in registry.excess(arrived)}
    assert sorted(found) == ended


@pytest.mark.parametrize(("arrived", "fits"), [(3, False), (9, True)])
def test_a_draft_that_waited_while_others_registered_gives_way_to_those_that_are_older(
    arrived: int, fits: bool
) -> None:
    registry = Registry()
    registry.max_links = 2
    registry.add(link_of("a", 0, 1, name="alice--1"))
    draft = link_of("b", 0, 5, name="alice--5")
    registry.place("alice--2", [link_of("c", 0, arrived, name="alice--2", remote=True)])
    if fits:
        registry.check_room(draft)
    else:
        with pytest.raises(TooManyLinks):
            registry.check_room(draft)
    registry.check_room(link_of("a", 1, 6, name="alice--1"))  # another link of a process that is online


def test_a_laptop_with_two_links_takes_shadow_traffic_once_and_by_one_ticket() -> None:
    shadow = ShadowTraffic(lambda: 0.0)
    registry, first, second = Registry([shadow]), Link(), Link()
    registry.register("alice", hello("a", 0, shadow=True), first, NOW)  # type: ignore[arg-type]
    registry.register("alice", hello("a", 1, shadow=True), second, NOW + 1)  # type: ignore[arg-type]
    (target,) = shadow.targets("foo")
    assert target.laptop.upstream is first
    registry.unregister(first)  # type: ignore[arg-type]
    (same,) = shadow.targets("foo")
    assert (same.ticket, same.laptop.upstream) == (target.ticket, second)
    assert shadow.target(target.ticket) is same
    assert shadow.watch("alice", "foo") is not None
    registry.unregister(second)  # type: ignore[arg-type]
    assert shadow.targets("foo") == []
    assert shadow.watch("alice", "foo") is None
