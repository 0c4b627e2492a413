"""The audit trail: every event has the form in docs/audit.md, and contains nothing that it must not."""

import json
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import aiohttp
import pytest
from aiohttp import web
from jsonschema import Draft202012Validator

from devroute.auth.tokens import new_token
from devroute.cli.config.sources import proxy_settings, read_file
from devroute.downstream.context import CompletedExchange
from devroute.errors import (
    BY_CODE,
    ConfigInvalid,
    ContractInvalid,
    DevrouteError,
    ServiceNotInContract,
    TargetDenied,
)
from devroute.http.http1.request import parse_request_head
from devroute.http.message import InboundRequest
from devroute.mesh import testbed
from devroute.proxy.telemetry import audit_events
from devroute.proxy.telemetry.audit import MAX_CACHED_BYTES, REFUSAL_BURST, Audit
from devroute.proxy.telemetry.audit_events import MAX_CALLER, refusal_fields
from devroute.proxy.telemetry.audit_file import AuditFile
from devroute.routing.route import FAILOVER, Route
from devroute.upstream.interface import Upstream
from tests.support.eventually import eventually
from tests.support.paths import ROOT

DOCUMENT = ROOT.joinpath("docs", "audit.md").read_text(encoding="utf-8")
SCHEMA = json.loads(DOCUMENT.partition("```json\n")[2].partition("```")[0])
#: Only known fields are accepted, so that a new field has to be described, too.
for each in SCHEMA["oneOf"]:
    each["additionalProperties"] = False
    each["properties"] |= {"audit": True, "time": True}
VALIDATOR = Draft202012Validator(SCHEMA)

Event = dict[str, Any]


def schema_of(event: str) -> dict[str, Any]:
    (found,) = [each for each in SCHEMA["oneOf"] if each["properties"]["event"].get("const") == event]
    return found


def read(file: Path) -> list[Event]:
    """The events of a trail, each validated by the schema, without a last one that is still being written."""
    *lines, _ = file.read_text(encoding="utf-8").split("\n")
    events = [json.loads(line) for line in lines]
    for event in events:
        VALIDATOR.validate(event)
    return events


# --- one event ----------------------------------------------------------------------------------------------


def over(
    request: InboundRequest,
    request_id: bytes = b"0af76519-16cd",
    route: Route | None = None,
    error: DevrouteError | None = None,
    status: int = 200,
) -> CompletedExchange:
    """A completed exchange."""
    done = CompletedExchange(request, 1.0)
    done.request_id = request_id
    done.route, done.error, done.status = route, error, status
    done.opened, done.ended, done.finished = 1.0, 1.1, 1.1
    return done


def request(*fields: bytes) -> InboundRequest:
    head = (b"POST /reset/hidden?token=hidden HTTP/1.1", b"host: foo", b"authorization: hidden", *fields)
    return parse_request_head(b"\r\n".join(head) + b"\r\n\r\n")


def routed(upstream: Upstream, signer: str | None = None) -> Route:
    return Route(upstream, "foo", "alice", "laptop", "foo answered by alice (tunnel)", signer)


class Nowhere:
    def open(self, head: object, sink: object) -> Any:
        raise NotImplementedError


@dataclass
class Kept:
    """A trail in a file, for one test."""

    file: Path
    audit: Audit = field(init=False)

    def __post_init__(self) -> None:
        self.audit = Audit(AuditFile(str(self.file)))

    def events(self) -> list[Event]:
        """All of them; nothing can be recorded afterwards."""
        self.audit.close()
        return read(self.file)


async def written(audit: Audit) -> None:
    audit.flush()
    await eventually(lambda: audit.writer.waiting == 0)


@pytest.fixture
async def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path / "audit")


async def test_a_detour_event_names_caller_target_and_reason_and_nothing_of_the_request(kept: Kept) -> None:
    who = b"x-devroute-caller: spiffe://cluster.local/ns/shop/sa/web"
    kept.audit.completed(over(request(who), route=routed(Nowhere(), "qa")))
    kept.audit.completed(over(request(), route=routed(Nowhere()), error=TargetDenied("no"), status=403))
    one, other = kept.events()
    del one["time"], other["time"]
    assert one == {
        "audit": 1,
        "event": "detour",
        "caller": "spiffe://cluster.local/ns/shop/sa/web",
        "signer": "qa",
        "service": "foo",
        "target": "alice",
        "decision": "laptop",
        "reason": "foo answered by alice (tunnel)",
        "status": 200,
        "code": None,
        "request_id": "0af76519-16cd",
    }
    assert (other["caller"], other["signer"], other["status"], other["code"]) == (
        None,
        None,
        403,
        "target-denied",
    )
    assert "hidden" not in kept.file.read_text()


@pytest.mark.parametrize("evil", [b'","event":"registration', b"\\", b"\xff\xfe", b"a" * 900, b"{}"])
async def test_what_a_client_sends_can_forge_no_event(kept: Kept, evil: bytes) -> None:
    sent = request(b"x-devroute-caller: " + evil)
    kept.audit.completed(over(sent, evil, routed(Nowhere())))
    kept.audit.completed(over(sent, evil, None, TargetDenied(evil.decode("latin-1"))))
    one, other = kept.events()
    assert (one["event"], one["caller"], one["request_id"]) == ("detour", *[evil.decode("latin-1")] * 2)
    assert (other["event"], other["caller"], other["at"]) == ("refusal", evil.decode("latin-1"), "data")


async def test_the_cache_of_callers_is_bounded(kept: Kept) -> None:
    flood = 1000
    route = routed(Nowhere())
    for number in range(flood):
        kept.audit.completed(over(request(b"x-devroute-caller: %04d" % number + b"a" * 60_000), route=route))
        assert kept.audit.cached.size <= MAX_CACHED_BYTES
        if number % 500 == 0:  # more than that may be lost while the disk is slow
            await written(kept.audit)
    events = kept.events()
    assert [event["caller"][:4] for event in events] == [f"{number:04}" for number in range(flood)]
    assert {len(event["caller"]) for event in events} == {MAX_CALLER}


async def test_a_flood_of_refusals_is_cut_short_and_hides_no_other(kept: Kept) -> None:
    def refuse(code: str) -> None:
        fields = {**refusal_fields(TargetDenied("no")), "code": code}
        kept.audit.record("refusal", at="tunnel", **fields)

    flood = 20 * REFUSAL_BURST
    for _ in range(flood):
        refuse("token-invalid")
    refuse("name-taken")
    kept.audit.record_omitted()
    kept.audit.record_omitted()
    events = kept.events()
    told = sum(event.get("code") == "token-invalid" and event["event"] == "refusal" for event in events)
    assert REFUSAL_BURST <= told < 2 * REFUSAL_BURST
    assert events[told]["code"] == "name-taken"
    (omission,) = events[told + 1 :]
    assert omission["event"] == "omission"
    assert (omission["at"], omission["code"], omission["count"]) == ("tunnel", "token-invalid", flood - told)


async def test_a_request_after_failover_belongs_to_the_service(kept: Kept) -> None:
    route = routed(Nowhere(), "qa").with_outcome("service", "foo: failover from laptop alice (404)", FAILOVER)
    kept.audit.completed(over(request(), route=route))
    (event,) = kept.events()
    assert (event["decision"], event["target"], event["signer"]) == ("service", "alice", "qa")
    assert event["reason"] == "foo: failover from laptop alice (404)"


@pytest.mark.parametrize("kind", [ContractInvalid, ServiceNotInContract])
def test_an_error_that_quotes_the_contract_is_recorded_by_its_code_alone(kind: type[DevrouteError]) -> None:
    error = kind("the contract names bob", service="bobs", target="bob")
    fields = {key: value for key, value in refusal_fields(error).items() if value is not None}
    assert fields == {"code": error.code, "reason": ""}


def test_every_code_fits_the_schema() -> None:
    patterns = [
        kind["properties"]["code"]["pattern"] for kind in (schema_of("refusal"), schema_of("omission"))
    ]
    for pattern in patterns:
        assert [code for code in BY_CODE if not re.search(pattern, code)] == []


# --- where it goes ------------------------------------------------------------------------------------------


async def test_a_file_that_was_moved_or_removed_is_created_again(tmp_path: Path) -> None:
    file, older = tmp_path / "audit", tmp_path / "audit.1"
    audit = Audit(AuditFile(str(file)))
    for number in range(3):
        audit.record("leave", subject="alice", laptop="alice", reason=str(number))
        await written(audit)
        if number == 0:
            file.rename(older)
        elif number == 1:
            file.unlink()
    audit.close()
    assert [event["reason"] for event in read(older)] == ["0"]
    assert [event["reason"] for event in read(file)] == ["2"]
    assert file.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
async def test_a_full_disk_delays_no_request_and_is_reported() -> None:
    audit = Audit(AuditFile("/dev/full"))
    audit.record("leave", subject="alice", laptop="alice", reason="")
    audit.close()
    assert (audit.writer.lost, audit.writer.problem) == (1, "No space left on device")


async def test_writing_resumes_once_a_missing_folder_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    audit = Audit(AuditFile(str(folder / "audit")))
    (folder / "audit").unlink()
    folder.rmdir()
    for reason in ("lost", "kept"):
        audit.record("leave", subject="alice", laptop="alice", reason=reason)
        await written(audit)
        assert audit.writer.lost == 1
        assert ("cannot be written" in str(audit.writer.problem)) == (reason == "lost")
        folder.mkdir(exist_ok=True)
    assert [event["reason"] for event in read(folder / "audit")] == ["kept"]
    audit.close()


@pytest.mark.parametrize("cut", [b'{"audit": 1, "ti', b"\n", b""])
async def test_a_line_that_an_earlier_process_cut_off_damages_no_other(kept: Kept, cut: bytes) -> None:
    kept.file.write_bytes(cut)
    kept.audit = Audit(AuditFile(str(kept.file)))
    kept.audit.record("leave", subject="alice", laptop="alice", reason="")
    kept.audit.close()
    *before, last = kept.file.read_bytes().splitlines()
    assert before == [cut.strip()] * bool(cut)
    VALIDATOR.validate(json.loads(last))


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigInvalid, match="the audit trail cannot be written"):
        AuditFile(str(tmp_path / "missing" / "audit"))


@pytest.mark.parametrize(("text", "place"), [("off", "off"), ('"-"', "-"), ("/var/log/a", "/var/log/a")])
def test_the_audit_setting_accepts_the_ways_to_write_it_in_yaml(text: str, place: str) -> None:
    assert proxy_settings([read_file(f"proxy: {{audit: {text}}}", "f")]).audit == place


# --- a running proxy ----------------------------------------------------------------------------------------

SECRETS = new_token("alice"), new_token("bob")
OTHERS = "someone-elses-laptop"
CONTRACT = json.dumps({"foo": "alice", "bar": OTHERS})


@dataclass
class Running:
    """A proxy with its trail in a file, and what it let happen."""

    folder: Path
    proxy: testbed.RunningProxy
    client: aiohttp.ClientSession
    environment: AsyncExitStack

    @property
    def file(self) -> Path:
        return self.folder / "audit"

    async def until(self, wanted: Callable[[Event], bool], file: Path | None = None) -> Event:
        found = await eventually(lambda: [event for event in read(file or self.file) if wanted(event)])
        return found[-1]

    async def detour(self, contract: str, **fields: str) -> int:
        headers = {"x-devroute": contract, "x-devroute-matched": "foo", "x-request-id": "r-1", **fields}
        url = "http://{}:{}/reset/hidden?token=hidden".format(*self.proxy.data)
        async with self.client.post(url, headers=headers, data="hidden") as response:
            return response.status

    async def control(self, path: str, **fields: str) -> int:
        async with self.client.get(self.proxy.server + path, headers=fields) as response:
            await response.read()
            return response.status


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    (tmp_path / "proxy").mkdir()
    async with AsyncExitStack() as stack, aiohttp.ClientSession() as client:
        settings = {"DEVROUTE_AUDIT": "audit", "DEVROUTE_RELOAD_INTERVAL": "0.5"}
        records = [record for _, record in SECRETS]
        proxy = await stack.enter_async_context(
            testbed.proxy(tmp_path / "proxy", records, "services: ['*']\n", settings)
        )
        yield Running(tmp_path / "proxy", proxy, client, stack)


def is_refusal(at: str, code: str) -> Callable[[Event], bool]:
    return lambda event: event["event"] == "refusal" and (event["at"], event["code"]) == (at, code)


def named(name: str, **more: object) -> Callable[[Event], bool]:
    return lambda event: event["event"] == name and all(event[key] == value for key, value in more.items())


def texts(folder: Path) -> Iterator[str]:
    for file in folder.glob("audit*"):
        yield file.read_text(encoding="utf-8")


async def test_a_running_proxy_records_laptops_requests_refusals_and_changes_of_its_files(
    running: Running,
) -> None:
    (alice, _), (bob, _) = SECRETS
    enter = running.environment.enter_async_context
    assert (await running.until(named("change", what="policy")))["outcome"] == "loaded"

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", hello)
    runner = web.AppRunner(app)
    await runner.setup()
    running.environment.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    service = f"foo=127.0.0.1:{runner.addresses[0][1]}"
    for name in ("one", "two"):
        (running.folder / name).mkdir()
    await enter(testbed.laptop(running.folder / "one", "alice", running.proxy.server, alice, service))
    registered = await running.until(named("registration"))
    assert (registered["subject"], registered["laptop"]) == ("alice", "alice")
    assert registered["services"][0]["service"] == "foo"

    # requests: one that is answered, and one that is refused
    assert await running.detour(CONTRACT, **{"x-devroute-caller": "spiffe://x/ns/shop/sa/web"}) == 200
    detour = await running.until(named("detour"))
    assert (detour["service"], detour["target"], detour["decision"]) == ("foo", "alice", "laptop")
    assert (detour["caller"], detour["request_id"]) == ("spiffe://x/ns/shop/sa/web", "r-1")
    assert await running.detour('{"foo": "169.254.169.254:8001"}') == 403
    refused = await running.until(is_refusal("data", "target-denied"))
    assert (refused["target"], refused["request_id"]) == ("169.254.169.254:8001", "r-1")
    assert await running.detour(CONTRACT.replace("foo", "other")) == 400
    assert (await running.until(is_refusal("data", "service-not-in-contract")))["reason"] == ""
    resolve = {"x-devroute": '{"foo": "10.0.0.1:8001"}', "x-devroute-candidates": "foo"}
    assert await running.control("/resolve", **resolve) == 200
    assert (await running.until(is_refusal("resolve", "target-denied")))["service"] == "foo"

    # people: wrong tokens, others' names, one's own name again
    wrong = {"authorization": f"Bearer {alice[:-1]}"}
    assert await running.control("/api/status", **wrong) == 401
    await running.until(is_refusal("api", "token-invalid"))
    async with aiohttp.ClientSession() as fresh:  # a tunnel is its connection's first request
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await fresh.ws_connect(f"{running.proxy.server}/tunnel", headers=wrong)
    assert (await running.until(is_refusal("tunnel", "token-invalid")))["peer"] == "127.0.0.1"
    where = {"DEVROUTE_SERVER": running.proxy.server, "DEVROUTE_TOKEN": bob}
    await enter(testbed.command(running.folder, "up-bob", ("up", "--name", "alice", service), where))
    assert (await running.until(is_refusal("tunnel", "name-not-owned")))["subject"] == "bob"
    where["DEVROUTE_TOKEN"] = alice
    await enter(testbed.command(running.folder, "up-alice-2", ("up", "--takeover", service), where))
    assert (await running.until(named("takeover")))["laptop"] == "alice"

    # rules: a good policy, which takes a right away, and a broken one
    policy = running.folder / "policy.yaml"
    policy.write_text("services: [bar]\n")
    await running.until(lambda event: event["event"] == "leave")
    policy.write_text("services: 1\n")
    rejected = await running.until(named("change", outcome="rejected"))
    assert (rejected["what"], rejected["path"]) == ("policy", "policy.yaml")

    for text in texts(running.folder):
        for secret in ("hidden", alice, bob, alice[:-1], OTHERS):
            assert secret not in text


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
async def test_a_hangup_signal_creates_the_file_again_without_an_event(running: Running) -> None:
    await running.until(named("change", what="tokens"))
    running.file.rename(running.folder / "audit.1")
    running.proxy.command.process.send_signal(signal.SIGHUP)
    await eventually(running.file.exists)
    assert await running.detour('{"foo": "10.0.0.1:1"}') == 403
    await running.until(is_refusal("data", "target-denied"))
    assert running.proxy.command.process.returncode is None


def test_the_document_names_every_event() -> None:
    events = get_args(audit_events.Event)
    assert SCHEMA["properties"]["event"]["enum"] == sorted(events)
    assert [event for event in events if f"| `{event}` |" not in DOCUMENT] == []
