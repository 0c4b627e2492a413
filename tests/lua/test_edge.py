"""The edge filter's pure parts alone, under LuaJIT: addresses, texts and fields, against Python's own."""

import ipaddress
import json
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.name import parse_name
from devroute.errors import ConfigInvalid, ContractInvalid
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_filter, edge_source, front_source
from tests.lua.worker import Worker, runtime
from tests.support.examples import examples
from tests.support.paths import VECTORS

NAMED: dict[str, list[str]] = json.loads((VECTORS / "sidecar" / "named.json").read_text())
TESTED = (
    "is_contract",
    "in_networks",
    "percent_encode",
    "decode_strictly",
    "parameter_of",
    "looks_signed",
    "looks_named",
    "grants",
)
SOURCE = edge_source(EdgeSettings())
LUA, EDGE = runtime(f"{SOURCE}return {{ {', '.join(f'{name} = {name}' for name in TESTED)} }}")

V4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
V6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
ADDRESSES = st.one_of(V4, V6)


def listed(address: str, *networks: str) -> bool:
    found = EDGE.in_networks(address, LUA.table_from(networks))
    assert isinstance(found, bool)
    return found


def with_port(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    return f"[{address}]:80" if address.version == 6 else f"{address}:80"


# --- networks ----------------------------------------------------------------------------------------------


@examples(150)
@given(ADDRESSES, st.integers(0, 128), st.data())
def test_membership_of_networks_equals_pythons(address: Any, bits: int, data: st.DataObject) -> None:
    network = ipaddress.ip_network((address, min(bits, address.max_prefixlen)), strict=False)
    last = int(network.broadcast_address)
    inside = type(address)(data.draw(st.integers(int(network.network_address), last)))
    other = data.draw(ADDRESSES)
    assert listed(with_port(inside), str(network))
    mapped = getattr(other, "ipv4_mapped", None) or other
    assert listed(with_port(other), str(network)) == (mapped in network)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("[::ffff:10.1.2.3]:80", "10.0.0.0/8"),
        ("[::ffff:a01:203]:80", "10.0.0.0/8"),
        ("[fe80::1%eth0]:80", "fe80::/10"),
        ("[::1]:80", "::1/128"),
        ("10.0.0.1:80", "0.0.0.0/0"),
    ],
)
def test_addresses_in_other_spellings(address: str, network: str) -> None:
    assert listed(address, "192.0.2.0/24", network)


@pytest.mark.parametrize(
    "address",
    [
        *("", "10.0.0.1", "10.0.0:80", "10.0.0.256:80", "10.0.0.1.1:80", "10.0.0.x:80", "0x0a.0.0.1:80"),
        *("[::1", "[::1::]:80", "[1:2:3:4:5:6:7]:80", "[12345::]:80", "[g::]:80", "[]:80", "@internal"),
    ],
)
def test_what_is_not_an_address_is_in_no_network(address: str) -> None:
    assert not listed(address, "10.0.0.0/8", "::/128", "1::/16")


@pytest.mark.parametrize("network", ["10.0.0.0/33", "10.0.0.0", "x/8", "10.0.0.0/x", "::/129", ""])
def test_what_is_not_a_network_contains_no_address(network: str) -> None:
    assert not listed("10.0.0.1:80", network)
    assert not listed("[::1]:80", network)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMED["valid"])
def test_the_gateway_knows_each_name_of_a_saved_contract(name: str) -> None:
    assert EDGE.looks_named(name)
    assert EDGE.is_contract(name)
    assert parse_name(name) == name[1:]


@pytest.mark.parametrize("name", NAMED["invalid"])
def test_the_gateway_takes_nothing_else_for_a_name(name: str) -> None:
    assert not EDGE.looks_named(name)
    assert not EDGE.is_contract(name)
    with pytest.raises(ContractInvalid):
        parse_name(name)


# --- texts -------------------------------------------------------------------------------------------------


@given(st.text(st.characters(max_codepoint=255)))
def test_what_is_escaped_is_safe_anywhere_and_comes_back(text: str) -> None:
    escaped = EDGE.percent_encode(text)
    assert escaped == quote(text, safe="", encoding="latin-1")
    assert EDGE.decode_strictly(escaped) == text


@given(st.text("%0aAgf~z", max_size=12))
def test_bare_percent_signs_are_refused(text: str) -> None:
    decoded = EDGE.decode_strictly(text)
    broken = any(not _is_hex(part[:2]) for part in text.split("%")[1:])
    assert decoded == (None if broken else unquote(text, encoding="latin-1"))


def _is_hex(digits: str) -> bool:
    return len(digits) == 2 and set(digits) <= set("0123456789abcdefABCDEF")


@given(
    st.lists(st.sampled_from(["a=1", "devroute=x", "b", "", "xdevroute=y", "devroute", "c=?"]), max_size=6)
)
def test_other_parameters_stay_byte_for_byte(parts: list[str]) -> None:
    values, rest = EDGE.parameter_of("/p?" + "&".join(parts), "devroute")
    ours = [part for part in parts if part.startswith("devroute=")]
    kept = "&".join(part for part in parts if not part.startswith("devroute="))
    assert list(values.values()) == ["x"] * len(ours)
    if ours:
        assert rest == "/p" + ("?" + kept if kept else "")


@pytest.mark.parametrize(
    ("text", "signed"),
    [
        ("eyJhIjoxfQ.e30.c2ln", True),
        ("eyJhIjoxfQ.e30.", False),
        ("eyJhIjoxfQ.e30", False),
        ("eyJhIjoxfQ.e30.c2ln.x", False),
        ("eyJhIjoxfQ.e30.c2ln\n", False),
        ('{"foo": "ey.a.b"}', False),
        ("ey" + "a" * 9000 + ".e30.c2ln", False),
    ],
)
def test_signed_contracts_are_recognised_by_their_shape(text: str, signed: bool) -> None:
    assert EDGE.looks_signed(text) is signed


@pytest.mark.parametrize(
    ("claim", "wanted", "granted"),
    [
        (True, None, True),
        (False, None, False),
        ("true", None, False),
        (1, None, False),
        (None, None, False),
        ("qa", "qa", True),
        ("dev qa", "qa", True),
        ("qa2", "qa", False),
        (True, "qa", False),
        (["dev", "qa"], "qa", True),
        (["dev qa"], "qa", False),
        ([], "qa", False),
    ],
)
def test_which_claims_grant(claim: object, wanted: str | None, granted: bool) -> None:
    assert EDGE.grants(LUA.table_from(claim) if isinstance(claim, list) else claim, wanted) is granted


# --- settings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"networks": ("10.0.0.0/33",)}, "10.0.0.0/33"),
        ({"networks": ("10.0.0.1/8",)}, "has host bits set"),
        ({"networks": ("10.0.0.1",)}, "usually written 10.0.0.1/32"),
        ({"claim": ()}, "claim"),
        ({"claim": ("a\n",)}, "claim"),
        ({"cookie_seconds": 0}, "cookie"),
    ],
)
def test_wrong_settings_are_errors_that_name_them(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        EdgeSettings(**wrong)


def test_the_filter_is_shipped_byte_for_byte() -> None:
    patches = edge_filter()["spec"]["configPatches"]
    values = [each["patch"]["value"] for each in patches if each["applyTo"] == "EXTENSION_CONFIG"]
    code = [each["typed_config"]["default_source_code"] for each in values]
    assert code == [{"inline_string": front_source(EdgeSettings())}, {"inline_string": SOURCE}]


# --- what metadata holds -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        {"x_devroute": "{\xff}"},
        {"baggage": "devroute=\xff\xfe"},
        {"cookie": "devroute=\xc3("},
        {"_path": "/\xff?devroute=\xff"},
        {"x_devroute": "{}", "x_devroute_trace": "\xff"},
    ],
)
def test_no_bytes_of_a_stranger_reach_metadata_that_logs_and_authorities_get(sent: dict[str, str]) -> None:
    # Metadata is protobuf, whose texts are UTF-8: a receiver refuses the whole message otherwise.
    worker = Worker(front_source(EdgeSettings()))
    handle = worker.request(**sent)
    assert worker.logged == []
    taken = handle.decided["devroute.edge", "taken"]

    def texts(value: Any) -> list[str]:
        return (
            [value] if isinstance(value, str) else [each for part in value.values() for each in texts(part)]
        )

    assert all(text.isascii() for text in texts(taken)), texts(taken)
