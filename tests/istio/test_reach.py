"""What laptops outside of the mesh reach in it: `devroute up --reach` through the gateway, with the rules
that `manifests install --reach` writes, under STRICT mTLS and the policies of a team."""

import asyncio
import json
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import ClientSession

from devroute.mesh.testbed import Command
from tests.istio import client
from tests.istio.changes import applied, drained, live
from tests.istio.kubernetes import Document
from tests.istio.rig import Rig, documents
from tests.istio.test_grpc import CALL
from tests.istio.topology import APP_PORT, DATABASE, DATABASE_PORT, GRPC, HTTP
from tests.support.eventually import eventually

pytestmark = pytest.mark.istio

PROXY = "cluster.local/ns/devroute/sa/devroute-proxy"
#: Local ports of both laptops, by what they lead to.
PORTS = {
    destination: 26001 + number
    for number, destination in enumerate(
        [
            *("c.shop:80", "b:80", f"b.shop:{GRPC}", "nowhere.shop:80", "c.shop:81", f"h.shop:{HTTP}"),
            *("istiod.istio-system:80", f"tcp://h.shop:{HTTP}"),
            *(f"tcp://{DATABASE}:{DATABASE_PORT}", f"tcp://gone.vendor.example:{DATABASE_PORT}"),
        ]
    )
}
#: Their names in contracts.
NAMES = {"alice": "alice--reach", "bob": "bob--reach"}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def laptops(mesh: Rig) -> AsyncIterator[dict[str, Command]]:
    options = [f"--reach={port}={destination}" for destination, port in PORTS.items()]
    alice = mesh.laptop("alice", f"c={APP_PORT}", "--name", NAMES["alice"], *options)
    bob = mesh.laptop("bob", f"c={APP_PORT}", "--name", NAMES["bob"], *options)
    async with alice as first, bob as second:
        yield {"alice": first, "bob": second}


async def needs_ports(mesh: Rig) -> None:
    """Skips where Envoy cannot distinguish the ports of a service at the way into the mesh: before 1.37."""
    if "vhost_header" not in await client.admin(mesh.pods["proxy"], "config_dump"):
        pytest.skip("this Envoy knows no vhost_header")


def url(destination: str, path: str = "x") -> str:
    return f"http://127.0.0.1:{PORTS[destination]}/{path}"


async def ask(mesh: Rig, destination: str, path: str = "x", *, laptop: str = "alice", **more: Any) -> Any:
    """A program's request to a local port of a laptop."""
    return await mesh.ask(laptop, url(destination, path), **more)


async def received(mesh: Rig, pod: str, mark: str) -> list[Document]:
    """The headers of requests with this mark that reached a pod's app."""
    opened: ClientSession
    async with (
        client.session(mesh.pods[pod]) as opened,
        opened.get(f"http://localhost:{HTTP}/requests") as got,
    ):
        found = [
            {name.lower(): value for name, value in each["headers"].items()} for each in await got.json()
        ]
    return [each for each in found if each.get("mark") == mark]


def error(response: client.Response) -> tuple[int, str, str]:
    """Status, code, message and hint."""
    body = json.loads(response.body)
    return response.status, body["code"], f"{body['message']}; {body.get('hint')}"


async def test_a_service_under_strict_mtls_sees_the_proxy_s_identity_and_the_laptop_s_subject(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    mark = uuid.uuid4().hex
    forged = {"mark": mark, "x-devroute-subject": "mallory", "x-forwarded-client-cert": "URI=spiffe://x"}
    response = await ask(mesh, "c.shop:80", method="POST", body=bytes(300_000), headers=forged)
    assert (response.status, response.app, json.loads(response.body)["size"]) == (200, "c", 300_000), response
    (headers,) = await received(mesh, "c", mark)
    assert headers["host"] == "c.shop.svc.cluster.local:80"
    assert headers["x-devroute-subject"] == "alice"
    assert f"URI=spiffe://{PROXY}" in headers["x-forwarded-client-cert"]
    assert "URI=spiffe://x" not in headers["x-forwarded-client-cert"]
    assert "x-devroute-egress" not in headers


async def test_a_socket_and_grpc_pass_and_a_contract_chooses_grpc_s_version(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    await needs_ports(mesh)
    async with (
        client.session(mesh.pods["alice"]) as opened,
        opened.ws_connect(url("c.shop:80", "socket")) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str() == "c: hello"
    target = f"127.0.0.1:{PORTS[f'b.shop:{GRPC}']}"
    command = (sys.executable, "-c", CALL, target, json.dumps({"b": "version:v2"}), "mark", "hello")
    assert mesh.pods["alice"].run(*command).strip() == "b-v2: hello b-v2"


async def test_a_contract_leads_from_one_laptop_through_the_mesh_to_another(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    contract = {"c": NAMES["bob"]}
    at_c = await ask(mesh, "c.shop:80", contract=contract)
    assert (at_c.status, at_c.app, at_c.result) == (200, "laptop-bob", "laptop"), at_c
    behind_b = await ask(mesh, "b:80", "chain", contract=contract)
    assert behind_b.hops[1:] == ["laptop-bob"], behind_b


def to_a_version(marker: str, **destination: Any) -> Document:
    """Of b, for requests with a header that a team chose; `marker` is in the proxy's Envoy when it has it."""
    to_v2 = {"destination": {"host": "b", "subset": "v2", **destination}}
    to_v1 = {"destination": {"host": "b", "subset": "v1", **destination}}
    named = {"match": [{"headers": {"x-team": {"exact": marker}}}], "route": [to_v2]}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "VirtualService",
        "metadata": {"name": "b", "namespace": "shop"},
        "spec": {"hosts": ["b"], "http": [named, {"route": [to_v1]}]},
    }


async def test_a_team_s_virtual_service_holds_for_what_laptops_reach(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    async with applied(mesh, [to_a_version("of-reach", port={"number": 80})]):
        await live(mesh, ["proxy"], "of-reach")
        named = [await ask(mesh, "b:80", headers={"x-team": "of-reach"}) for _ in range(4)]
        others = [await ask(mesh, "b:80") for _ in range(4)]
    await live(mesh, ["proxy"], "of-reach", gone=True)
    assert [each.app for each in named + others] == ["b-v2"] * 4 + ["b-v1"] * 4, others[0]


async def test_a_virtual_service_without_the_port_of_a_service_with_several_is_named_as_the_reason(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    """Istio takes the listener's port for it, and the way into the mesh has one for all services."""
    async with applied(mesh, [to_a_version("without-port")]):
        await live(mesh, ["proxy"], "without-port")
        status, code, text = error(await ask(mesh, "b:80"))
    await live(mesh, ["proxy"], "without-port", gone=True)
    assert (status, code) == (502, "service-unknown"), text
    assert "a VirtualService has to name the port" in text


async def test_an_authorization_policy_admits_the_people_that_it_names(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    (example,) = documents(mesh.installed / "examples" / "reach.yaml")
    example["spec"]["rules"][0]["when"][0]["values"] = ["alice"]
    async with applied(mesh, [example]):
        await live(mesh, ["c"], "x-devroute-subject")
        await drained(mesh, ["c"])
        admitted = await ask(mesh, "c.shop:80")
        forged = {"x-devroute-subject": "alice"}
        refused = await ask(mesh, "c.shop:80", laptop="bob", headers=forged)
        others = await mesh.ask("a", "http://c/x", headers=forged)
    assert (admitted.status, admitted.app) == (200, "c"), admitted
    status, code, text = error(refused)
    assert (status, code) == (403, "reach-refused")
    assert "AuthorizationPolicy" in text
    assert others.status == 403


@pytest.mark.parametrize(
    ("destination", "status", "code", "text"),
    [
        ("nowhere.shop:80", 502, "service-unknown", "the mesh knows no service nowhere.shop:80"),
        ("c.shop:81", 502, "service-unknown", "the mesh knows no service c.shop:81"),
        (
            f"h.shop:{HTTP}",
            502,
            "service-unknown",
            "no pod of h.shop:8080 is ready, or the service is headless",
        ),
        ("istiod.istio-system:80", 403, "reach-denied", "is in a namespace that no laptop may reach"),
    ],
)
async def test_an_error_says_what_to_do(
    mesh: Rig, laptops: dict[str, Command], destination: str, status: int, code: str, text: str
) -> None:
    if not destination.endswith(":80"):
        await needs_ports(mesh)
    found = error(await ask(mesh, destination))
    assert found[:2] == (status, code), found
    assert text in found[2]


# --- bytes --------------------------------------------------------------------------------------------------


async def exchange(mesh: Rig, destination: str, sent: bytes) -> bytes:
    """What comes back until the end of a connection to a local port of alice; b"" if it is reset."""
    with mesh.pods["alice"].open_socket() as connection:
        connection.setblocking(False)
        loop, received = asyncio.get_running_loop(), b""
        try:
            async with asyncio.timeout(10):
                await loop.sock_connect(connection, ("127.0.0.1", PORTS[destination]))
                await loop.sock_sendall(connection, sent)
                while piece := await loop.sock_recv(connection, 65536):
                    received += piece
        except ConnectionError:
            return b""
        return received


async def failure(laptop: Command, destination: str) -> dict[str, Any]:
    """What the terminal of a laptop reports of a destination."""

    def reported() -> list[dict[str, Any]]:
        return [
            each
            for each in laptop.events()
            if each.get("event") == "reach-failed" and each["service"] == destination
        ]

    return (await eventually(reported, f"a failure of {destination}"))[0]


@asynccontextmanager
async def database(mesh: Rig) -> AsyncIterator[None]:
    """A server outside of the mesh, which greets first and ends after one line."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"ready\n" + await reader.readline())
        await writer.drain()
        writer.close()

    listener = mesh.pods["bob"].open_socket()
    listener.bind(("0.0.0.0", DATABASE_PORT))
    async with await asyncio.start_server(serve, sock=listener):
        yield


async def test_bytes_reach_a_server_outside_of_the_mesh(mesh: Rig, laptops: dict[str, Command]) -> None:
    async with database(mesh):
        assert await exchange(mesh, f"tcp://{DATABASE}:{DATABASE_PORT}", b"select\n") == b"ready\nselect\n"


async def test_strict_mtls_refuses_bytes_and_the_terminal_says_so(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    destination = f"tcp://h.shop:{HTTP}"
    assert await exchange(mesh, destination, b"GET / HTTP/1.1\r\nhost: h\r\n\r\n") == b""
    found = await failure(laptops["alice"], destination)
    assert found["code"] == "mesh-tls-required", found
    assert "STRICT" in str(found), found


async def test_a_name_that_does_not_exist_is_reported_as_unknown(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    destination = f"tcp://gone.vendor.example:{DATABASE_PORT}"
    assert await exchange(mesh, destination, b"select\n") == b""
    assert (await failure(laptops["alice"], destination))["code"] == "service-unknown"


# --- without the way into the mesh --------------------------------------------------------------------------


async def test_without_the_sidecar_s_listener_the_error_names_it(
    mesh: Rig, laptops: dict[str, Command]
) -> None:
    (sidecar,) = [each for each in documents(mesh.installed / "base") if each["kind"] == "Sidecar"]
    await mesh.kubernetes.delete([sidecar])
    try:
        await live(mesh, ["proxy"], "15080", gone=True)
        await drained(mesh, ["proxy"])
        status, code, text = error(await ask(mesh, "c.shop:80"))
    finally:
        await mesh.kubernetes.apply([sidecar])
    assert (status, code) == (501, "reach-unavailable")
    assert "the proxy's own sidecar has no egress listener" in text

    async def back() -> bool:
        return (await ask(mesh, "c.shop:80")).status == 200

    await eventually(back, "c reached again", within=60)
