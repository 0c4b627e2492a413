"""Special addresses, and unusual spellings of addresses: a table of targets with the policy's decisions.

All networks are listed (0.0.0.0/0 and ::/0), so that an address is denied only because it is special.
"""

import pytest

from devroute.contract.grammar import parse
from devroute.contract.target import Malformed, parse_address
from devroute.errors import ContractInvalid, TargetDenied
from devroute.policy.policy import Policy

EVERYTHING = Policy.parse(
    """
    direct: {networks: [0.0.0.0/0, '::/0'], ports: [1-65535]}
    cluster: {pods: [10.244.0.0/16, 'fd00:10:244::/56'], services: [10.96.0.0/12]}
    """
)


#: That lists also all ranges in which an IPv6 address stands for an IPv4 address.
WITH_TRANSLATED = Policy.from_mapping(
    {
        "direct": {
            "networks": [
                "0.0.0.0/0",
                "::/0",
                "::/96",
                "::ffff:0:0:0/96",
                "64:ff9b::/96",
                "2002::/16",
                "2001::/32",
            ],
            "ports": ["1-65535"],
        }
    }
)


def decision(target: str, policy: Policy = EVERYTHING) -> str:
    """`allow`, or the code and the message of the error."""
    try:
        (entry,) = parse(f'{{"foo": "{target}"}}').entries.values()
        policy.permit(entry)
    except (ContractInvalid, TargetDenied) as error:
        return f"{error.code}: {error.message}"
    return "allow"


SPECIAL = {
    "127.0.0.1:80": "loopback",
    "127.255.255.254:80": "loopback",
    "0.0.0.0:80": "unspecified",
    "0.1.2.3:80": "unspecified",
    "169.254.1.1:80": "link-local",
    "169.254.169.254:80": "link-local",
    "100.100.100.200:80": "cloud metadata",
    "168.63.129.16:80": "cloud metadata",
    "192.0.0.192:80": "cloud metadata",
    "224.0.0.1:80": "multicast",
    "239.255.255.250:80": "multicast",
    "240.0.0.1:80": "reserved",
    "255.255.255.255:80": "reserved",
    "10.244.3.4:80": "cluster's pod",
    "10.96.0.1:443": "cluster's service",
    "10.111.255.255:443": "cluster's service",
    "[::]:80": "IPv4-compatible",
    "[::1]:80": "IPv4-compatible",
    "[0:0:0:0:0:0:0:1]:80": "IPv4-compatible",
    "[fe80::1]:80": "link-local",
    "[fec0::1]:80": "site-local",
    "[ff02::1]:80": "multicast",
    "[fd00:ec2::254]:80": "cloud metadata",
    "[fd20:ce::254]:80": "cloud metadata",
    "[fd00:10:244::1]:80": "cluster's pod",
}

#: The IPv4 address in hexadecimal: 7f00:1 is 127.0.0.1, a9fe:a9fe is 169.254.169.254, af4:304 is 10.244.3.4.
EMBEDDED = {
    "[::ffff:127.0.0.1]:80": "127.0.0.1 is in the loopback",
    "[::ffff:7f00:1]:80": "127.0.0.1 is in the loopback",
    "[::FFFF:169.254.169.254]:80": "169.254.169.254 is in the link-local",
    "[0:0:0:0:0:ffff:a9fe:a9fe]:80": "169.254.169.254 is in the link-local",
    "[::ffff:10.244.3.4]:80": "10.244.3.4 is in the cluster's pod",
    "[::ffff:0.0.0.0]:80": "0.0.0.0 is in the unspecified",
    "[::127.0.0.1]:80": "IPv4-compatible",
    "[::a9fe:a9fe]:80": "IPv4-compatible",
    "[::ffff:0:127.0.0.1]:80": "IPv4-translated",
    "[64:ff9b::127.0.0.1]:80": "NAT64",
    "[64:ff9b::8.8.8.8]:80": "NAT64",
    "[64:ff9b:1::7f00:1]:80": "local NAT64",
    "[2002:7f00:1::]:80": "6to4",
    "[2002:808:808::1]:80": "6to4",
    "[2001:0:7f00:1::1]:80": "Teredo",
    "[2600::5efe:127.0.0.1]:80": "127.0.0.1 is in the loopback",  # ISATAP
    "[2600::200:5efe:a9fe:a9fe]:80": "169.254.169.254 is in the link-local",
}

NOT_AN_ADDRESS = {
    "0177.0.0.1:80": "not an IPv4 address in its usual form",  # octal
    "127.0.0.01:80": "not an IPv4 address in its usual form",
    "0x7f.0.0.1:80": "not an IPv4 address in its usual form",  # hex
    "0x7F000001:80": "not an IPv4 address in its usual form",
    "127.0.0.0x1:80": "not an IPv4 address in its usual form",
    "127.0.0.0x:80": "not an IPv4 address in its usual form",  # inet_aton takes it for 0
    "2130706433:80": "not an IPv4 address in its usual form",  # one number
    "017700000001:80": "not an IPv4 address in its usual form",
    "127.1:80": "not an IPv4 address in its usual form",  # short
    "127.0.1:80": "not an IPv4 address in its usual form",
    "0:80": "not an IPv4 address in its usual form",
    "1.1.1.1.1:80": "not an IPv4 address in its usual form",
    "256.0.0.1:80": "not an IPv4 address in its usual form",
    "4294967297:80": "not an IPv4 address in its usual form",  # overflows to 0.0.0.1
    "127.0.0.1.:80": "the host ends with a dot",
    "localhost.:80": "the host ends with a dot",
    "localhost..:80": "the host ends with a dot",
    "127..0.1:80": "not an IPv4 address in its usual form",
    ".127.0.0.1:80": "not an IPv4 address in its usual form",
    "a..example:80": "neither an IP address nor a host name",
    "[fe80::1%eth0]:80": "not an IPv6 address",
    "[fe80::1%25eth0]:80": "not an IPv6 address",
    "[::1%1]:80": "not an IPv6 address",
    "[127.0.0.1]:80": "not an IPv6 address",
    "[::127.1]:80": "not an IPv6 address",
    "[::ffff:0177.0.0.1]:80": "not an IPv6 address",
    "[0:0:0:0:0:0:0:0:1]:80": "not an IPv6 address",
    "[::1::]:80": "not an IPv6 address",
    "[v1.fe80::a]:80": "not an IPv6 address",  # RFC 3986 IPvFuture
    "[::1]80": "a port is missing",
    "[[::1]]:80": "not an IPv6 address",
    "::1:80": "an IPv6 address needs brackets",
    "user@10.0.0.1:80": "not an IPv4 address in its usual form",
    "user:secret@10.0.0.1:80": "an IPv6 address needs brackets",
    "10.0.0.1:80@127.0.0.1": "is not a number from 1 to 65535",
    "10.0.0.1:80#@127.0.0.1:80": "an IPv6 address needs brackets",
    "10.0.0.1\\\\@127.0.0.1:80": "not an IPv4 address in its usual form",
    "10.0.0.1%2e127:80": "neither an IP address nor a host name",
    "127%2e0.0.1:80": "not an IPv4 address in its usual form",
    "10.0.0.1 :80": "neither an IP address nor a host name",
    "10.0.0.1\\t:80": "neither an IP address nor a host name",
    "10.0.0.1\\u0000.example:80": "neither an IP address nor a host name",
    "10.0.0.1:80/..": "an address has no path",
    "http://127.0.0.1:80": "a target has no scheme",
    "10.0.0.1:0": "is not a number from 1 to 65535",
    "10.0.0.1:65536": "is not a number from 1 to 65535",
    "10.0.0.1:65616": "is not a number from 1 to 65535",  # 80 in 16 bits
    "10.0.0.1:4294967376": "is not a number from 1 to 65535",  # 80 in 32 bits
    "10.0.0.1:080": "is not a number from 1 to 65535",
    "10.0.0.1:+80": "is not a number from 1 to 65535",
    "10.0.0.1:-1": "is not a number from 1 to 65535",
    "10.0.0.1:0x50": "is not a number from 1 to 65535",
    "10.0.0.1:8_0": "is not a number from 1 to 65535",
    "10.0.0.1:80 ": "there is white space around it",
    "10.0.0.1:": "a port is missing",
    "10.0.0.1": "a port is missing",
    "bücher.example:80": "not ASCII",  # IDN
    "\\u0431\\u0430\\u043d\\u043a.example:80": "not ASCII",
    "\\u216aocalhost:80": "not ASCII",
    "\\uff11\\uff12\\uff17.0.0.1:80": "not ASCII",  # full-width digits
    "127\\u30020.0.1:80": "not ASCII",  # the ideographic full stop
    "\\u24b6.example:80": "not ASCII",
    "\\u212aube.example:80": "not ASCII",  # the Kelvin sign, whose lower case is k
    "10.0.0.1:\\u0668\\u0660": "not a number from 1 to 65535",  # Arabic digits
}

PLAIN = [
    "10.0.0.1:80", "192.168.1.12:8001", "8.8.8.8:53", "[2600::1]:80", "[::ffff:8.8.8.8]:80",
    "10.95.255.255:80", "[fd00::1]:80", "laptop.example:80", "xn--bcher-kva.example:80", "LAPTOP.Example:80",
    "1e3.example:80", "localhost:80",
]  # fmt: skip


@pytest.mark.parametrize("target", SPECIAL)
def test_special_ranges_are_denied_unless_listed_themselves(target: str) -> None:
    message = decision(target)
    assert message.startswith("target-denied: ")
    assert f"is in the {SPECIAL[target]} range" in message


@pytest.mark.parametrize("target", EMBEDDED)
def test_an_ipv4_address_inside_an_ipv6_address_is_checked(target: str) -> None:
    message = decision(target)
    assert message.startswith("target-denied: ")
    assert EMBEDDED[target] in message


@pytest.mark.parametrize(
    "target",
    [
        *("[::127.0.0.1]:80", "[::ffff:0:127.0.0.1]:80", "[64:ff9b::127.0.0.1]:80", "[2002:7f00:1::]:80"),
        "[2001:0:7f00:1::f7f7:f7f7]:80",  # the Teredo server; the client is 8.8.8.8
        "[2001:0:808:808::80ff:fffe]:80",  # the Teredo client, complemented; the server is 8.8.8.8
    ],
)
def test_it_is_checked_even_if_its_range_is_listed(target: str) -> None:
    assert "127.0.0.1 is in the loopback range" in decision(target, WITH_TRANSLATED)


@pytest.mark.parametrize(
    "target",
    [
        *("[::8.8.8.8]:80", "[::ffff:0:8.8.8.8]:80", "[64:ff9b::8.8.8.8]:80", "[2002:808:808::]:80"),
        "[2001:0:808:808::f7f7:f7f7]:80",
    ],
)
def test_an_address_in_a_listed_range_is_permitted_if_that_inside_it_is(target: str) -> None:
    assert decision(target, WITH_TRANSLATED) == "allow"


@pytest.mark.parametrize("target", NOT_AN_ADDRESS)
def test_forms_that_only_inet_aton_reads_as_an_address_are_refused(target: str) -> None:
    message = decision(target)
    assert message.startswith("contract-invalid: ")
    assert NOT_AN_ADDRESS[target] in message


@pytest.mark.parametrize("target", PLAIN)
def test_addresses_and_names_in_their_usual_form_are_permitted(target: str) -> None:
    """A name is permitted until its addresses are known (test_dns_rebinding.py)."""
    assert decision(target) == "allow"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("\u212aube.example:80", "is not ASCII"),
        ("b\u00fccher.example:80", "is not ASCII"),
        ("\uff11.0.0.1:80", "is not ASCII"),
        ("a:\u0668", "is not a number"),
    ],
)
def test_addresses_from_elsewhere_must_be_ascii_too(text: str, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        parse_address(text)


@pytest.mark.parametrize(
    ("resolved", "reason"),
    [
        ("127.0.0.1", "in the loopback range"),
        ("::1", "in the IPv4-compatible range"),
        ("::ffff:127.0.0.1", "127.0.0.1 is in the loopback range"),
        ("169.254.169.254", "in the link-local range"),
        ("fe80::1%eth0", "not an IP address in its usual form"),
        ("fe80::1", "in the link-local range"),
        ("10.96.0.1", "in the cluster's service range"),
        ("64:ff9b::7f00:1", "in the NAT64 range"),
        ("2002:7f00:1::", "in the 6to4 range"),
        ("0.0.0.0", "in the unspecified range"),
        ("0177.0.0.1", "not an IP address in its usual form"),
        ("127.1", "not an IP address in its usual form"),
        ("2130706433", "not an IP address in its usual form"),
        ("::ffff:10.96.0.1", "10.96.0.1 is in the cluster's service range"),
        ("", "not an IP address in its usual form"),
    ],
)
def test_the_addresses_of_a_name_are_checked_in_the_same_way(resolved: str, reason: str) -> None:
    with pytest.raises(TargetDenied, match=reason):
        EVERYTHING.permit_address(resolved, 80, service="foo")
