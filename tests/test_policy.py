import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from devroute.contract import parse
from devroute.errors import ConfigInvalid, TargetDenied
from devroute.policy import Policy

OFFICE = Policy.parse("direct: {networks: [192.168.0.0/16, 'fd00::/16', 100.64.0.0/10]}")
EVERYTHING = Policy.parse("direct: {networks: [0.0.0.0/0, '::/0'], ports: [1-65535]}")


def allows(policy: Policy, ip: str, port: int = 8001) -> bool:
    try:
        policy.permit_address(ip, port, service="foo")
    except TargetDenied as denied:
        return not denied.hint
    return True


def denial(policy: Policy, contract: str) -> TargetDenied:
    entry = next(iter(parse(contract).entries.values()))
    with pytest.raises(TargetDenied) as caught:
        policy.permit(entry)
    return caught.value


def test_without_a_file_every_address_is_denied_and_every_laptop_permitted() -> None:
    policy = Policy.parse("")
    assert "in none of the listed networks" in denial(policy, '{"foo": "192.168.1.12:8001"}').message
    assert "no networks are listed" in denial(policy, '{"foo": "host.example:8001"}').message
    policy.permit(parse('{"foo": "alice"}').entries["foo"])


def test_listed_networks_are_permitted_and_others_are_not() -> None:
    assert allows(OFFICE, "192.168.1.12")
    assert allows(OFFICE, "fd00::1")
    assert allows(OFFICE, "100.64.0.7")
    assert not allows(OFFICE, "8.8.8.8")
    assert not allows(OFFICE, "fd01::1")


def test_a_denial_names_the_rule_and_what_to_add() -> None:
    denied = denial(OFFICE, '{"foo": "8.8.8.8:8001"}')
    assert (
        denied.message == "service 'foo': target '8.8.8.8:8001': denied by policy:"
        " 8.8.8.8 is in none of the listed networks"
    )
    assert "8.8.8.8/32" in denied.hint
    assert (denied.status, denied.service, denied.target) == (403, "foo", "8.8.8.8:8001")
    assert "port 22 is not listed" in denial(OFFICE, '{"foo": "192.168.1.12:22"}').message
    assert "port 22 is not listed" in denial(OFFICE, '{"foo": "host.example:22"}').message


SPECIAL = [
    "127.0.0.1", "127.8.8.8", "0.0.0.0", "0.1.2.3", "169.254.1.1", "169.254.169.254", "100.100.100.200",
    "224.0.0.1", "255.255.255.255", "240.0.0.1", "::", "::1", "fe80::1", "fd00:ec2::254", "ff02::1",
    "168.63.129.16",
]  # fmt: skip
DISGUISED = [
    "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808",
    "64:ff9b:1::1", "2002:7f00:1::", "2002:808:808::1", "2001:0:7f00:1::1",
]  # fmt: skip
NOT_CANONICAL = [
    "0177.0.0.1", "0x7f.0.0.1", "0x7f000001", "2130706433", "127.1", "127.0.0.1.", "fe80::1%eth0", "",
    "localhost",
    "192.168.1.12\n", "[::1]",
]  # fmt: skip


@pytest.mark.parametrize("ip", SPECIAL + DISGUISED + NOT_CANONICAL)
def test_special_disguised_and_odd_addresses_are_denied_even_where_everything_is_listed(ip: str) -> None:
    assert not allows(EVERYTHING, ip)
    assert not allows(OFFICE, ip)


@pytest.mark.parametrize(
    ("listed", "ip"),
    [
        ("127.0.0.0/8", "127.0.0.1"),
        ("127.0.0.1/32", "127.0.0.1"),
        ("::1/128", "::1"),
        ("169.254.1.0/24", "169.254.1.1"),
        ("169.254.169.254/32", "169.254.169.254"),
        ("fe80::/10", "fe80::1"),
        ("127.0.0.0/8", "::ffff:127.0.0.1"),
    ],
)
def test_a_special_range_that_is_listed_by_itself_is_permitted(listed: str, ip: str) -> None:
    if listed == "169.254.169.254/32":
        assert not allows(Policy.parse("direct: {networks: [169.254.0.0/16]}"), ip)
    assert allows(Policy.from_mapping({"direct": {"networks": [listed]}}), ip)


def test_a_mapped_address_is_judged_as_the_ipv4_address_it_is() -> None:
    assert allows(OFFICE, "::ffff:192.168.1.12")
    assert not allows(OFFICE, "::ffff:8.8.8.8")
    assert not allows(Policy.parse("direct: {networks: ['::/0']}"), "::ffff:8.8.8.8")


def test_a_translated_address_needs_its_range_and_the_address_inside_it() -> None:
    nat64 = {"direct": {"networks": ["64:ff9b::/96", "192.168.0.0/16"]}}
    assert allows(Policy.from_mapping(nat64), "64:ff9b::c0a8:10c")
    assert not allows(Policy.from_mapping(nat64), "64:ff9b::7f00:1")


def test_services_are_permitted_by_name_and_pattern() -> None:
    policy = Policy.parse("services: [foo, team-*]")
    policy.permit(parse('{"team-a.shop": "alice"}').entries["team-a.shop"])
    denied = denial(policy, '{"bar": "alice"}')
    assert "service 'bar'" in denied.message
    assert "add 'bar' to services" in denied.hint


def test_ports_are_single_or_ranges() -> None:
    policy = Policy.parse("direct: {networks: [10.0.0.0/8], ports: [80, 8000-8999]}")
    permitted = [allows(policy, "10.0.0.1", port) for port in (80, 81, 8000, 8999, 9000)]
    assert permitted == [
        True,
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[", "not valid YAML"),
        ("- a", "write a mapping"),
        ("direkt: {}", "direkt: there is no such field"),
        ("direct: {networks: [10.0.0.1/8]}", "direct.networks.0: '10.0.0.1/8' has bits set"),
        ("direct: {networks: [ten]}", "direct.networks.0: 'ten' is not a network"),
        ("direct: {networks: ['::ffff:10.0.0.0/104']}", "list the IPv4 network"),
        ("direct: {networks: 10.0.0.0/8}", "direct.networks"),
        ("direct: {ports: [0]}", "direct.ports.0: '0' is not a port"),
        ("direct: {ports: [9-8]}", "direct.ports.0"),
        ("services: [Foo]", "services.0: 'Foo' is not a service's name"),
        ("services: null", "services"),
        ("!!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_wrong_policy_file_is_refused_naming_file_and_field(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Policy.parse(text, "p.yaml")
    assert caught.value.message.startswith("p.yaml: ")
    assert problem in caught.value.message


def test_each_reload_is_another_policy() -> None:
    assert Policy.parse("") != Policy.parse("")
    assert len({OFFICE, EVERYTHING, OFFICE}) == 2


@given(st.ip_addresses(v=4))
@settings(max_examples=50)
def test_no_disguise_of_an_ipv4_address_is_permitted_where_the_address_itself_is_not(ip: object) -> None:
    number = int(ip)  # type: ignore[call-overload]
    disguises = [f"::ffff:{ip}", f"::{ip}", f"64:ff9b::{ip}", f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1"]
    if not allows(EVERYTHING, str(ip)):
        assert not any(allows(EVERYTHING, disguise) for disguise in disguises)
