"""The grammar of what a laptop reaches, and the environment that follows from it."""

import pytest

from devroute.agent.reach.mesh_port import MAX_FORWARDS, Forward, MeshPort, is_of_the_mesh, read_forwards
from devroute.agent.reach.variables import proxy_variables, variables
from devroute.contract.target import Malformed


@pytest.mark.parametrize(
    ("text", "forward", "authority"),
    [
        ("c:80", Forward(MeshPort("c", 80)), "c"),
        ("c.shop:8080", Forward(MeshPort("c.shop", 8080)), "c.shop:8080"),
        ("9002=C.shop:80", Forward(MeshPort("c.shop", 80), 9002), "c.shop"),
        ("http://c.shop:80/", Forward(MeshPort("c.shop", 80)), "c.shop"),
        ("tcp://orders-db:5432", Forward(MeshPort("orders-db", 5432, tcp=True)), "orders-db:5432"),
        (
            "c.shop.svc.cluster.local:80",
            Forward(MeshPort("c.shop.svc.cluster.local", 80)),
            "c.shop.svc.cluster.local",
        ),
    ],
)
def test_a_forward_is_read(text: str, forward: Forward, authority: str) -> None:
    assert Forward.parse(text) == forward
    assert forward.to.authority == authority


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("c.shop", "a port is missing; write 'c.shop:80'"),
        ("c.shop:0", "port '0' is not a number"),
        ("https://c.shop:443", "scheme 'https' is not supported; write NAME:PORT, or tcp://NAME:PORT"),
        ("10.0.0.1:80", "is an address; write a name"),
        ("tcp://[::1]:80", "is an address; write a name"),
        ("0=c:80", "port '0' is not a number"),
        ("c_d:80", "write c-d"),
        ("c:80/path", "an address has no path"),
        ("tcp:orders-db:5432", "write 'tcp://orders-db:5432'"),
        (":80", "the name is missing; write NAME:PORT, such as c.shop:80"),
        ("", "the name is missing; write NAME:PORT, such as c.shop:80"),
    ],
)
def test_what_is_no_forward_says_what_to_write(text: str, problem: str) -> None:
    with pytest.raises(Malformed) as raised:
        Forward.parse(text)
    assert problem in str(raised.value)
    assert text in str(raised.value)


def test_a_list_of_forwards_is_bounded_and_has_each_once() -> None:
    assert read_forwards("c:80 d:80,tcp://e:1") == tuple(map(Forward.parse, ["c:80", "d:80", "tcp://e:1"]))
    for value, problem in [
        (["c:80", "c:80"], "'c:80' is given twice"),
        (["1=c:80", "1=d:80"], "local port '1' is given twice"),
        ([f"c:{port}" for port in range(1, MAX_FORWARDS + 2)], f"at most {MAX_FORWARDS} are allowed"),
        (3, "write a list"),
    ]:
        with pytest.raises(ValueError, match=problem):
            read_forwards(value)


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("c", True),
        ("c.shop", True),
        ("c.shop.svc", True),
        ("c.shop.svc.cluster.local", True),
        ("github.com", False),
        ("api.github.com", False),
        ("db.eu.rds.example", False),
        ("10.0.0.1", False),
        ("::1", False),
    ],
)
def test_names_of_the_mesh_are_known_by_their_form(host: str, inside: bool) -> None:
    assert is_of_the_mesh(host) is inside


def test_a_child_finds_each_service_by_variables_that_do_not_collide() -> None:
    places = [("c.shop:80", 1), ("tcp://orders-db:5432", 2), ("c.shop.svc:8080", 3), ("tcp://9p:9", 4)]
    found = variables((MeshPort.parse(text), port) for text, port in places)
    assert found == [
        {"C_SHOP_URL": "http://127.0.0.1:1", "C_SHOP_HOST": "127.0.0.1", "C_SHOP_PORT": "1"},
        {"ORDERS_DB_ADDR": "127.0.0.1:2", "ORDERS_DB_HOST": "127.0.0.1", "ORDERS_DB_PORT": "2"},
        {
            "C_SHOP_8080_URL": "http://127.0.0.1:3",
            "C_SHOP_8080_HOST": "127.0.0.1",
            "C_SHOP_8080_PORT": "3",
        },
        {"_9P_ADDR": "127.0.0.1:4", "_9P_HOST": "127.0.0.1", "_9P_PORT": "4"},
    ]


def test_variables_for_proxies_keep_what_the_jvm_was_given() -> None:
    found = proxy_variables(1080, {"JAVA_TOOL_OPTIONS": "-Xmx1g"})
    assert found["http_proxy"] == found["HTTPS_PROXY"] == "http://127.0.0.1:1080"
    assert found["ALL_PROXY"] == found["all_proxy"] == "http://127.0.0.1:1080"
    assert found["NODE_USE_ENV_PROXY"] == "1"
    assert "localhost" in found["NO_PROXY"]
    assert found["JAVA_TOOL_OPTIONS"].startswith("-Xmx1g -Dhttp.proxyHost=127.0.0.1 -Dhttp.proxyPort=1080 ")
