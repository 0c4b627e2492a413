from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.destination import parse_destination
from devroute.contract.grammar import parse
from devroute.errors import (
    CallerDenied,
    ConfigInvalid,
    ReachDenied,
    RegistrationDenied,
    ShadowDenied,
    TargetDenied,
)
from devroute.policy.explain import explain, remarks
from devroute.policy.policy import Policy
from tests.support.examples import examples

OFFICE = Policy.parse("direct: {networks: [192.168.0.0/16, 'fd00::/16', 100.64.0.0/10]}")
EVERYTHING = Policy.parse("direct: {networks: [0.0.0.0/0, '::/0'], ports: [1-65535]}")


def allows(policy: Policy, ip: str, port: int = 8001, service: str = "foo") -> bool:
    """A denial says what to add to the policy."""
    hint = None
    try:
        policy.permit_address(ip, port, service=service)
    except TargetDenied as denied:
        hint = denied.hint
    assert hint != ""
    return hint is None


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
def test_special_and_disguised_addresses_are_denied_even_if_all_networks_are_listed(ip: str) -> None:
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
def test_a_special_range_is_permitted_if_it_is_listed_by_itself(listed: str, ip: str) -> None:
    if listed == "169.254.169.254/32":
        assert not allows(Policy.parse("direct: {networks: [169.254.0.0/16]}"), ip)
    assert allows(Policy.from_mapping({"direct": {"networks": [listed]}}), ip)


def test_an_ipv4_mapped_address_is_judged_as_that_ipv4_address() -> None:
    assert allows(OFFICE, "::ffff:192.168.1.12")
    assert not allows(OFFICE, "::ffff:8.8.8.8")
    assert not allows(Policy.parse("direct: {networks: ['::/0']}"), "::ffff:8.8.8.8")


#: Ranges of IPv6 addresses that stand for IPv4 addresses, and the forms in which these stand inside: each is
#: formatted with the two halves of the IPv4 address and, for Teredo, with the halves' complements.
FORMS = [
    ("::/96", "::{0}:{1}"),
    ("64:ff9b::/96", "64:ff9b::{0}:{1}"),
    ("::ffff:0:0:0/96", "::ffff:0:{0}:{1}"),
    ("2002::/16", "2002:{0}:{1}::1"),
    ("2001::/32", "2001:0:{0}:{1}:0:0:3f57:fef3"),  # the server's address; the client is 192.168.1.12
    ("2001::/32", "2001:0:c0a8:10c:0:0:{2}:{3}"),  # the client's address; the server is 192.168.1.12
    ("2600::/16", "2600::5efe:{0}:{1}"),  # ISATAP
    ("2600::/16", "2600::200:5efe:{0}:{1}"),
]


def embedded(form: str, ip: str) -> str:
    number = int(ip_address(ip))
    halves = number >> 16, number & 0xFFFF
    return form.format(*(f"{half:x}" for half in (*halves, *(half ^ 0xFFFF for half in halves))))


@pytest.mark.parametrize(("outer", "form"), FORMS)
def test_a_translated_address_needs_its_range_and_the_address_inside_it(outer: str, form: str) -> None:
    policy = Policy.from_mapping({"direct": {"networks": [outer, "192.168.0.0/16"]}})
    assert allows(policy, embedded(form, "192.168.1.12"))
    for ip in ("127.0.0.1", "8.8.8.8", "169.254.169.254"):
        assert not allows(policy, embedded(form, ip)), ip
    assert not allows(OFFICE, embedded(form, "192.168.1.12")), "its range is not listed"


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
def test_an_invalid_policy_file_is_refused_naming_file_and_field(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Policy.parse(text, "p.yaml")
    assert caught.value.message.startswith(("p.yaml: ", "p.yaml:1: "))
    assert problem in caught.value.message


def test_policies_are_compared_by_identity() -> None:
    assert Policy.parse("") != Policy.parse("")
    assert len({OFFICE, EVERYTHING, OFFICE}) == 2


@given(st.ip_addresses(v=4))
@examples(50)
def test_no_ipv6_form_of_a_denied_ipv4_address_is_permitted(ip: object) -> None:
    number = int(ip)  # type: ignore[call-overload]
    disguises = [f"{prefix}{ip}" for prefix in ("::ffff:", "::", "64:ff9b::", "::ffff:0:", "2600::5efe:")]
    disguises.append(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1")
    if not allows(EVERYTHING, str(ip)):
        assert not any(allows(EVERYTHING, disguise) for disguise in disguises)


# --- service rules ------------------------------------------------------------------------------------------


def test_a_rule_adds_addresses_for_its_services_and_takes_none_away() -> None:
    policy = Policy.parse(
        """
        direct:
          networks: [192.168.0.0/16]
          rules:
          - {services: [pay-*], networks: [10.8.4.0/24], ports: [8443]}
        """
    )
    for service, ip, port, permitted in [
        ("pay-in", "10.8.4.1", 8443, True),
        ("pay-in.shop", "10.8.4.1", 8443, True),
        ("pay-in", "10.8.4.1", 8001, False),  # that port is for the other networks
        ("pay-in", "192.168.1.1", 8001, True),
        ("pay-in", "192.168.1.1", 443, False),
        ("web", "10.8.4.1", 8443, False),
    ]:
        assert allows(policy, ip, port, service) is permitted, (service, ip, port)
    with pytest.raises(TargetDenied, match="port 8001 is not listed") as caught:
        policy.permit_address("10.8.4.1", 8001, service="pay-in")
    assert "direct.rules.0.ports" in caught.value.hint


def test_the_clusters_own_ranges_are_denied_unless_a_network_inside_them_is_listed() -> None:
    text = "direct: {networks: [10.0.0.0/8, %s]}\ncluster: {pods: [10.244.0.0/16], services: [10.96.0.0/12]}"
    policy = Policy.parse(text % "192.168.0.0/16")
    assert allows(policy, "10.8.0.1")
    with pytest.raises(TargetDenied, match=r"is in the cluster's service range 10\.96\.0\.0/12"):
        policy.permit_address("10.96.0.10", 8001, service="foo")
    assert not allows(policy, "10.244.3.4")
    assert not allows(policy, "::ffff:10.244.3.4")
    assert allows(Policy.parse(text % "10.244.3.4/32"), "10.244.3.4")
    assert not allows(Policy.parse(text % "10.244.3.4/32"), "10.244.3.5")


# --- registrations ------------------------------------------------------------------------------------------

NONE: frozenset[str] = frozenset()


def registers(policy: Policy, subject: str, service: str, *groups: str) -> bool:
    """A denial says what to add to the policy."""
    hint = None
    try:
        policy.permit_registration(subject, frozenset(groups), service)
    except RegistrationDenied as denied:
        hint = denied.hint
    assert hint != ""
    return hint is None


def test_without_register_every_subject_may_register_what_may_be_detoured() -> None:
    policy = Policy.parse("services: [foo]")
    assert registers(policy, "alice", "foo")
    assert not registers(policy, "alice", "bar")


def test_register_rules_apply_by_subject_or_group() -> None:
    policy = Policy.parse(
        """
        services: [foo, bar, pay-*]
        register:
        - {subjects: [alice, ci-*], services: [foo, other]}
        - {groups: [payments], services: [pay-*]}
        """
    )
    assert registers(policy, "alice", "foo")
    assert registers(policy, "ci-7", "foo")
    assert registers(policy, "bob", "pay-in", "payments", "others")
    assert not registers(policy, "alice", "bar")
    assert not registers(policy, "alice", "other"), "services is the frame of all rules"
    assert not registers(policy, "alice", "pay-in")
    assert not registers(policy, "bob", "pay-in")
    assert not registers(policy, "bob", "pay-in", "Payments", "payments-x")
    assert not registers(Policy.parse("register: []"), "alice", "foo")
    assert policy.may_register("alice", frozenset({"payments"})) == ("foo", "other", "pay-*")


def test_a_refused_registration_names_the_permitted_services_and_the_missing_rule() -> None:
    policy = Policy.parse("register: [{subjects: [alice], services: [foo]}]")
    with pytest.raises(RegistrationDenied) as caught:
        policy.permit_registration("alice", NONE, "bar")
    assert (caught.value.code, caught.value.status) == ("not-permitted", 403)
    assert caught.value.message == (
        "'alice' may not register service 'bar': denied by policy: 'alice' may register foo, not 'bar'"
    )
    assert "a rule to register with 'alice' or one of its groups, and 'bar'" in caught.value.hint
    with pytest.raises(RegistrationDenied, match="'bob' may register nothing, not 'foo'"):
        policy.permit_registration("bob", NONE, "foo")


# --- callers ------------------------------------------------------------------------------------------------

QA, WEB = "spiffe://cluster.local/ns/qa/sa/runner", "spiffe://cluster.local/ns/shop/sa/web"


MAPPED = "[::ffff:192.168.1.12]:8001"
TARGETS = {"alice", "alice-2", "192.168.1.12:8001", MAPPED, "a.example:8001", "version:v2"}


def may_call(policy: Policy, caller: str, target: str, service: str = "foo") -> bool:
    entry = parse(f'{{"{service}": "{target}"}}').entries[service]
    try:
        policy.permit(entry)
        policy.permit_caller(entry, caller)
    except CallerDenied:
        return False
    return True


def test_without_callers_all_are_permitted_and_an_empty_list_permits_none() -> None:
    assert may_call(Policy(), "", "alice")
    assert not may_call(Policy.parse("callers: []"), QA, "alice")


@pytest.mark.parametrize(
    ("pattern", "permitted"),
    [
        ("*", {QA, WEB, "", "spiffe://other/ns/qa/sa/runner", "spiffe://odd/path"}),
        ("qa/runner", {QA, "spiffe://other/ns/qa/sa/runner"}),
        ("qa/*", {QA, "spiffe://other/ns/qa/sa/runner"}),
        ("*/*", {QA, WEB, "spiffe://other/ns/qa/sa/runner"}),
        (QA, {QA}),
        ("spiffe://cluster.local/ns/*/sa/runner", {QA}),
        ("spiffe://cluster.local/*", set()),
        ("spiffe://*/path", {"spiffe://odd/path"}),
    ],
)
def test_a_caller_pattern_matches_these_identities(pattern: str, permitted: set[str]) -> None:
    policy = Policy.from_mapping({"callers": [{"from": [pattern]}]})
    everybody = {QA, WEB, "", "spiffe://other/ns/qa/sa/runner", "spiffe://odd/path"}
    nearly = {QA + "/x", "x" + QA, QA.upper(), QA.replace("sa/", ""), QA.replace("qa", "q/a")}
    found = {caller for caller in everybody | nearly if may_call(policy, caller, "alice")}
    assert found == permitted | (nearly if pattern == "*" else set())


@pytest.mark.parametrize(
    ("pattern", "permitted"),
    [
        ("*", TARGETS),
        ("alice", {"alice"}),
        ("a*", {"alice", "alice-2"}),
        ("192.168.0.0/16", {"192.168.1.12:8001", MAPPED}),
        ("192.168.1.12", {"192.168.1.12:8001", MAPPED}),
        ("::/0", set()),
        ("*.example", {"a.example:8001"}),
        ("version:v*", {"version:v2"}),
    ],
)  # fmt: skip
def test_a_target_pattern_matches_one_kind_of_target(pattern: str, permitted: set[str]) -> None:
    networks = {"networks": ["192.168.0.0/16", "10.0.0.0/8"]}
    policy = Policy.from_mapping({"direct": networks, "callers": [{"from": [QA], "targets": [pattern]}]})
    assert {target for target in TARGETS if may_call(policy, QA, target)} == permitted
    assert not any(may_call(policy, WEB, target) for target in TARGETS)


def test_a_callers_rule_applies_to_its_services_only() -> None:
    policy = Policy.from_mapping({"callers": [{"from": ["qa/*"], "services": ["foo"]}]})
    assert may_call(policy, QA, "alice", "foo")
    assert may_call(policy, QA, "alice", "foo.shop")
    assert not may_call(policy, QA, "alice", "bar")


# --- signatures and limits ----------------------------------------------------------------------------------


def test_signatures_and_limits_are_read() -> None:
    policy = Policy.parse("require: signed\nlimits: {links_per_subject: 3, in_flight_per_target: 7}")
    assert policy.require_signed
    assert (policy.limits.links_per_subject, policy.limits.in_flight_per_target) == (3, 7)
    assert not Policy().require_signed
    assert Policy().limits.streams_per_link is None


def test_administrators_are_subjects_by_pattern_and_groups_in_full() -> None:
    policy = Policy.parse("admins: {subjects: [dana, ops-*], groups: [platform]}")
    found = {
        who: policy.is_admin(who, frozenset(groups))
        for who, groups in [("dana", ()), ("ops-1", ()), ("eve", ("platform",)), ("mallory", ("platforms",))]
    }
    assert found == {"dana": True, "ops-1": True, "eve": True, "mallory": False}
    assert not Policy().is_admin("dana", frozenset({"platform"}))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("services: [a]\nservices: [b]", "p.yaml:2: 'services' appears twice"),
        ("direct:\n  networks: [10.0.0.0/8]\n  port: [1]", "p.yaml:3: direct.port: there is no such field"),
        ("a: 1", "direct, cluster, services, shadow, register, callers, reach, require, limits, admins"),
        ("register:\n- subjects: [a]\n- services: [b]", "p.yaml:3: register.1: the rule applies to no one"),
        ("register: [{subjects: [a], group: [b]}]", "the fields here are subjects, groups, services"),
        ("register: [{subjects: [A]}]", "register.0.subjects.0: 'A' is not a subject"),
        ("register: [{groups: ['a*']}]", "a group is written in full"),
        ("register: {subjects: [a]}", "register: write a list"),
        ("register: [a]", "register.0: write fields below it"),
        ("callers: [{services: [a]}]", "callers.0.from: it is missing"),
        ("callers: [{from: [web]}]", "callers.0.from.0: 'web' is not a mesh identity"),
        ("callers: [{from: ['a/b,c/d']}]", "is not a mesh identity"),
        ("callers: [{from: ['*****/a']}]", "more than 4 `*`"),
        ("callers: [{from: [a/b], targets: [10.0.0.1/8]}]", "callers.0.targets.0: '10.0.0.1/8' has bits set"),
        ("callers: [{from: [a/b], targets: ['10.*']}]", "not a target"),
        ("callers: [{from: [a/b], targets: ['alice:8001']}]", "is not a network"),
        ("require: tls", "require: Input should be 'signed'"),
        ("limits: {links_per_subject: 0}", "limits.links_per_subject"),
        ("direct: {rules: [{networks: [10.0.0.0/8]}]}", "direct.rules.0.services: it is missing"),
        ("cluster: {nodes: []}", "the fields here are pods, services"),
        ("? [a]\n: b", "p.yaml"),
        ("a: &a [*a]", "p.yaml"),
        ("a: 2024-99-99", "not valid YAML"),
        ("[" * 60_000, "nested too deeply"),
        ("a:\n" + "- " * 30_000, "p.yaml:2: nested too deeply"),
        ("#" * 70_000, "larger than 65536 characters"),
    ],
)  # fmt: skip
def test_an_error_names_its_line_and_the_known_fields(text: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Policy.parse(text, "p.yaml")
    assert problem in caught.value.message


WORDS = (
    "direct networks ports rules services cluster pods register subjects groups callers from targets require"
)
NAMES = st.sampled_from([*WORDS.split(), "signed", "limits", "links_per_subject"])
SCALARS = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(), st.dates(), st.binary(max_size=3)),
    st.text(max_size=5),
    st.sampled_from(["*", "foo", "10.0.0.0/8", "1-2", "a/b", "version:v2", "::1", "signed"]),
)
DOCUMENTS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(NAMES, inner, max_size=4),
        st.dictionaries(st.one_of(SCALARS, NAMES), inner, max_size=2),
    ),
    max_leaves=12,
)


@given(st.one_of(DOCUMENTS, st.dictionaries(NAMES, DOCUMENTS, max_size=4)))
@examples(150)
def test_any_document_is_a_policy_or_raises_the_documented_error(document: object) -> None:
    try:
        policy = Policy.from_mapping(document, "p.yaml")
    except ConfigInvalid:
        return
    explain(policy)
    remarks(policy)


@given(
    st.ip_addresses(),
    st.lists(
        st.sampled_from(["0.0.0.0/0", "::/0", "127.0.0.0/8", "10.0.0.0/8", "10.96.0.1/32", "64:ff9b::/96"])
    ),
    st.sampled_from(["0.0.0.0/0", "::/0", "fe80::/10", "169.254.169.254/32", "2002::/16", "10.96.0.0/16"]),
)
@examples(100)
def test_an_additional_network_denies_nothing(ip: object, networks: list[str], more: str) -> None:
    def policy(listed: list[str]) -> Policy:
        cluster = {"services": ["10.96.0.0/12"]}
        return Policy.from_mapping({"direct": {"networks": listed}, "cluster": cluster})

    for each in (str(ip), "10.96.0.1", "127.0.0.1", "10.1.1.1"):
        assert allows(policy([*networks, more]), each) or not allows(policy(networks), each)


def test_a_service_of_one_namespace_is_permitted_by_its_name() -> None:
    policy = Policy.from_mapping({"services": ["foo"], "shadow": ["foo"]})
    policy.permit_registration("alice", NONE, "foo.shop")
    policy.permit_shadow("foo.shop")
    with pytest.raises(RegistrationDenied):
        policy.permit_registration("alice", NONE, "bar.foo")
    with pytest.raises(ShadowDenied):
        policy.permit_shadow("bar.foo")


# --- what laptops reach -------------------------------------------------------------------------------------

REACH = Policy.parse("""
reach:
- {subjects: [alice, ci-*], services: [c, pay-*], namespaces: [shop], ports: [80, 8000-8999]}
- {groups: [dba], services: [orders-db], namespaces: ["*"], hosts: ["*.db.example.com"], protocols: [tcp]}
cluster: {pods: [10.244.0.0/16], services: [10.96.0.0/12]}
""")

#: Subject, groups, destination, and a part of the reason for which it is denied; "" where it is permitted.
REACHED = [
    ("alice", "", "c.shop:80", ""),
    ("ci-7", "", "pay-in.shop:8080", ""),
    ("bob", "dba", "tcp://orders-db.data:5432", ""),
    ("bob", "dba", "tcp://eu.db.example.com:5432", ""),
    ("bob", "", "c.shop:80", "no rule of reach is for 'bob'"),
    ("alice", "", "d.shop:80", "no rule of reach lists d.shop"),
    ("alice", "", "c.other:80", "no rule of reach lists c.other"),
    ("alice", "", "c:80", "no rule of reach lists c.default"),
    ("alice", "", "tcp://c.shop:80", "the rule lists http, not tcp"),
    ("alice", "", "c.shop:443", "port 443 is not listed"),
    ("bob", "dba", "eu.db.example.com:443", "the rule lists tcp, not http"),
    ("bob", "dba", "tcp://db.example.com:5432", "no rule of reach lists the host db.example.com"),
    ("alice", "", "c.shop.example:80", "no rule of reach lists the host c.shop.example"),
]


@pytest.mark.parametrize(("subject", "groups", "text", "reason"), REACHED)
def test_a_laptop_reaches_what_a_rule_lists_and_nothing_else(
    subject: str, groups: str, text: str, reason: str
) -> None:
    destination, members = parse_destination(text), frozenset(groups.split())
    if not reason:
        REACH.permit_reach(subject, members, destination)
        return
    with pytest.raises(ReachDenied) as caught:
        REACH.permit_reach(subject, members, destination)
    assert reason in caught.value.message
    rule = caught.value.hint.partition("to reach in the policy: ")[2]
    Policy.parse(f"reach: [{rule}]").permit_reach(subject, frozenset(), destination)


def test_without_a_section_no_laptop_reaches_anything() -> None:
    with pytest.raises(ReachDenied, match="no rule of reach is for 'alice'"):
        Policy.parse("").permit_reach("alice", frozenset(), parse_destination("c.shop:80"))


FORMS_OF_LOOPBACK = [embedded(form, "127.0.0.1") for _, form in FORMS]


@pytest.mark.parametrize("ip", [*SPECIAL, "fe80::1%eth0", *DISGUISED, *FORMS_OF_LOOPBACK])
def test_nothing_that_a_laptop_reaches_leads_to_a_special_range(ip: str) -> None:
    for text in ("tcp://orders-db.data:5432", "tcp://eu.db.example.com:5432"):
        with pytest.raises(ReachDenied, match="no laptop may reach that"):
            REACH.permit_reached_address(ip, parse_destination(text))


@pytest.mark.parametrize("ip", ["10.96.0.7", "10.244.3.4", "::ffff:10.96.0.7", "2600::5efe:10.244.3.4"])
def test_a_host_outside_leads_to_no_address_of_the_cluster_but_a_service_does(ip: str) -> None:
    REACH.permit_reached_address(ip, parse_destination("tcp://orders-db.data:5432"))
    with pytest.raises(ReachDenied, match="in the cluster's"):
        REACH.permit_reached_address(ip, parse_destination("tcp://eu.db.example.com:5432"))


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{namespaces: [shop]}", "reach.0: the rule applies to no one; add subjects or groups"),
        ("{subjects: [a]}", "reach.0: the rule permits nothing; add namespaces or hosts"),
        ("{subjects: [a], namespaces: [a.b]}", "'a.b' is not a namespace or a pattern"),
        ("{subjects: [a], hosts: [a]}", "'a' is not a host outside of the cluster"),
        ("{subjects: [a], hosts: [10.0.0.1]}", "'10.0.0.1' is not a host outside of the cluster"),
        ("{subjects: [a], namespaces: [b], protocols: [udp]}", "Input should be 'http' or 'tcp'"),
        ("{subjects: [a], namespaces: [b], ports: [0]}", "is not a port or a range"),
    ],
)
def test_a_malformed_rule_of_reach_is_refused_with_its_place(rule: str, problem: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        Policy.parse(f"reach: [{rule}]")
    assert problem in caught.value.message
