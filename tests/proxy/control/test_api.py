import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from yarl import URL

from devroute.auth.authenticator import Authenticator
from devroute.auth.identity import Identity, PeerCertificate
from devroute.auth.tokens import Tokens, new_token
from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Address
from devroute.errors import LaptopOffline, TargetDenied, TargetUnreachable, TokenInvalid
from devroute.http.message import RequestHead
from devroute.policy.policy import Policy
from devroute.proxy.control.api import Api, create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import create_runner
from devroute.proxy.identity_sources import login_settings
from devroute.proxy.settings import ProxySettings
from devroute.routing.decision import LaptopService
from devroute.routing.registry import Registry
from devroute.routing.shadow.traffic import ShadowTraffic
from devroute.tunnel.protocol.handshake import Hello, Offer
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream

SECRET, RECORD = new_token("alice")
AUTHORISED = {"authorization": f"Bearer {SECRET}"}


@dataclass
class Network:
    """What the direct targets do when they are tried."""

    refused: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    silent: set[str] = field(default_factory=set)
    tried: list[tuple[str, str]] = field(default_factory=list)

    async def probe(self, address: Address, service: str) -> None:
        self.tried.append((str(address), service))
        if address.host in self.refused:
            raise TargetUnreachable(f"{address} refused the connection")
        if address.host in self.denied:
            raise TargetDenied(f"{address} is not permitted")
        if address.host in self.silent:
            await asyncio.Event().wait()


class Nobody:
    broken = False

    def lookup(self, name: str, service: str) -> LaptopService:
        if self.broken:
            raise RuntimeError("a bug with a secret in its text")
        raise LaptopOffline(f"laptop '{name}' is offline")

    def listing(self) -> Sequence[Mapping[str, object]]:
        return [{"name": "alice", "services": ["foo"]}]

    def count(self) -> int:
        return len(self.listing())


@dataclass
class Server:
    session: aiohttp.ClientSession
    url: str
    network: Network
    directory: Nobody
    files: dict[str, Policy]
    shadow: ShadowTraffic

    async def get(
        self, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
    ) -> tuple[int, str, Mapping[str, str]]:
        async with self.session.request(method, self.url + path, headers=headers) as response:
            return response.status, await response.text(), response.headers

    async def resolve(self, contract: str, **more: str) -> dict[str, str]:
        headers = {"x-devroute": contract, "x-devroute-candidates": "foo,foo-v1"}
        status, text, _ = await self.get("/resolve", headers | more)
        assert status == 200
        first, *rest = text.splitlines()
        assert first == "devroute 1"
        return dict(line.split(" ", 1) for line in rest)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    network, directory = Network(), Nobody()
    files = {"policy": Policy.parse("direct: {networks: [10.0.0.0/8]}")}
    authenticate = Authenticator(lambda: Tokens((RECORD,))).authenticate
    shadow = ShadowTraffic(lambda: 0.0)
    control = Control(directory, lambda: files["policy"], authenticate, network.probe, 0.05, shadow=shadow)
    runner = create_runner(create_app(control))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        yield Server(session, f"http://127.0.0.1:{runner.addresses[0][1]}", network, directory, files, shadow)
    await runner.cleanup()


async def test_a_direct_target_is_a_detour_once_it_was_reached(server: Server) -> None:
    answer = await server.resolve('{"foo": "10.0.0.1:8001"}')
    assert (answer["decision"], answer["service"]) == ("detour", "foo")
    assert server.network.tried == [("10.0.0.1:8001", "foo")]


async def test_a_target_that_refuses_is_denied_or_does_not_respond_is_a_fallback_with_the_reason(
    server: Server,
) -> None:
    server.network.refused.add("10.0.0.1")
    server.network.denied.add("inside.example")
    server.network.silent.add("10.0.0.3")
    for target, reason in {
        "10.0.0.1:8001": "refused the connection",
        "inside.example:8001": "is not permitted",
        "10.0.0.3:8001": "10.0.0.3:8001 did not respond within 0.05 s",
    }.items():
        answer = await server.resolve(f'{{"foo": "{target}"}}')
        assert answer["decision"] == "fallback"
        assert reason in answer["reason"]
    assert answer["ttl"] == "1000"  # the silent one is not asked again by the next request
    insisting = await server.resolve('{"foo": {"to": "10.0.0.1:8001", "fallback": "fail"}}')
    assert (insisting["decision"], insisting["status"]) == ("error", "502")


async def test_an_error_for_a_target_that_does_not_respond_names_service_and_target(server: Server) -> None:
    server.network.silent.add("10.0.0.3")
    insisting = await server.resolve('{"foo": {"to": "10.0.0.3:8001", "fallback": "fail"}}')
    body = json.loads(insisting["body"])
    assert (body["code"], body["service"], body["target"]) == ("target-unreachable", "foo", "10.0.0.3:8001")


async def test_a_denied_address_is_never_tried(server: Server) -> None:
    assert (await server.resolve('{"foo": "127.0.0.1:8001"}'))["decision"] == "fallback"
    assert server.network.tried == []


async def test_a_new_policy_counts_at_once(server: Server) -> None:
    server.files["policy"] = Policy.parse("")
    assert (await server.resolve('{"foo": "10.0.0.1:8001"}'))["decision"] == "fallback"


async def test_a_namespace_is_taken_into_account(server: Server) -> None:
    contract = '{"foo.shop": "10.0.0.1:8001"}'
    assert (await server.resolve(contract))["decision"] == "service"
    assert (await server.resolve(contract, **{"x-devroute-namespace": "shop"}))["service"] == "foo.shop"


async def test_without_a_contract_it_names_the_laptops_that_want_shadow_traffic(server: Server) -> None:
    status, text, _ = await server.get("/resolve", {"x-devroute-candidates": "foo"})
    assert (status, text) == (200, "devroute 1\ndecision service\nttl 1000\n")


class Link:
    def upstream(self, service: str) -> Upstream:
        return self

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        raise NotImplementedError


XFCC = "By=spiffe://td/ns/devroute/sa/devroute;Hash=1;URI=spiffe://td/ns/{}/sa/{}"


@pytest.mark.parametrize(
    ("offered", "asked", "claimed", "proved", "gets"),
    [
        ("foo.shop", "foo", "shop", "shop", True),
        ("foo.shop", "foo.shop", "shop", "shop", True),
        ("foo.shop", "foo", "shop", None, True),  # no sidecar before the proxy
        ("foo.shop", "foo", "shop", "evil", False),
        ("foo.shop", "foo.shop", "", "evil", False),
        ("foo.shop", "foo.shop", "shop", "evil", False),
        ("foo.shop", "foo.shop.svc.cluster.local", "shop", "evil", False),
        ("foo", "foo", "evil", "evil", True),  # offered for any namespace
    ],
)
async def test_a_ticket_is_for_a_workload_of_the_namespace_that_it_proves(
    server: Server, offered: str, asked: str, claimed: str, proved: str | None, gets: bool
) -> None:
    offer = Offer(service=offered, terms=OfferOptions(shadow=100.0))
    Registry([server.shadow]).register("ann", Hello(agent="1", services=(offer,)), Link(), 0.0)
    server.files["policy"] = Policy.from_mapping({"shadow": ["foo"]})
    fields = {"x-devroute-candidates": asked, "x-devroute-namespace": claimed}
    if proved is not None:
        others = XFCC.format("shop", "foo")  # what the sender wrote itself
        fields["x-forwarded-client-cert"] = f"{others},{XFCC.format(proved, 'foo')}"
    _, text, _ = await server.get("/resolve", fields)
    assert ("\ncopy " in text) == gets


async def test_a_malformed_or_repeated_contract_is_an_error(server: Server) -> None:
    assert (await server.resolve("{"))["status"] == "400"
    async with server.session.get(
        server.url + "/resolve",
        headers=[("x-devroute", '{"foo": "alice"}'), ("x-devroute", '{"foo": "bob"}')],
    ) as response:
        assert "send X-devroute once" in await response.text()


async def test_the_largest_contract_beside_much_baggage_is_resolved(server: Server) -> None:
    contract = '{"foo": "10.0.0.1:8001"' + " " * 8167 + "}"
    assert len(contract) <= 8192
    answer = await server.resolve(contract, baggage="a=" + "b" * 30_000)
    assert answer["decision"] == "detour"


async def test_the_api_needs_a_token_and_lists_the_laptops_that_are_online(server: Server) -> None:
    for path in ("/api/laptops", "/api/status"):
        for headers in ({}, {"authorization": "Bearer dvr_wrong"}):
            status, text, answered = await server.get(path, headers)
            assert (status, "token-invalid" in text) == (401, True)
            assert answered["www-authenticate"].startswith("Bearer")
            assert "dvr_wrong" not in text
    async with server.session.get(server.url + "/api/laptops", headers=AUTHORISED) as response:
        assert await response.json() == {"laptops": [{"name": "alice", "services": ["foo"]}]}
    async with server.session.get(server.url + "/api/status", headers=AUTHORISED) as response:
        status = await response.json()
        assert (status["you"], status["laptops"], status["policy"]["networks"]) == (
            "alice",
            1,
            ["10.0.0.0/8"],
        )
        assert (status["you_may_register"], status["entries"]) == (["*"], {})
        assert status["you_may_reach"] == []


async def test_how_to_log_in_is_public_and_only_where_there_is_a_client(server: Server) -> None:
    status, text, _ = await server.get("/api/login")
    assert (status, json.loads(text)["code"]) == (404, "not-found")
    issuer = {"oidc_issuer": "https://id.example", "oidc_audience": "devroute"}
    assert login_settings(ProxySettings.model_validate(issuer)) is None
    settings = ProxySettings.model_validate(
        issuer | {"oidc_client_id": "devroute", "oidc_scopes": "openid email"}
    )
    control = Control(
        server.directory, Policy, refuse, server.network.probe, 1.0, login=login_settings(settings)
    )
    response = await Api(control).login_settings(make_mocked_request("GET", "/api/login"))
    assert response.text is not None
    assert json.loads(response.text) == {
        "issuer": "https://id.example",
        "client_id": "devroute",
        "scopes": ["openid", "email"],
        "token": "id_token",
    }
    secret = settings.model_copy(update={"oidc_client_secret": "published"})
    assert (login_settings(secret) or {})["client_secret"] == "published"


async def refuse(authorization: str, certificate: PeerCertificate | None) -> Identity:
    raise TokenInvalid("no token")


@pytest.mark.parametrize("name", ["x", "A" * 32, "a" * 33, "%C4%80" * 32, "a" * 32 + "%0D%0Ax-evil:%201"])
async def test_only_the_id_of_a_trace_gets_into_a_question_to_other_replicas(
    name: str, server: Server
) -> None:
    url = URL(f"{server.url}/api/traces/{name}", encoded=True)
    async with server.session.get(url, headers=AUTHORISED) as response:
        assert (response.status, (await response.json())["code"]) == (400, "request-malformed")
    async with server.session.get(f"{server.url}/api/traces/{'a' * 32}", headers=AUTHORISED) as response:
        assert (response.status, await response.json()) == (200, {"hops": [], "services": []})


async def test_unknown_paths_and_methods_get_a_json_error(server: Server) -> None:
    status, text, _ = await server.get("/nothing")
    assert (status, '"not-found"' in text) == (404, True)
    status, text, headers = await server.get("/api/status", method="DELETE")
    assert (status, '"method-not-allowed"' in text, headers["allow"]) == (405, True, "GET, HEAD")


async def test_a_defect_is_a_json_error_without_its_details_and_the_next_request_succeeds(
    server: Server,
) -> None:
    server.directory.broken = True
    headers = {"x-devroute": '{"foo": "alice"}', "x-devroute-candidates": "foo"}
    status, text, _ = await server.get("/resolve", headers)
    assert (status, '"internal"' in text, "secret" in text) == (500, True, False)
    server.directory.broken = False
    assert (await server.resolve('{"foo": "alice"}'))["decision"] == "fallback"
