import pytest

from devroute.contract.target import Address
from devroute.errors import LaptopOffline, NameNotOwned, NameTaken, ServiceNotServed, TooManyLinks
from devroute.routing.registry import Registry
from devroute.tunnel.protocol.handshake import Hello, Offer
from devroute.upstream.interface import Upstream

NOW = 1_700_000_000.0


class Link:
    def __init__(self) -> None:
        self.made: list[str] = []

    def upstream(self, service: str) -> Upstream:
        self.made.append(service)
        return self  # type: ignore[return-value]  # never opened here


def hello(
    *services: str, name: str | None = None, instance: str | None = None, takeover: bool = False
) -> Hello:
    offers = tuple(Offer(service=s) for s in services or ("foo",))
    return Hello(agent="1", name=name, services=offers, instance=instance, takeover=takeover)


def test_a_laptop_is_found_by_its_subject_s_name_and_its_service_stays_the_same_object() -> None:
    registry, link = Registry(), Link()
    assert registry.register("alice", hello(), link, NOW)[0].name == "alice"
    served = registry.lookup("alice", "foo")
    assert served.upstream is link
    assert served.address is None
    assert registry.lookup("alice", "foo") is served


def test_a_laptop_may_register_an_address_instead() -> None:
    registry = Registry()
    offer = Offer(service="foo", direct=Address("192.168.1.12", 8001))
    registry.register("alice", Hello(agent="1", services=(offer,)), Link(), NOW)
    served = registry.lookup("alice", "foo")
    assert served.upstream is None
    assert served.address == Address("192.168.1.12", 8001)


@pytest.mark.parametrize("name", ["alice", "alice--2", "alice--on-the-train"])
def test_a_subject_owns_its_name_and_names_that_extend_it(name: str) -> None:
    assert Registry().register("alice", hello(name=name), Link(), NOW)[0].name == name


@pytest.mark.parametrize("name", ["bob", "alicea", "a", "ali", "alice-2", "bob--alice", "alice-b--2"])
def test_a_subject_owns_no_other_name(name: str) -> None:
    registry = Registry()
    with pytest.raises(NameNotOwned, match="alice"):
        registry.register("alice", hello(name=name), Link(), NOW)
    assert registry.listing() == []


@pytest.mark.parametrize("instance", ["a1", None])
def test_a_newer_link_of_the_same_process_replaces_the_older(instance: str | None) -> None:
    """Agents that send no instance may be the same if they have a service in common."""
    registry, old, new = Registry(), Link(), Link()
    registry.register("alice", hello("foo", instance=instance), old, NOW)
    (displaced,) = registry.register("alice", hello("foo", "bar", instance=instance), new, NOW + 1)[1]
    assert (displaced.before.link, displaced.remaining, displaced.again) == (old, None, True)
    assert registry.lookup("alice", "bar").upstream is new
    assert registry.unregister(old) is None, "the old link's end does not take the new one offline"
    assert registry.unregister(new) is not None
    assert registry.listing() == []


@pytest.mark.parametrize("first", ["a1", None])
@pytest.mark.parametrize("second", ["b2", None])
def test_processes_share_a_name_as_long_as_their_services_differ(
    first: str | None, second: str | None
) -> None:
    registry, one, two = Registry(), Link(), Link()
    registry.register("alice", hello("foo", instance=first), one, NOW)
    registration, displaced = registry.register("alice", hello("bar", instance=second), two, NOW + 1)
    assert displaced == []
    assert [each.link for each in registry.others(registration)] == [one]
    assert registry.lookup("alice", "foo").upstream is one
    assert registry.lookup("alice", "bar").upstream is two
    assert [(each["name"], each["since"][-3:]) for each in registry.listing()] == [  # type: ignore[index]
        ("alice", "20Z"), ("alice", "21Z")
    ]  # fmt: skip
    registry.unregister(one)
    with pytest.raises(ServiceNotServed, match="serves bar, not 'foo'"):
        registry.lookup("alice", "foo")
    assert registry.lookup("alice", "bar").upstream is two


@pytest.mark.parametrize(("first", "second"), [("a1", "b2"), ("a1", None), (None, "b2")])
def test_a_service_of_another_process_is_refused_with_its_holder_and_since_when(
    first: str | None, second: str | None
) -> None:
    registry, old = Registry(), Link()
    registry.register("alice", hello("foo", "bar", instance=first), old, NOW)
    words = r"serves 'foo' already: another devroute up of 'alice' \(version 1\) since 2023-11-14T22:13:20Z"
    with pytest.raises(NameTaken, match=words) as caught:
        registry.register("alice", hello("foo", "baz", instance=second), Link(), NOW)
    assert "--takeover" in caught.value.hint
    assert registry.lookup("alice", "foo").upstream is old


@pytest.mark.parametrize(
    ("first", "offered", "kept"),
    [
        ("a1", ["foo"], ["bar"]),
        ("a1", ["foo", "bar", "baz"], []),
        (None, ["foo"], []),  # an agent that takes no notice: its link ends
    ],
)
def test_with_takeover_the_other_process_keeps_the_rest(
    first: str | None, offered: list[str], kept: list[str]
) -> None:
    registry, old, new = Registry(), Link(), Link()
    registry.register("alice", hello("foo", "bar", instance=first), old, NOW)
    before = registry.lookup("alice", "bar")
    (displaced,) = registry.register("alice", hello(*offered, instance="b2", takeover=True), new, NOW)[1]
    assert not displaced.again
    remaining = displaced.remaining
    assert ([] if remaining is None else list(remaining.services)) == kept
    assert registry.registration_of(old) is remaining
    for service in offered:
        assert registry.lookup("alice", service).upstream is new
    for service in kept:
        assert registry.lookup("alice", service) is before, "the same object as before"
    registry.unregister(old)
    registry.unregister(new)
    assert registry.listing() == []


def test_another_subject_s_services_are_never_taken_over() -> None:
    registry = Registry()
    registry.register("ann-lee", hello("foo"), Link(), NOW)
    with pytest.raises(NameNotOwned):
        registry.register("ann", hello("bar", name="ann-lee", takeover=True), Link(), NOW)


def test_a_name_as_it_was_written_before_is_refused_with_the_new_one() -> None:
    with pytest.raises(NameNotOwned) as refused:
        Registry().register("alice", hello(name="alice-ci"), Link(), NOW)
    assert refused.value.hint == "the separator is '--' now: --name alice--ci"


def test_a_subject_has_a_limit_of_laptops_to_which_a_reconnect_does_not_count() -> None:
    registry = Registry()
    registry.max_links = 2
    registry.register("alice", hello(name="alice--1"), Link(), NOW)
    registry.register("alice", hello(name="alice--2"), Link(), NOW)
    with pytest.raises(TooManyLinks):
        registry.register("alice", hello(name="alice--3"), Link(), NOW)
    registry.register("alice", hello(name="alice--2"), Link(), NOW)
    registry.register("bob", hello(), Link(), NOW)


def test_an_unknown_laptop_and_an_unknown_service_are_different_errors() -> None:
    registry = Registry()
    with pytest.raises(LaptopOffline, match="'alice' is not online"):
        registry.lookup("alice", "foo")
    registry.register("alice", hello("foo", "bar"), Link(), NOW)
    with pytest.raises(ServiceNotServed, match="serves bar, foo, not 'baz'"):
        registry.lookup("alice", "baz")


@pytest.mark.parametrize(
    ("offered", "contract", "found"),
    [
        (("foo",), "foo", "foo"),
        (("foo",), "foo.shop", "foo"),
        (("foo.shop",), "foo.shop", "foo.shop"),
        (("foo.shop",), "foo", None),
        (("foo.shop",), "foo.qa", None),
        (("foo", "foo.shop"), "foo.shop", "foo.shop"),
        (("foo", "foo.shop"), "foo.qa", "foo"),
    ],
)
def test_an_offer_for_a_namespace_is_found_by_what_a_contract_names(
    offered: tuple[str, ...], contract: str, found: str | None
) -> None:
    registry, link = Registry(), Link()
    registration, _ = registry.register("alice", hello(*offered), link, NOW)
    if found is None:
        with pytest.raises(ServiceNotServed, match=r"serves foo\.shop, not"):
            registry.lookup("alice", contract)
    else:
        assert registry.lookup("alice", contract) is registration.services[found]


def test_the_listing_names_each_laptops_services_and_how_they_are_reached() -> None:
    registry = Registry()
    registry.register("bob", hello("foo"), Link(), NOW)
    offer = Offer(service="bar", scheme="grpc", direct=Address("10.0.0.1", 9000))
    registry.register("alice", Hello(agent="0.1.0", services=(offer,)), Link(), NOW)
    assert registry.listing() == [
        {
            "name": "alice",
            "subject": "alice",
            "since": "2023-11-14T22:13:20Z",
            "agent": "0.1.0",
            "services": [
                {"service": "bar", "scheme": "grpc", "via": "direct", "address": "10.0.0.1:9000", "terms": {}}
            ],
            "links": 1,
        },
        {
            "name": "bob",
            "subject": "bob",
            "since": "2023-11-14T22:13:20Z",
            "agent": "1",
            "services": [{"service": "foo", "scheme": "http", "via": "tunnel", "address": None, "terms": {}}],
            "links": 1,
        },
    ]
