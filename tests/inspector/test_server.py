"""The inspector's server over real sockets: access control and API."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from devroute.errors import AppUnreachable, ConfigInvalid, DevrouteError, InspectorDenied, InspectorLocked
from devroute.inspector import port as inspector_port
from devroute.inspector import server
from devroute.inspector.access import AccessControl, is_loopback
from devroute.inspector.capture import Capture, CapturedHead, Message
from devroute.inspector.inspection import About, Inspection
from devroute.inspector.protobuf.catalogue import Found
from devroute.inspector.protobuf.decoder import DecodedCall, DecodedMessage, Decoder
from devroute.inspector.store import CaptureStore
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.inspector import serve_inspector

pytestmark = pytest.mark.asyncio

ABOUT = About({"foo": "http://localhost:8001"}, "alice")


def capture(target: str = "/path", **changes: Any) -> Capture:
    """A completed capture."""
    made = Capture("foo", changes.pop("method", "GET"), target, 1_700_000_000.0, 10.0)
    made.sent, made.responded, made.ended = 10.001, 10.021, 10.022
    made.status, made.reason, made.state = 200, "OK", "done"
    made.request_head = CapturedHead.of([("host", "foo"), ("x-one", "1")])
    made.response_head = CapturedHead.of([("content-type", "application/json")])
    body = changes.pop("body", b'{"a": 1}')
    made.response_body.data, made.response_body.size = bytearray(body), len(body)
    made.response_body.complete = made.request_body.complete = True
    for name, value in changes.items():
        if name.endswith("_headers"):
            name, value = name.replace("headers", "head"), CapturedHead.of(value)
        setattr(made, name, value)
    return made


@dataclass
class Opened:
    """A running inspector, and a browser that has opened its link."""

    store: CaptureStore
    access: AccessControl
    session: aiohttp.ClientSession
    urls: list[str] = field(default_factory=list)
    asked: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.access.port}"

    async def get(self, path: str) -> Any:
        async with self.session.get(self.origin + path) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def send(self, method: str, path: str, document: object = None, **headers: str) -> tuple[int, Any]:
        own = {"origin": self.origin} | {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(
            method, self.origin + path, json=document, headers={k: v for k, v in own.items() if v}
        ) as response:
            return response.status, await response.json()


@asynccontextmanager
async def inspector(store: CaptureStore | None = None) -> AsyncIterator[Opened]:
    store = CaptureStore() if store is None else store
    urls: list[str] = []
    asked: list[tuple[int, dict[str, Any]]] = []

    async def replay(of: Capture, edits: dict[str, Any]) -> Capture:
        asked.append((of.id, edits))
        if edits.get("target") == "/nowhere":
            raise AppUnreachable("localhost:1: connection refused")
        return store.add(capture(edits.get("target", of.target), replay_of=of.id))

    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        serve_inspector(Inspection(store, replay, ABOUT), urls.append, port=0) as access,
        aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session,
    ):
        async with session.get(access.url) as response:
            assert response.status == 200
            assert str(response.url) == f"http://127.0.0.1:{access.port}/"
        yield Opened(store, access, session, urls, asked)


# --- access -------------------------------------------------------------------------------------------


async def test_the_link_opens_once_and_leaves_no_token_behind() -> None:
    async with inspector() as opened, aiohttp.ClientSession() as fresh:
        (next_link,) = opened.urls
        first = next_link.replace(opened.access.token, "x" * len(opened.access.token))
        for link in (first, opened.origin + "/"):
            async with fresh.get(link) as response:
                assert response.status == 401
                assert "devroute up" in await response.text()
                assert "set-cookie" not in response.headers
        async with fresh.get(next_link, allow_redirects=False) as response:
            assert (response.status, response.headers["location"]) == (303, "/")
            cookie = response.headers["set-cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        async with aiohttp.ClientSession() as third, third.get(next_link) as response:
            assert response.status == 401


async def test_a_used_link_still_opens_in_the_same_browser() -> None:
    async with inspector() as opened:
        link = f"{opened.origin}/?token=used"
        async with opened.session.get(link) as response:
            assert response.status == 200
            assert "inspector" in await response.text()


async def test_a_link_on_another_site_opens_the_inspector_with_its_cookie() -> None:
    headers = {"sec-fetch-site": "cross-site"}
    async with (
        inspector() as opened,
        aiohttp.ClientSession(headers=headers) as fresh,
        fresh.get(opened.access.url) as response,
    ):
        assert (response.status, response.headers["refresh"]) == (200, "0;url=/")
        assert opened.access.cookie in response.headers["set-cookie"]


@pytest.mark.parametrize("path", ["/api/exchanges", "/api/events", "/api/status", "/api/search?q=a"])
async def test_without_the_cookie_nothing_is_shown(path: str) -> None:
    async with inspector() as opened, aiohttp.ClientSession() as stranger:
        cookies = {opened.access.cookie: "guessed"}
        for sent in ({}, cookies):
            async with stranger.get(opened.origin + path, cookies=sent) as response:
                assert response.status == 401
                assert (await response.json())["code"] == "inspector-locked"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "localhost", "127.0.0.1:1", "[::2]:{port}", ""]
)
async def test_a_host_that_is_not_loopback_is_refused(host: str) -> None:
    async with inspector() as opened:
        sent = {"host": host.format(port=opened.access.port)}
        for path in ("/", "/page/app.js", "/api/exchanges", f"/?token={opened.access.token}"):
            async with opened.session.get(opened.origin + path, headers=sent) as response:
                assert response.status == 403
        assert len(opened.urls) == 1


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
async def test_all_names_of_loopback_are_accepted(host: str) -> None:
    async with inspector() as opened:
        sent = {"host": host.format(port=opened.access.port)}
        async with opened.session.get(f"{opened.origin}/page/app.js", headers=sent) as response:
            assert response.status == 200


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "http://localhost:3000", "sec-fetch-site": "same-site"},
    {"origin": "null"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


@pytest.mark.parametrize("headers", [*FOREIGN, {"origin": ""}], ids=str)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/pause"),
        ("DELETE", "/api/exchanges"),
        ("POST", "/api/exchanges/1/replay"),
        ("POST", "/api/har"),
    ],
)
async def test_no_other_site_changes_anything(method: str, path: str, headers: dict[str, str]) -> None:
    async with inspector() as opened:
        opened.store.add(capture())
        status, answer = await opened.send(method, path, {"paused": True}, **headers)
        assert (status, answer["code"]) == (403, "inspector-denied")
        assert len(opened.store) == 1
        assert not opened.store.paused
        assert opened.asked == []


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
async def test_no_other_site_reads_anything(headers: dict[str, str]) -> None:
    async with (
        inspector() as opened,
        opened.session.get(f"{opened.origin}/api/exchanges", headers=headers) as response,
    ):
        assert response.status == 403
        assert "access-control-allow-origin" not in response.headers


async def test_changes_need_the_cookie_too() -> None:
    async with inspector() as opened:
        opened.session.cookie_jar.clear()
        status, answer = await opened.send("DELETE", "/api/exchanges")
        assert (status, answer["code"]) == (401, "inspector-locked")


@pytest.mark.parametrize(
    ("served", "headers", "status"),
    [
        (True, {}, 200),
        (True, {"host": "evil.example"}, 403),
        (True, {"origin": "http://evil.example"}, 403),
        (True, {"sec-fetch-site": "cross-site"}, 403),
        (False, {}, 401),
    ],
)
async def test_metrics_are_for_this_machine_without_a_cookie_where_they_are_served(
    served: bool, headers: dict[str, str], status: int
) -> None:
    async def metrics(accept: str) -> tuple[bytes, str]:
        return accept.encode(), "text/plain"

    inspection = Inspection(CaptureStore(), None, ABOUT, metrics=metrics if served else None)  # type: ignore[arg-type]  # never replays
    async with (
        serve_inspector(inspection, lambda url: None, port=0) as access,
        aiohttp.ClientSession(headers={"accept": "x/y", **headers}) as session,
    ):
        async with session.get(f"http://127.0.0.1:{access.port}/metrics") as response:
            assert response.status == status
            assert (await response.read() == b"x/y") is (status == 200)
        async with session.get(f"http://127.0.0.1:{access.port}/api/exchanges") as response:
            assert response.status in (401, 403), "only /metrics is open"


async def test_other_machines_are_refused_even_if_they_reach_the_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            address = probe.getsockname()[0]
        except OSError:
            address = "127.0.0.1"
    access = AccessControl(0, lambda url: None)
    with pytest.raises(InspectorDenied):
        access.check_host("192.0.2.7", "127.0.0.1:0")
    if is_loopback(address):
        return  # a machine without a network
    page = server.Inspector(Inspection(CaptureStore(), None, ABOUT), access)  # type: ignore[arg-type]  # never replays
    runner = web.AppRunner(page.application())
    await runner.setup()
    try:
        await web.TCPSite(runner, "0.0.0.0", 0).start()
        access.port = runner.addresses[0][1]
        sent = {"host": f"127.0.0.1:{access.port}"}
        async with aiohttp.ClientSession(headers=sent) as session:
            async with session.get(f"http://{address}:{access.port}/?token={access.token}") as response:
                assert response.status == 403
            own = f"http://127.0.0.1:{access.port}/?token={access.token}"
            async with session.get(own, allow_redirects=False) as response:
                assert response.status == 303
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("peer", "ours"),
    [
        *((each, True) for each in ("127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1")),
        *((each, False) for each in ("::ffff:10.0.0.1", "10.0.0.1", "fe80::1", "", None, "nonsense")),
    ],
)
async def test_only_loopback_peers_are_this_machine(peer: str | None, ours: bool) -> None:
    assert is_loopback(peer) is ours


async def test_a_token_of_any_characters_is_only_refused() -> None:
    access = AccessControl(1, lambda url: None)
    for token in ("", "ä", "\udcff", "x" * 10_000):
        with pytest.raises(InspectorLocked):
            access.redeem(token)


@pytest.mark.parametrize(
    "path", ["/", "/page/app.js", "/api/status", "/api/exchanges/1/response-body", "/nowhere"]
)
async def test_every_response_has_the_security_headers(path: str) -> None:
    async with inspector() as opened:
        opened.store.add(capture(body=b"<script>alert(1)</script>"))
        async with opened.session.get(opened.origin + path) as response:
            policy = response.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert response.headers["x-frame-options"] == "DENY"
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["cache-control"] == "no-store"
            if path.endswith("body"):
                assert response.content_type == "application/octet-stream"
                assert response.headers["content-disposition"].startswith("attachment")


async def test_the_page_has_no_inline_script_and_loads_nothing_from_elsewhere() -> None:
    async with inspector() as opened, opened.session.get(opened.origin) as response:
        page = await response.text()
    assert " style=" not in page
    assert "<script>" not in page
    assert "http" not in page.replace('http-equiv="', "")


# --- the API ------------------------------------------------------------------------------------------


async def test_captures_are_listed_newest_first_and_shown_one_by_one() -> None:
    async with inspector() as opened:
        opened.store.add(capture("/1"))
        opened.store.add(capture("/2"))
        listed = (await opened.get("/api/exchanges"))["exchanges"]
        assert [each["target"] for each in listed] == ["/2", "/1"]
        shown = await opened.get("/api/exchanges/1")
        assert shown["response_headers"] == [["content-type", "application/json"]]
        assert shown["timing"] == {"queue_ms": 1.0, "app_ms": 20.0, "transfer_ms": 1.0}
        async with opened.session.get(f"{opened.origin}/api/exchanges/99") as response:
            assert (response.status, (await response.json())["code"]) == (404, "not-found")


async def test_a_body_can_be_fetched_from_an_offset() -> None:
    async with inspector() as opened:
        opened.store.add(capture(body=b"0123456789"))
        path = f"{opened.origin}/api/exchanges/1/response-body"
        for query, expected in [
            ("", b"0123456789"),
            ("?from=7", b"789"),
            ("?from=99", b""),
            ("?from=x", b"0123456789"),
        ]:
            async with opened.session.get(path + query) as response:
                assert await response.read() == expected


async def test_a_list_and_messages_are_read_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    async def call(self: Decoder, of: Capture, first: int = 0) -> DecodedCall:
        return DecodedCall(Found(), first, [DecodedMessage(True, str(n)) for n in range(first, 5)])

    monkeypatch.setattr(Decoder, "call", call)
    async with inspector() as opened:
        for number in range(5):
            opened.store.add(capture(f"/{number % 2}"))
        page = await opened.get("/api/exchanges?q=path:/0&before=5&limit=1")
        assert ([each["id"] for each in page["exchanges"]], page["matching"]) == ([3], 3)
        for wrong in ("before=x", "limit=-1"):
            async with opened.session.get(f"{opened.origin}/api/exchanges?{wrong}") as response:
                assert (response.status, "has to be a number" in await response.text()) == (400, True)
        page = await opened.get("/api/exchanges/1/messages?from=2&limit=2")
        shown = [each["json"] for each in page["messages"]]
        assert (shown, page["first"], page["listed"]) == (["2", "3"], 2, 3)
        assert len((await opened.get("/api/exchanges/1/messages"))["messages"]) == 5


async def test_the_same_query_searches_lists_and_exports() -> None:
    async with inspector() as opened:
        for number in range(1, 5):
            opened.store.add(capture(f"/{number}", method="GET" if number % 2 else "POST"))
        opened.store.add(capture("/5", messages=[Message(0.1, True, "text", b"a needle", 8)]))
        query = "path:/ -method:post"
        found = await opened.get(f"/api/search?q={query}")
        assert found == {
            "ids": [5, 3, 1],
            "terms": [
                {"field": "path", "values": ["/"], "negated": False},
                {"field": "method", "values": ["post"], "negated": True},
            ],
        }
        assert (await opened.get(f"/api/search?q={query}&ids=1,2,9"))["ids"] == [1]
        assert [each["id"] for each in (await opened.get("/api/exchanges?q=NEEDLE"))["exchanges"]] == [5]
        exported = await opened.get(f"/api/har?q={query}")
        assert [each["request"]["url"][-2:] for each in exported["log"]["entries"]] == ["/1", "/3", "/5"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/search?q=status:nope", "query-invalid"),
        ("/api/exchanges?q=stauts:500", "query-invalid"),
        ("/api/har?q=is:", "query-invalid"),
        ("/api/search?ids=1,x", "request-malformed"),
        ("/api/search?ids=" + "1," * 2000, "request-malformed"),
        ("/api/query/switched?q=&field=nope&value=1", "query-invalid"),
        ("/api/rules.yaml?id=x", "request-malformed"),
        ("/api/rules.yaml?id=" + "9" * 5000, "request-malformed"),
    ],
)
async def test_a_query_that_cannot_be_read_is_explained(path: str, code: str) -> None:
    async with inspector() as opened:
        status, answer = await opened.send("GET", path)
        assert (status, answer["code"]) == (400, code)
        assert answer["message"]


async def test_a_query_is_completed_and_edited() -> None:
    async with inspector() as opened:
        opened.store.add(capture(method="PATCH"))
        found = await opened.get("/api/query/suggestions?before=method:&after=")
        assert found["suggestions"] == [
            {"before": "method:PATCH ", "after": "", "label": "PATCH", "words": ""}
        ]
        found = await opened.get("/api/query/switched?q=tea&field=is&value=noise&negated=1")
        assert found == {"query": "tea -is:noise"}


async def test_two_captures_are_compared() -> None:
    async with inspector() as opened:
        opened.store.add(capture(body=b'{"a": 1, "b": 2}'))
        opened.store.add(capture(body=b'{"a": 1, "b": 3}'))
        found = (await opened.get("/api/compare?a=1&b=2"))["differences"]
        assert found == [{"where": "body $.b", "left": "2", "right": "3"}]
        assert (await opened.get("/api/compare?a=1&b=1"))["differences"] == []
        async with opened.session.get(f"{opened.origin}/api/compare?a=1&b=nine") as response:
            assert response.status == 404


async def test_a_replay_gives_a_new_capture_or_an_error() -> None:
    async with inspector() as opened:
        opened.store.add(capture())
        assert await opened.send("POST", "/api/exchanges/1/replay", {"target": "/b"}) == (202, {"id": 2})
        assert opened.asked == [(1, {"target": "/b"})]
        status, answer = await opened.send("POST", "/api/exchanges/1/replay", {"target": "/nowhere"})
        assert (status, answer["code"]) == (502, "app-unreachable")
        status, answer = await opened.send("POST", "/api/exchanges/7/replay", {})
        assert (status, answer["code"]) == (404, "not-found")


async def test_curl_goes_to_the_local_app_or_through_the_mesh(monkeypatch: pytest.MonkeyPatch) -> None:
    async with inspector() as opened:
        opened.store.add(capture("/it's?a=1", request_headers=[("authorization", "Bearer abc.def-123456")]))
        local = await opened.get("/api/exchanges/1/curl")
        assert local["to"] == "http://localhost:8001"
        assert "http://localhost:8001/it" in local["command"]
        assert local["secrets"] == ["SECRET_AUTHORIZATION"]
        inside = await opened.get("/api/exchanges/1/curl?to=mesh")
        assert inside["to"] == "http://foo"
        assert """-H 'X-devroute: {"foo": "alice"}'""" in inside["command"]
        traced = '{"foo": "bob","devroute-trace":"de7e0a7e000000000000000000000001"}'
        opened.store.add(capture("/traced", request_headers=[("x-devroute", traced)]))
        again = (await opened.get("/api/exchanges/2/curl?to=mesh"))["command"]
        assert """-H 'X-devroute: {"foo": "bob"}'""" in again, "not one more request of the recorded trace"
        monkeypatch.setitem(ABOUT.entries, "shop", "https://shop.example")
        assert (await opened.get("/api/exchanges/1/curl?to=mesh"))["to"] == "https://shop.example"
        monkeypatch.setitem(ABOUT.entries, "foo", "https://foo.example")
        assert (await opened.get("/api/exchanges/1/curl?to=mesh"))["to"] == "https://foo.example"


async def test_curl_of_an_outgoing_request_goes_through_the_local_port_of_its_service(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ABOUT.reached, "c.shop:80", "http://127.0.0.1:9002")
    async with inspector() as opened:
        headers = [("Host", "c.shop"), ("x-one", "1")]
        opened.store.add(capture("/a", direction="out", service="c.shop:80", request_headers=headers))
        local = await opened.get("/api/exchanges/1/curl")
        assert local["command"] == "curl http://127.0.0.1:9002/a \\\n  -H 'x-one: 1'"
        monkeypatch.setattr(ABOUT, "reach_proxy", "http://127.0.0.1:1080")
        opened.store.add(capture("/b", direction="out", service="d.shop:81", request_headers=headers))
        other = (await opened.get("/api/exchanges/2/curl"))["command"]
        assert other.startswith("curl --proxytunnel --proxy http://127.0.0.1:1080 http://d.shop:81/b ")
        async with opened.session.get(f"{opened.origin}/api/exchanges/1/curl?to=mesh") as response:
            assert (response.status, (await response.json())["code"]) == (409, "not-replayable")
        assert (await opened.get("/api/exchanges/1/rule"))["rule"]["direction"] == "out"
        summary = (await opened.get("/api/exchanges?q=direction:out"))["exchanges"][1]
        assert (summary["direction"], summary["service"], summary["caller"]) == ("out", "c.shop:80", "")


async def test_har_is_exported_and_imported() -> None:
    async with inspector() as opened:
        opened.store.add(capture("/1"))
        opened.store.add(capture("/2", body=b"\x00\xff"))
        async with opened.session.get(f"{opened.origin}/api/har") as response:
            assert response.headers["content-disposition"] == 'attachment; filename="devroute-alice.har"'
            document = await response.json()
        assert [each["request"]["url"] for each in document["log"]["entries"]] == [
            "http://foo/1",
            "http://foo/2",
        ]
        assert await opened.send("POST", "/api/har", document) == (
            200,
            {"imported": 2, "skipped": 0, "reasons": []},
        )
        document["log"]["entries"][0]["request"]["url"] = "data:,"
        status, found = await opened.send("POST", "/api/har", document)
        assert (found["imported"], found["skipped"]) == (1, 1)
        assert found["reasons"] == ["entry 1: request: 'data:,' is not an http URL"]
        assert [each.target for each in opened.store.newest_first()] == ["/2", "/2", "/1", "/2", "/1"]
        status, answer = await opened.send("POST", "/api/har", {"log": 1})
        assert (status, answer["code"]) == (400, "har-invalid")


async def test_pause_and_clear() -> None:
    async with inspector() as opened:
        opened.store.add(capture())
        assert await opened.send("POST", "/api/pause", {"paused": True}) == (200, {"paused": True})
        assert opened.store.paused
        status, answer = await opened.send("POST", "/api/pause", {"paused": "yes"})
        assert (status, answer["code"]) == (400, "request-malformed")
        status, answer = await opened.send("POST", "/api/pause", [])
        assert status == 400
        assert await opened.send("DELETE", "/api/exchanges") == (200, {"exchanges": 0})
        assert len(opened.store) == 0


# --- events -------------------------------------------------------------------------------------------


class Stream:
    """Server-sent events, one by one."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> tuple[str, Any]:
        name = ""
        async with asyncio.timeout(20):
            while True:
                line = (await self._response.content.readuntil(b"\n")).decode().rstrip("\n")
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    return name, json.loads(line.removeprefix("data: "))

    async def until(self, name: str) -> list[Any]:
        """The merged batches before the event `name`."""
        said = []
        while (event := await self.next())[0] != name:
            said.append(event[1])
        return said


@asynccontextmanager
async def stream(opened: Opened) -> AsyncIterator[Stream]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE_S)
    async with opened.session.get(
        f"{opened.origin}/api/events", timeout=timeout, read_bufsize=1 << 20, headers={"last-event-id": "7"}
    ) as response:
        assert response.status == 200
        yield Stream(response)


async def test_a_page_receives_the_number_of_skipped_requests() -> None:
    async with inspector() as opened, stream(opened) as events:
        await events.until("synced")
        opened.store.skipped = 3
        opened.store.add(capture("/after"))
        assert (await events.next())[1]["skipped"] == 3
        opened.store.add(capture("/another"))
        assert "skipped" not in (await events.next())[1]
        opened.store.clear()
        said = (await events.next())[1]
        assert (said["cleared"], said["skipped"]) == (True, 0)


async def test_a_page_receives_all_captures_and_then_their_changes() -> None:
    async with inspector() as opened:
        for n in range(450):
            opened.store.add(capture(f"/{n}"))
        async with stream(opened) as events:
            name, hello = await events.next()
            assert name == "hello"
            assert hello["about"] == asdict(ABOUT)
            told = [each["target"] for batch in await events.until("synced") for each in batch["changed"]]
            assert told == [f"/{n}" for n in reversed(range(450))]
            opened.store.add(capture("/new"))
            name, batch = await events.next()
            assert [each["target"] for each in batch["changed"]] == ["/new"]
            await opened.send("POST", "/api/pause", {"paused": True})
            opened.store.clear()
            name, batch = await events.next()
            assert batch == {"cleared": True, "paused": True}


async def test_many_changes_of_one_capture_are_one_event() -> None:
    async with inspector() as opened, stream(opened) as events:
        await events.until("synced")
        made = opened.store.add(capture())
        made.state = "open"
        for _ in range(1000):
            opened.store.receive(made, b"x" * 10, "response")
        _, batch = await events.next()
        (only,) = batch["changed"]
        assert only["response_size"] == 10_008


async def test_evicted_captures_disappear_from_the_page() -> None:
    async with inspector(CaptureStore(max_total=200_000)) as opened, stream(opened) as events:
        await events.until("synced")
        known: set[int] = set()
        for n in range(30):
            opened.store.add(capture(f"/{n}", body=b'"%b"' % (b"x" * 20_000)))
            if n % 10 == 9:
                _, batch = await events.next()
                known |= {each["id"] for each in batch["changed"]}
                known -= set(batch.get("gone", []))
        assert known == {each.id for each in opened.store.newest_first()}
        assert 0 < len(known) < 30


async def test_closing_a_page_ends_its_subscription() -> None:
    async with inspector() as opened:
        async with stream(opened) as events:
            await events.until("synced")
            assert len(opened.store.subscriptions.callbacks) == 1

        def ended() -> bool:
            opened.store.add(capture())
            return not opened.store.subscriptions.callbacks

        await eventually(ended)


async def test_an_open_page_does_not_delay_the_shutdown() -> None:
    started = asyncio.get_running_loop().time()
    async with inspector() as opened:
        response = await opened.session.get(f"{opened.origin}/api/events")
        assert response.status == 200
    assert asyncio.get_running_loop().time() - started < PATIENCE_S  # aiohttp: a minute
    response.close()


# --- the port -----------------------------------------------------------------------------------------


async def test_the_next_free_port_is_used_unless_one_is_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(inspector_port, "PORT", port)
        monkeypatch.setattr(inspector_port, "PORTS", 50)
        async with serve_inspector(Inspection(CaptureStore(), None, ABOUT), print) as access:  # type: ignore[arg-type]
            assert port < access.port < port + 50
        with pytest.raises(ConfigInvalid, match=f"port {port} is in use"):
            async with serve_inspector(Inspection(CaptureStore(), None, ABOUT), print, port):  # type: ignore[arg-type]
                pass


class Terminal:
    """Records what the terminal would show."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def inspector(self, url: str) -> None:
        self.said.append(url)

    def no_inspector(self, error: DevrouteError) -> None:
        self.said.append(error.message)


async def test_only_a_configured_port_that_is_in_use_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(inspector_port, "PORT", port)
        monkeypatch.setattr(inspector_port, "PORTS", 1)
        terminal = Terminal()
        inspection = Inspection(CaptureStore(), None, ABOUT)  # type: ignore[arg-type]  # never replays
        for wanted, given in [(True, inspection), (True, None), (False, inspection)]:
            async with inspector_port.taken_as_configured(given, wanted, terminal) as access:
                assert access is None
        assert terminal.said == [f"inspector: port {port} is in use"]
        with pytest.raises(ConfigInvalid):
            async with inspector_port.taken_as_configured(inspection, port, terminal):
                pass
