import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.contract.destination import parse_destination
from devroute.contract.target import Malformed
from tests.support.examples import examples

#: What an engineer writes; how it is called; the name by which mesh and DNS know it.
VALID = {
    "c:80": ("c.default:80", "c.default.svc.cluster.local"),
    "c.shop:80": ("c.shop:80", "c.shop.svc.cluster.local"),
    "http://c.shop:80": ("c.shop:80", "c.shop.svc.cluster.local"),
    "C.Shop:80": ("c.shop:80", "c.shop.svc.cluster.local"),
    "c.shop.svc:80": ("c.shop:80", "c.shop.svc.cluster.local"),
    "c.shop.svc.cluster.local:80": ("c.shop:80", "c.shop.svc.cluster.local"),
    "tcp://orders-db:5432": ("tcp://orders-db.default:5432", "orders-db.default.svc.cluster.local"),
    "tcp://orders.db.example.com:5432": ("tcp://orders.db.example.com:5432", "orders.db.example.com"),
    "localhost:80": ("localhost.default:80", "localhost.default.svc.cluster.local"),
}


@pytest.mark.parametrize("text", VALID)
def test_a_destination_has_a_namespace_or_is_outside_of_the_cluster(text: str) -> None:
    destination = parse_destination(text)
    assert (str(destination), destination.host("cluster.local")) == VALID[text]
    assert parse_destination(str(destination)) == destination


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("c", "a port is missing"),
        ("c:0", "is not a number from 1 to 65535"),
        ("10.0.0.1:80", "is an address; write a name"),
        ("tcp://[::1]:80", "is an address; write a name"),
        ("0x7f000001:80", "is not an IPv4 address"),
        ("c.shop.:80", "ends with a dot"),
        ("c_.shop:80", "a service's name"),
        ("udp://c:80", ""),
        ("c.shop:80/path", "has no path"),
        ("db-0.db.data.svc.cluster.local:80", "is in the cluster, but no service"),
        ("10-0-0-1.data.pod.cluster.local:80", "is in the cluster, but no service"),
        ("a.b.c.svc:80", "is in the cluster, but no service"),
        ("", "a port is missing"),
        ("a b:80", "neither an IP address nor a host name"),
        ("a\r\nhost: x:80", "brackets"),
        ("user@c:80", "neither"),
    ],
)
def test_what_is_no_destination_is_refused(text: str, problem: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse_destination(text)
    assert problem in str(caught.value)


@examples(200)
@given(st.text(max_size=80) | st.from_regex(r"(tcp://)?[-a-z0-9._]{1,30}:[0-9]{1,6}", fullmatch=True))
def test_any_text_is_a_destination_that_survives_or_malformed(text: str) -> None:
    try:
        destination = parse_destination(text)
    except Malformed:
        return
    assert parse_destination(str(destination)) == destination
    assert set(destination.host("cluster.local")) <= set("abcdefghijklmnopqrstuvwxyz0123456789-._")
