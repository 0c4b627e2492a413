"""Signed contracts where requests are decided: /resolve, the data port, a running proxy."""

import asyncio
import json
import time
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from devroute.auth import jwks
from devroute.cli.config.sources import Source, proxy_settings
from devroute.contract.grammar import Contract, Signature, parse
from devroute.contract.keys import Keys
from devroute.contract.signer import SigningKey, sign
from devroute.contract.target import Address
from devroute.contract.validity import SKEW_S
from devroute.contract.verifier import Verifier
from devroute.errors import (
    ConfigInvalid,
    ContractExpired,
    ContractInvalid,
    ContractUnsigned,
    ContractUntrusted,
    TargetDenied,
)
from devroute.http.http1.request import parse_request_head
from devroute.mesh import testbed
from devroute.policy.policy import Policy
from devroute.proxy import reload
from devroute.routing.decision import Decision, decide
from devroute.routing.registry import Registry
from devroute.routing.resolve_codec import encode
from devroute.routing.route import Route
from devroute.routing.router import ContractRouter
from devroute.upstream.negotiating import NegotiatingUpstream
from devroute.upstream.pools import Pools
from tests.support.eventually import eventually

NOW = 1_800_000_000.0
STRICT = Policy.from_mapping({"direct": {"networks": ["192.168.0.0/16"]}, "require": "signed"})
OPEN = Policy.from_mapping({"direct": {"networks": ["192.168.0.0/16"]}})
KEY = SigningKey.new("alice")
KEYS = Keys.parse(json.dumps({"keys": [KEY.as_public_jwk()]}))
DIRECT = '{"foo": "192.168.1.12:8001"}'
INSISTING = '{"foo": {"to": "192.168.1.12:8001", "fallback": "fail"}}'


def signed(contract: str, at: float = NOW, ttl: float = 3600) -> str:
    return sign(parse(contract), KEY, "alice", at, ttl)


def decided(raw: str, service: str = "foo", now: float = NOW, policy: Policy = OPEN) -> Decision:
    return decide(raw, [service], None, policy, Registry(), read=Verifier(lambda: KEYS), now=now)


def test_a_signed_contract_has_the_same_target_as_an_unsigned_one() -> None:
    decision = decided(signed(DIRECT))
    assert (decision.kind, decision.address) == ("detour", Address("192.168.1.12", 8001))
    assert decided(signed(DIRECT), "other").kind == "service"


def test_a_signature_permits_nothing_that_policy_denies() -> None:
    for target in ("10.0.0.1:8001", "127.0.0.1:8001", "169.254.169.254:80"):
        decision = decided(signed(json.dumps({"foo": target})))
        assert (decision.kind, type(decision.error)) == ("fallback", TargetDenied)


def test_an_expired_contract_is_denied_as_by_policy_and_does_not_affect_other_services() -> None:
    late = NOW + 3600 + SKEW_S
    decision = decided(signed(DIRECT), now=late)
    assert (decision.kind, type(decision.error)) == ("fallback", ContractExpired)
    assert "the contract of 'alice' expired 30 s ago" in encode(decision).decode()
    insisting = decided(signed(INSISTING), now=late)
    assert (insisting.kind, insisting.error and insisting.error.status) == ("error", 403)
    assert decided(signed(DIRECT), "other", now=late).kind == "service"
    assert decided(signed(DIRECT), now=NOW - 60).kind == "fallback"


def test_a_contract_without_a_known_signer_is_an_error_at_every_service() -> None:
    raw = signed(DIRECT)
    tampered = raw[:60] + ("A" if raw[60] != "A" else "B") + raw[61:]
    for service in ("foo", "other"):
        decision = decided(tampered, service)
        assert decision.kind == "error"
        assert decision.error is not None
        assert decision.error.code in ("contract-invalid", "contract-untrusted")


def test_a_decision_is_not_cached_beyond_the_contracts_lifetime() -> None:
    for remaining, ttl in [(3600.0, 250), (0.125, 125), (0.0, 0)]:
        now = NOW + 3600 + SKEW_S - remaining
        assert decided(signed(DIRECT), now=now).ttl_ms == ttl
    assert decided(signed(DIRECT), "other", now=NOW + 3600 + SKEW_S - 0.5).ttl_ms == 500


def test_where_policy_requires_signatures_an_unsigned_contract_is_denied_with_the_reason() -> None:
    decision = decided(DIRECT, policy=STRICT)
    assert (decision.kind, type(decision.error)) == ("fallback", ContractUnsigned)
    assert "reason the contract is not signed, but policy requires it" in encode(decision).decode()
    insisting = decided(INSISTING, policy=STRICT)
    assert (insisting.kind, insisting.error and insisting.error.code) == ("error", "contract-unsigned")
    assert decided(DIRECT, "other", policy=STRICT).kind == "service"
    assert decided(signed(DIRECT), policy=STRICT).kind == "detour"
    assert decided(signed('{"foo": "10.0.0.1:8001"}'), policy=STRICT).kind == "fallback"


class Desk:
    """A router whose clock and keys a test sets."""

    def __init__(self, policy: Policy = OPEN) -> None:
        self.now = NOW
        self.keys = KEYS
        self.read = 0
        verifier = Verifier(lambda: self.keys)

        def counting(raw: str) -> Contract:
            self.read += 1
            return verifier(raw)

        pools = Pools(lambda: policy, connect_timeout=1, max_in_flight=1)
        self.router = ContractRouter(Registry(), lambda: policy, pools, counting, lambda: self.now)

    def route(self, contract: str) -> Route:
        fields = f"x-devroute: {contract}\r\nx-devroute-matched: foo\r\n\r\n"
        return self.router(parse_request_head(b"GET / HTTP/1.1\r\nhost: foo\r\n" + fields.encode()))


async def test_a_verified_contract_is_cached_but_never_beyond_its_lifetime() -> None:
    desk = Desk()
    raw = signed(DIRECT)
    route = desk.route(raw)
    assert isinstance(route.upstream, NegotiatingUpstream)
    assert desk.route(raw) is route
    assert desk.read == 1
    desk.now = NOW + 3600 + SKEW_S
    with pytest.raises(ContractExpired):
        desk.route(raw)
    assert desk.read == 1
    with pytest.raises(ContractExpired):  # nor is it judged again to be good
        desk.route(signed(DIRECT, ttl=3599))


async def test_a_withdrawn_key_invalidates_its_contracts() -> None:
    desk = Desk()
    raw = signed(DIRECT)
    desk.route(raw)
    desk.keys = Keys()
    desk.router.forget()
    with pytest.raises(Exception, match="does not accept signed contracts"):
        desk.route(raw)


async def test_a_policy_denies_what_a_signed_contract_asks_for() -> None:
    with pytest.raises(TargetDenied):
        Desk().route(signed('{"foo": "127.0.0.1:8001"}'))


async def test_the_data_port_too_refuses_unsigned_contracts_where_policy_requires_signatures() -> None:
    desk = Desk(STRICT)
    for _ in range(2):
        with pytest.raises(ContractUnsigned):
            desk.route(DIRECT)
    assert isinstance(desk.route(signed(DIRECT)).upstream, NegotiatingUpstream)


async def test_a_contract_signed_with_an_unknown_key_never_reaches_a_target() -> None:
    stranger = sign(parse(DIRECT), SigningKey.new("alice"), "alice", NOW, 60)
    with pytest.raises(ContractUntrusted):
        Desk().route(stranger)


def test_a_signature_names_its_subject_and_expiry() -> None:
    contract = Verifier(lambda: KEYS)(signed(DIRECT))
    assert contract.signature == Signature("alice", KEY.id, NOW, NOW + 3600)


async def test_a_running_proxy_reads_its_keys_again_when_they_change(tmp_path: Path) -> None:
    keys = tmp_path / "contract-keys.json"
    keys.write_text(json.dumps({"keys": []}))
    settings = {"DEVROUTE_CONTRACT_KEYS": str(keys), "DEVROUTE_RELOAD_INTERVAL": "0.5"}
    async with testbed.proxy(tmp_path, [], environment=settings) as proxy, aiohttp.ClientSession() as client:

        async def asked() -> str:
            contract = signed('{"foo": "127.0.0.1:1"}', at=time.time())
            fields = {"x-devroute": contract, "x-devroute-candidates": "foo"}
            async with client.get(f"{proxy.server}/resolve", headers=fields) as response:
                return await response.text()

        async def until(words: str) -> None:
            async def replied() -> bool:
                return words in await asked()

            await eventually(replied, words)

        assert "does not accept signed contracts" in await asked()
        keys.write_text(json.dumps({"keys": [KEY.as_public_jwk()]}))
        await until("decision fallback")  # nothing listens on port 1
        keys.write_text(json.dumps({"keys": [KEY.as_jwk()]}))
        await eventually(lambda: any(e.get("event") == "file.rejected" for e in proxy.command.events()))
        assert "decision fallback" in await asked(), "a broken file keeps the keys that were in force"
        keys.write_text(json.dumps({"keys": [SigningKey.new("bob").as_public_jwk()]}))
        await until("which this server does not know")


async def test_keys_of_a_url_are_fetched_again_and_outlast_a_server_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reload, "REFRESH_SECONDS", 0.05)
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.01)
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0.05)
    served = [KEY.as_public_jwk()]

    async def answer(_: web.Request) -> web.Response:
        return web.json_response({"keys": served}, status=200 if served else 503)

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found = reload.signing_keys(f"http://127.0.0.1:{runner.addresses[0][1]}/keys")
    read = Verifier(found.usable)
    decision = decide(signed(DIRECT), ["other"], None, OPEN, Registry(), read=read, now=NOW)
    assert (decision.kind, decision.error and decision.error.code) == ("fallback", "keys-unavailable")
    assert read(DIRECT).signature is None
    found.start()
    try:
        await eventually(lambda: KEY.id in found.current().by_id)
        assert read(signed(DIRECT)).signature is not None
        served.clear()
        await eventually(lambda: found.problem is not None)
        assert read(signed(DIRECT)).signature is not None
        served.append(SigningKey.new("bob").as_public_jwk())
        await eventually(lambda: KEY.id not in found.current().by_id)
        with pytest.raises(ContractUntrusted, match="does not know"):
            read(signed(DIRECT))
    finally:
        await found.stop()
        await runner.cleanup()


async def test_no_keys_in_a_file_make_a_signed_contract_invalid(tmp_path: Path) -> None:
    file = tmp_path / "contract-keys.json"
    file.write_text('{"keys": []}')
    for location in (None, str(file)):
        with pytest.raises(ContractInvalid, match="does not accept signed contracts"):
            Verifier(reload.signing_keys(location).usable)(signed(DIRECT))


async def test_an_unknown_key_is_fetched_at_once_but_not_for_every_forged_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(jwks, "COOLDOWN_SECONDS", 0.2)
    served = [SigningKey.new("bob").as_public_jwk()]
    asked = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        return web.json_response({"keys": served})

    app = web.Application()
    app.router.add_get("/keys", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    found = reload.signing_keys(f"http://127.0.0.1:{runner.addresses[0][1]}/keys")
    read = Verifier(found.usable, on_unknown_key=found.look_again)
    found.start()  # it would look again by itself in half a minute
    try:
        await eventually(lambda: found.current().by_id)
        began = time.monotonic()
        before = asked
        for number in range(200):
            forger = SigningKey.new(f"forger-{number}")
            with pytest.raises(ContractUntrusted, match="does not know"):
                read(sign(parse(DIRECT), forger, "alice", NOW, 3600))
            await asyncio.sleep(0)
        assert asked - before <= 1 + (time.monotonic() - began) / 0.2
        served.append(KEY.as_public_jwk())

        def known() -> bool:
            try:
                return read(signed(DIRECT)).signature is not None
            except ContractUntrusted:
                return False

        await eventually(known)
    finally:
        await found.stop()
        await runner.cleanup()


def test_keys_are_never_fetched_over_plain_http() -> None:
    with pytest.raises(ConfigInvalid, match="plain http"):
        proxy_settings([Source("flags", {"contract_keys": "http://keys.example/jwks.json"})])
