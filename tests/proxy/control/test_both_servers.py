"""What other programs ask the control port: our own server and aiohttp respond alike, and a connection passes
from one to the other."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from devroute.auth.identity import Identity, PeerCertificate
from devroute.contract.target import Address
from devroute.errors import TargetUnreachable, TokenInvalid
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import connections, create_runner
from devroute.proxy.control.listener import ControlListener
from devroute.proxy.control.sidecars import sidecar_routes
from devroute.proxy.control.tunnels import Tunnels
from devroute.proxy.ports.limits import MAX_BODY_BYTES
from devroute.routing.registry import Registry
from tests.proxy.ports.client import Answer, Client

HOST = b"host: proxy\r\n"
DETOUR = b'x-devroute: {"foo": "10.0.0.1:8001"}\r\nx-devroute-candidates: foo,foo-v1\r\n'
REFUSED = b'x-devroute: {"foo": "192.168.1.1:8001"}\r\nx-devroute-candidates: foo\r\n'
LAPTOP = b'x-devroute: {"foo": "alice"}\r\nx-devroute-candidates: foo\r\n'
DEFECT = b'x-devroute: {"foo": "10.0.0.3:8001"}\r\nx-devroute-candidates: foo\r\n'
COMPARE = b"x-devroute-compare: abc\r\n"
SERVICES = b"status 200\ncontent-type: text/plain\n\nhi"


def get(path: bytes, fields: bytes = b"", method: bytes = b"GET", version: bytes = b"1.1") -> bytes:
    return b"%b %b HTTP/%b\r\n%b%b\r\n" % (method, path, version, HOST, fields)


def post(path: bytes, body: bytes, fields: bytes = b"") -> bytes:
    return get(path, b"content-length: %d\r\n%b" % (len(body), fields), b"POST") + body


def chunked(path: bytes, body: bytes, fields: bytes = b"") -> bytes:
    head = get(path, b"transfer-encoding: chunked\r\n" + fields, b"POST")
    return head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


async def refuse(authorization: str, certificate: PeerCertificate | None) -> Identity:
    raise TokenInvalid("no token")


async def probe(address: Address, service: str) -> None:
    if address.host == "10.0.0.2":
        raise TargetUnreachable(f"{address} refused the connection")
    if address.host == "10.0.0.3":
        raise RuntimeError("a bug with a secret in its text")


@dataclass
class Port:
    """A control port. `events`: its audit trail; `upgraded`: how many connections aiohttp has got."""

    number: int
    events: list[dict[str, Any]] = field(default_factory=list)
    upgraded: int = 0

    async def says(self, *requests: bytes) -> list[Answer]:
        """The responses on one connection, each request sent after the response to the one before."""
        client = Client(*await asyncio.open_connection("127.0.0.1", self.number))
        answers = []
        for request in requests:
            client.writer.write(request)
            answer = await client.response(body=not request.startswith(b"HEAD "))
            answers.append(await client.response() if answer.status == 100 else answer)
        client.writer.close()
        return answers


@pytest.fixture
async def ports() -> AsyncIterator[tuple[Port, Port]]:
    """The port as it is, and one where aiohttp has every connection from the start."""
    made: list[Port] = []
    ends: list[Callable[[], Any]] = []
    for own in (True, False):
        port = Port(0)

        def record(event: str, /, port: Port = port, **fields: object) -> None:
            port.events.append({"event": event, **fields})

        policy = Policy.parse("direct: {networks: [10.0.0.0/8]}")
        registry = Registry()
        control = Control(registry, lambda policy=policy: policy, refuse, probe, 0.3, record=record)  # type: ignore[misc]
        runner = create_runner(create_app(control))
        await runner.setup()
        make = connections(runner)

        def http(port: Port = port, make: Callable[[], asyncio.BaseProtocol] = make) -> asyncio.BaseProtocol:
            port.upgraded += 1
            return make()

        tunnels = Tunnels(authenticate=refuse, registry=registry, permit=lambda *_: None)
        routes = {"routes": sidecar_routes(control)} if own else {}
        listener = ControlListener(http=http, tunnels=tunnels, **routes)
        server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
        port.number = server.sockets[0].getsockname()[1]
        made.append(port)
        ends += [listener.close, runner.cleanup]
    yield made[0], made[1]
    for end in ends:
        await end()


ALIKE = {
    "a detour": get(b"/resolve", DETOUR),
    "a query": get(b"/resolve?a=b", DETOUR),
    "a name with capitals": get(b"/resolve", DETOUR.replace(b"x-devroute", b"X-Devroute")),
    "a target that refuses": get(b"/resolve", DETOUR.replace(b"10.0.0.1", b"10.0.0.2")),
    "what policy refuses": get(b"/resolve", REFUSED),
    "a laptop that is offline": get(b"/resolve", LAPTOP),
    "no contract": get(b"/resolve", b"x-devroute-candidates: foo\r\n"),
    "nothing": get(b"/resolve"),
    "an empty contract": get(b"/resolve", b"x-devroute:\r\n"),
    "a malformed contract": get(b"/resolve", DETOUR.replace(b"}", b"")),
    "two contracts": get(b"/resolve", DETOUR + LAPTOP),
    "text in UTF-8": get(b"/resolve", b'x-devroute: {"f\xc3\xb6\xc3\xb6": "alice"}\r\n'),
    "text in no encoding": get(b"/resolve", b'x-devroute: {"f\xff": "alice"}\r\n'),
    "a defect": get(b"/resolve", DEFECT),
    "HEAD": get(b"/resolve", DETOUR, b"HEAD"),
    "the last request": get(b"/resolve", DETOUR + b"connection: close\r\n"),
    "with a body": post(b"/resolve", b"hi", DETOUR).replace(b"POST", b"GET"),
    "with an upgrade": get(b"/resolve", DETOUR + b"connection: upgrade\r\nupgrade: h2c\r\n"),
    "an empty line first": b"\r\n" + get(b"/resolve", DETOUR),
    "a contract's report": get(b"/contract", DETOUR),
    "a report without contract": get(b"/contract"),
    "a trace": post(b"/trace", b"", DETOUR),
    "a comparison": post(b"/compare", SERVICES, COMPARE),
    "a comparison in its time": post(b"/compare", SERVICES, COMPARE + b"expect: 100-continue\r\n"),
    "a comparison that is none": post(b"/compare", b"hi", COMPARE),
    "a comparison without id": post(b"/compare", SERVICES),
    "a comparison in chunks": chunked(b"/compare", SERVICES, COMPARE),
    "the largest comparison": post(b"/compare", bytes(MAX_BODY_BYTES), COMPARE),
    "too large a comparison": post(b"/compare", bytes(MAX_BODY_BYTES + 1), COMPARE),
    "another method": get(b"/resolve", method=b"DELETE"),
    "another method of a report": get(b"/trace"),
    "OPTIONS": get(b"/contract", method=b"OPTIONS"),
    "another path": get(b"/resolved"),
    "a path below": get(b"/resolve/"),
    "a path in another spelling": get(b"/%72esolve", DETOUR),
    "a whole URL": get(b"http://proxy/resolve", DETOUR),
    "no path": get(b"/"),
    "the API": get(b"/api/status"),
    "a late tunnel": get(b"/tunnel", method=b"HEAD"),
    "another method of the tunnel": post(b"/tunnel", b""),
}


@pytest.mark.parametrize("name", ALIKE)
async def test_both_servers_respond_alike(name: str, ports: tuple[Port, Port]) -> None:
    own, aiohttp = ports
    request = ALIKE[name]
    # One that the own server serves comes first, so that the second is not the first of its connection.
    first = get(b"/contract")
    answers = [await port.says(first, request) for port in ports]
    assert answers[0][1].essence == answers[1][1].essence
    alone = [await port.says(request) for port in ports]
    assert alone[0][0].essence == alone[1][0].essence == answers[0][1].essence
    assert [dict(each, peer=None) for each in own.events] == [
        dict(each, peer=None) for each in aiohttp.events
    ]
    assert {each.get("peer") for each in own.events} <= {"127.0.0.1"}


@pytest.mark.parametrize("fields", [b"", b"connection: keep-alive\r\n"])
async def test_http_1_0_is_served_by_both(fields: bytes, ports: tuple[Port, Port]) -> None:
    for port in ports:
        (response,) = await port.says(get(b"/resolve", DETOUR + fields, version=b"1.0"))
        assert (response.status, b"decision detour" in response.body) == (200, True)


async def test_other_programs_do_not_need_aiohttp(ports: tuple[Port, Port]) -> None:
    own, _ = ports
    await own.says(
        get(b"/resolve", DETOUR),
        get(b"/contract", DETOUR),
        post(b"/trace", b"", DETOUR),
        post(b"/compare", SERVICES, COMPARE),
        get(b"/resolve", method=b"PUT"),
    )
    await own.says(b"GET / HTTP/1.1\nhost: x\r\n\r\n")
    assert own.upgraded == 0


@pytest.mark.parametrize("other", [get(b"/api/status"), chunked(b"/compare", SERVICES, COMPARE)])
async def test_a_connection_with_another_request_is_aiohttps_from_then_on(
    other: bytes, ports: tuple[Port, Port]
) -> None:
    own, _ = ports
    requests = [get(b"/resolve", DETOUR), other]
    answers = await own.says(*requests)
    status = 401 if b"/api/" in other else 204
    assert ([each.status for each in answers], own.upgraded) == ([200, status], 1)


async def test_requests_that_came_at_once_are_answered_in_their_order_by_both_servers(
    ports: tuple[Port, Port],
) -> None:
    own, _ = ports
    requests = [
        get(b"/resolve", DETOUR),  # waits for its target
        get(b"/contract", LAPTOP),
        get(b"/api/laptops"),
        get(b"/resolve", LAPTOP),
        get(b"/nothing"),
    ]
    apart = [(await own.says(each))[0].essence for each in requests]
    upgraded = own.upgraded
    answers = await own.says(b"".join(requests), *[b""] * (len(requests) - 1))
    assert [each.essence for each in answers] == apart
    assert own.upgraded == upgraded + 1


async def test_an_error_names_its_code(ports: tuple[Port, Port]) -> None:
    own, _ = ports
    (response,) = await own.says(get(b"/resolve", method=b"PUT"))
    assert (response.status, response.fields["allow"]) == (405, "GET, HEAD")
    assert json.loads(response.body)["code"] == "method-not-allowed"
