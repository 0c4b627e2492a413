"""/api/contracts over real HTTP, and a name at /resolve and /contract."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from devroute.auth.authenticator import Authenticator
from devroute.auth.tokens import Tokens, new_token
from devroute.contract.grammar import parse
from devroute.contract.keys import Keys
from devroute.contract.signer import SigningKey, sign
from devroute.contract.verifier import Verifier
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import create_runner
from devroute.routing.named_contracts import MAX_TTL_S, ContractReader, NamedContracts
from devroute.routing.registry import Registry
from devroute.routing.trace import Traces
from tests.proxy.telemetry.test_audit import VALIDATOR

TEXT = '{"foo": "version:v2", "bar": "alice"}'
TOKENS = {name: new_token(name) for name in ("alice", "bob", "dana")}
KEY = SigningKey.new("alice")
TRACE = "de7e0a7e" + "0" * 24


@dataclass
class Server:
    session: aiohttp.ClientSession
    url: str
    names: NamedContracts
    traces: Traces
    files: dict[str, Policy]
    now: list[float]
    events: list[dict[str, Any]] = field(default_factory=list)

    async def ask(
        self, method: str, name: str = "", who: str | None = "alice", body: object = None
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if who is None else {"authorization": f"Bearer {TOKENS[who][0]}"}
        data = body if isinstance(body, bytes) else json.dumps(body)
        url = f"{self.url}/api/contracts{'/' if name else ''}{name}"
        async with self.session.request(method, url, headers=headers, data=data) as response:
            return response.status, await response.json()

    async def save(
        self, name: str = "checkout", who: str = "alice", **body: object
    ) -> tuple[int, dict[str, Any]]:
        return await self.ask("PUT", name, who, {"contract": TEXT} | body)

    async def lines(self, path: str, contract: str, **more: str) -> dict[str, str]:
        headers = {"x-devroute": contract, "x-devroute-candidates": "foo"} | more
        async with self.session.get(self.url + path, headers=headers) as response:
            _, *rest = (await response.text()).splitlines()
        return dict(line.split(" ", 1) for line in rest)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    names, traces, now = NamedContracts(), Traces(), [1_700_000_000.0]
    files, events = {"policy": Policy.parse("admins: {subjects: [dana]}")}, list[dict[str, Any]]()
    keys = Keys.parse(json.dumps({"keys": [KEY.as_public_jwk()]}), "keys")

    def record(event: str, /, **fields: object) -> None:
        events.append({"event": event, **fields})

    control = Control(
        Registry([]),
        lambda: files["policy"],
        Authenticator(lambda: Tokens(tuple(record for _, record in TOKENS.values()))).authenticate,
        lambda address, service: None,  # type: ignore[arg-type, return-value]  # no target is an address
        0.05,
        traces=traces,
        read=ContractReader(Verifier(lambda: keys), names, lambda: now[0]),
        names=names,
        record=record,
        clock=lambda: now[0],
    )
    runner = create_runner(create_app(control))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    async with aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield Server(session, url, names, traces, files, now, events)
    await runner.cleanup()


async def test_what_is_saved_is_listed_shown_and_deleted(server: Server) -> None:
    status, made = await server.save(ttl_s=600)
    assert (status, made["replaced"]) == (201, False)
    listed = {
        "name": "checkout",
        "owner": "alice",
        "services": {"foo": "version:v2", "bar": "alice"},
        "signed": False,
        "saved": "2023-11-14T22:13:20Z",
        "expires": "2023-11-14T22:23:20Z",
        "expires_in_s": 600,
    }
    assert await server.ask("GET", who="bob") == (200, {"contracts": [listed]})
    status, shown = await server.ask("GET", "checkout", who="bob")
    assert status == 200
    assert shown == {**listed, "contract": TEXT, "explanation": made["explanation"]}
    assert "version v2" in shown["explanation"][0]
    assert (await server.save(contract='{"foo": "bob"}'))[0] == 200
    status, gone = await server.ask("DELETE", "@checkout")
    assert (status, gone["contract"]) == (200, '{"foo": "bob"}')
    assert await server.ask("GET") == (200, {"contracts": []})
    status, error = await server.ask("GET", "checkout")
    assert (status, error["code"]) == (400, "contract-unknown")
    assert "alice was deleted" in error["message"]


async def test_a_name_decides_at_resolve_until_it_expires(server: Server) -> None:
    await server.save(ttl_s=600)
    for contract in ("@checkout", f"@checkout-devroute-trace-{TRACE}", TEXT):
        answer = await server.lines("/resolve", contract)
        assert (answer["decision"], answer["version"], answer["trace"]) == ("version", "v2", "yes")
    assert (await server.lines("/contract", "@checkout"))["saved-by"] == "alice"
    server.now[0] += 600
    answer = await server.lines("/resolve", "@checkout")
    assert (answer["decision"], answer["status"]) == ("error", "400")
    assert json.loads(answer["body"])["code"] == "contract-unknown"


async def test_only_the_owner_and_administrators_change_it(server: Server) -> None:
    await server.save()
    for answer in (await server.save(who="bob"), await server.ask("DELETE", "checkout", "bob")):
        assert (answer[0], answer[1]["code"]) == (403, "contract-not-owned")
        assert "bob-checkout" in answer[1]["hint"]
    assert (await server.save(who="dana", contract='{"foo": "dana"}'))[0] == 200
    assert (await server.ask("GET", "checkout"))[1]["owner"] == "dana"
    assert (await server.save(who="alice"))[0] == 403
    assert (await server.ask("DELETE", "checkout", "dana"))[0] == 200
    refused = [each for each in server.events if each["event"] == "refusal"]
    assert [(each["subject"], each["code"]) for each in refused] == [
        ("bob", "contract-not-owned"),
        ("bob", "contract-not-owned"),
        ("alice", "contract-not-owned"),
    ]
    changes = [each for each in server.events if each["event"] == "contract"]
    assert [(each["action"], each["subject"], each["owner"]) for each in changes] == [
        ("saved", "alice", None),
        ("saved", "dana", "alice"),
        ("deleted", "dana", "dana"),
    ]
    for event in server.events:
        VALIDATOR.validate({"audit": 1, "time": "2026-01-01T00:00:00.000000Z", **event})
    assert "version:v2" not in json.dumps(server.events), "the trail names no content of a contract"


async def test_everything_needs_a_token(server: Server) -> None:
    for method, name in [("GET", ""), ("GET", "checkout"), ("PUT", "checkout"), ("DELETE", "checkout")]:
        status, error = await server.ask(method, name, None, {"contract": TEXT})
        assert (status, error["code"]) == (401, "token-invalid")


@pytest.mark.parametrize(
    ("body", "code", "part"),
    [
        (b"", "request-malformed", "the body"),
        (b"[]", "request-malformed", "the body"),
        ({"contract": {"foo": "alice"}}, "request-malformed", "contract: "),
        ({"contract": TEXT, "ttl_s": 0}, "request-malformed", "ttl_s: "),
        ({"contract": TEXT, "ttl_s": MAX_TTL_S + 1}, "request-malformed", "ttl_s: "),
        ({"contract": TEXT, "ttl": 1}, "request-malformed", "ttl: "),
        ({"contract": ""}, "contract-invalid", "empty"),
        ({"contract": "@other"}, "contract-invalid", "not for another name"),
        ({"contract": '{"foo": 8001}'}, "contract-invalid", "service 'foo'"),
        ({"contract": "ey.a.b"}, "contract-invalid", "signed contract"),
        ({"contract": '{"foo": "' + "a" * 9000 + '"}'}, "contract-invalid", "8192"),
    ],
)
async def test_what_cannot_be_saved_says_why(server: Server, body: object, code: str, part: str) -> None:
    status, error = await server.ask("PUT", "checkout", body=body)
    assert (status, error["code"]) == (400, code)
    assert part in error["message"]


@pytest.mark.parametrize("name", ["A", "a_b", "a" * 64, "-a", "x-devroute-trace-y", "a.b", "%40%40a"])
async def test_what_is_no_name_is_refused(server: Server, name: str) -> None:
    status, error = await server.save(name)
    assert (status, error["code"]) == (400, "contract-invalid")


# --- signatures ---------------------------------------------------------------------------------------------


def signed(subject: str = "alice", key: SigningKey = KEY, ago: float = 0, ttl: float = 3600) -> str:
    return sign(parse(TEXT), key, subject, 1_700_000_000.0 - ago, ttl)


async def test_where_signatures_are_required_a_contract_is_signed_by_its_owner(server: Server) -> None:
    server.files["policy"] = Policy.parse("require: signed")
    for who, text, code in [
        ("alice", TEXT, "contract-unsigned"),
        ("bob", signed(), "contract-untrusted"),
        ("alice", signed(key=SigningKey.new("alice")), "contract-untrusted"),
        ("alice", signed(ago=7200), "contract-expired"),
    ]:
        status, error = await server.save(who=who, contract=text)
        assert (status, error["code"]) == (403, code)
    status, made = await server.save(contract=signed(), ttl_s=8 * 3600)
    assert (status, made["signed"], made["expires_in_s"]) == (201, True, 3600), "until the signature expires"
    assert (await server.lines("/resolve", "@checkout"))["decision"] == "version"
    assert (await server.lines("/contract", "@checkout"))["signer"] == "alice"


async def test_a_policy_that_comes_later_holds_for_what_is_saved(server: Server) -> None:
    await server.save()
    server.files["policy"] = Policy.parse("require: signed")
    answer = await server.lines("/resolve", "@checkout")
    assert (answer["decision"], "not signed" in answer["reason"]) == ("fallback", True)


async def test_a_trace_shows_what_a_name_stands_for(server: Server) -> None:
    await server.save()
    headers = {"x-devroute-trace": TRACE, "x-devroute": "@checkout", "x-devroute-candidates": "foo"}
    async with server.session.post(f"{server.url}/trace", headers=headers) as response:
        assert response.status == 204
    bearer = {"authorization": f"Bearer {TOKENS['alice'][0]}"}
    async with server.session.get(f"{server.url}/api/traces/{TRACE}", headers=bearer) as response:
        (hop,) = (await response.json())["hops"]
    assert (hop["contract"], hop["stands_for"]) == ("@checkout", TEXT)
