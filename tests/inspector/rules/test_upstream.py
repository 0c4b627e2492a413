"""Rules of a real agent, between a proxy's listener and real apps: what callers get, and what is recorded."""

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from aiohttp import web

from devroute.errors import NotReplayable, UpstreamReset
from devroute.http.message import Framing, RequestHead
from devroute.inspector.api.rules import recorded_response
from devroute.inspector.capture import Body, Capture
from devroute.inspector.rules import breakpoints
from devroute.inspector.rules.breakpoints import MAX_HELD, MAX_HELD_BYTES
from devroute.inspector.rules.settings import read_rules
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.inspector import serve_inspector
from tests.support.laptop import Laptop, laptop, relayed, request, serving, two_events
from tests.support.loopback import Client, get

pytestmark = pytest.mark.asyncio


async def echo(asked: web.Request) -> web.StreamResponse:
    body = await asked.read()
    document = {
        "method": asked.method,
        "path": asked.path_qs,
        "sent": body.decode("latin-1"),
        "h": {name.lower(): value for name, value in asked.headers.items()},
    }
    return web.json_response(document, headers={"set-cookie": "session=s3cret", "x-devroute-rule": "forged"})


class Page:
    """An open page of the inspector, over its real server."""

    def __init__(self, origin: str, session: aiohttp.ClientSession, stream: aiohttp.ClientResponse) -> None:
        self._origin = origin
        self._session = session
        self.stream = stream

    async def send(self, method: str, path: str, document: object = None) -> Any:
        headers = {"origin": self._origin}
        async with self._session.request(
            method, self._origin + path, json=document, headers=headers
        ) as response:
            found = await (
                response.json() if response.content_type == "application/json" else response.text()
            )
            return found if response.ok else (response.status, found["message"])

    async def held(self, count: int = 1) -> dict[str, Any]:
        """The newest held message, once there are `count`, all of it arrived."""

        async def newest() -> dict[str, Any] | None:
            held = (await self.send("GET", "/api/rules"))["held"]
            return held[-1] if len(held) == count and held[-1]["complete"] else None

        return await eventually(newest)

    async def shown(self) -> tuple[str, dict[str, Any]]:
        """The path of the held message in the API, and what can be edited of it."""
        path = f"/api/held/{(await self.held())['id']}"
        return path, await self.send("GET", path)


@asynccontextmanager
async def page(it: Laptop) -> AsyncIterator[Page]:
    assert it.agent.inspection is not None
    jar = aiohttp.CookieJar(unsafe=True)
    async with (
        serve_inspector(it.agent.inspection, lambda url: None, port=0) as access,
        aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(total=PATIENCE_S)) as session,
    ):
        async with session.get(access.url):
            pass
        origin = f"http://127.0.0.1:{access.port}"
        async with session.get(f"{origin}/api/events") as stream:
            await stream.content.readuntil(b"event: hello")
            yield Page(origin, session, stream)


def rules(*documents: dict[str, Any]) -> dict[str, Any]:
    return {"rules": read_rules(documents)}


@asynccontextmanager
async def inspected(app: Any, *documents: dict[str, Any]) -> AsyncIterator[tuple[Laptop, Page]]:
    """A laptop with these rules, and an open page."""
    async with serving(app) as port, laptop(port, **rules(*documents)) as it, page(it) as inspector:
        yield it, inspector


def timeless(text: str) -> str:
    return re.sub(r"\d+\.\d s", "N s", text)


def asking(it: Laptop, head: RequestHead, body: bytes = b"") -> asyncio.Task[Client]:
    return asyncio.get_running_loop().create_task(it.ask(head, body))


# --- without the page ---------------------------------------------------------------------------------------


async def test_a_matching_request_is_answered_by_the_rule_and_others_by_the_app() -> None:
    respond = {"status": 503, "headers": {"set-cookie": ["a=1", "b=2"]}, "body": {"error": "down"}}
    rule = {"name": "down", "path": "/api/", "method": "POST", "respond": respond}
    async with serving(echo) as port, laptop(port, **rules(rule)) as it:
        client = await it.ask(request("POST", "/api/x", {}, b"data"), b"data")
        assert client.heads[0].status == 503
        assert json.loads(client.body) == {"error": "down"}
        assert client.heads[0].by_rule == "rule 'down' responded"
        end_to_end = client.heads[0].end_to_end()
        assert [value for name, value in end_to_end if name == b"set-cookie"] == [b"a=1", b"b=2"]
        assert (b"content-type", b"application/json") in end_to_end
        assert not any(name == b"x-devroute-rule" for name, _ in end_to_end)
        assert (await it.newest()).rules == ["rule 'down' responded"]
        client = await it.ask(request("GET", "/api/x", {}))
        assert (client.heads[0].status, client.heads[0].by_rule) == (200, "")
        assert b"forged" not in client.heads[0].raw
        capture = await it.newest(lambda each: each.id == 2 and each.state == "done")
        assert capture.rules == []


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304), ("GET", 205)])
async def test_a_response_without_a_body_has_none(method: str, status: int) -> None:
    rule = {"respond": {"status": status, "body": "text"}}
    async with serving(echo) as port, laptop(port, **rules(rule)) as it:
        client = await it.ask(request(method, "/", {}))
    assert (client.heads[0].status, bytes(client.body), client.error) == (status, b"", None)
    lengths = [value for name, value in client.heads[0].headers if name == b"content-length"]
    assert lengths == ([b"4"] if method == "HEAD" else [b"0"] if status == 205 else [])


async def test_a_failure_is_a_status_or_the_end_of_the_connection() -> None:
    failing = ({"path": "/s", "fail": 500}, {"path": "/r", "fail": "reset"})
    async with serving(echo) as port, laptop(port, **rules(*failing)) as it:
        client = await it.ask(request("GET", "/s", {}))
        assert client.heads[0].status == 500
        assert json.loads(client.body)["code"] == "fault-injected"
        assert "rule '/s' of the laptop" in json.loads(client.body)["message"]
        client = await it.ask(request("GET", "/r", {}))
        assert isinstance(client.error, UpstreamReset)
        assert client.error.message == "the connection was ended by rule '/r' of the laptop"
        assert (await it.newest(lambda each: each.id == 2)).rules == ["rule '/r' ended the connection"]


async def test_a_delay_comes_before_the_app_or_the_response_and_ends_with_its_caller() -> None:
    slow = ({"path": "/a", "delay": "60ms"}, {"path": "/long", "delay": 60})
    async with serving(echo) as port, laptop(port, **rules(*slow)) as it:
        started = asyncio.get_running_loop().time()
        client = await it.ask(request("POST", "/a", {}, b"data"), b"data")
        assert asyncio.get_running_loop().time() - started >= 0.06
        assert json.loads(client.body)["sent"] == "data"
        assert client.heads[0].by_rule == "rule '/a' delayed it by 0.06 s"
        stream = it.where.upstream().open(get(b"/long"), Client())
        await it.newest(lambda each: each.rules == ["rule '/long' delayed it by 60 s"])
        stream.cancel()
        capture = await it.newest(lambda each: each.error is not None)
        assert capture.target == "/long"


async def test_a_large_response_waits_for_its_caller() -> None:
    body = base64.b64encode(bytes(3_000_000)).decode()
    async with serving(echo) as port, laptop(port, **rules({"respond": {"body_base64": body}})) as it:
        client = Client()
        stream = it.where.upstream().open(get(), client)
        stream.pause_response()
        await client.first.wait()
        assert client.size < 2_000_000
        stream.resume_response()
        async with asyncio.timeout(20):
            await client.done.wait()
    assert bytes(client.body) == bytes(3_000_000)


async def test_a_response_of_as_many_fields_as_one_may_have_passes_without_the_mark() -> None:
    async def app(asked: web.Request) -> web.Response:
        return web.Response(text="x", headers=[(f"h{number}", "v") for number in range(196)])

    async with serving(app) as port, laptop(port, **rules({"delay": "1ms"})) as it:
        client = await it.ask(get())
        assert (client.heads[0].status, client.heads[0].by_rule, client.error) == (200, "", None)
        assert (await it.newest()).rules == ["rule '*' delayed it by 0.001 s"]


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "orders.json"
    rule = {"respond": {"headers": {"content-type": "application/json"}, "body_file": str(file)}}
    async with serving(echo) as port, laptop(port, **rules(rule)) as it:
        for text, status in ((None, 500), ("[1]", 200), ("[1, 2]", 200)):
            if text is not None:
                file.write_text(text)
            client = await it.ask(get())
            assert client.heads[0].status == status
            assert text is None or bytes(client.body) == text.encode()


async def test_grpc_callers_get_statuses_and_recorded_messages_as_grpc() -> None:
    async def call(message: bytes, context: "grpc.aio.ServicerContext[bytes, bytes]") -> bytes:
        return message * 2

    handlers = {"Call": grpc.unary_unary_rpc_method_handler(call)}
    app = grpc.aio.server()
    app.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("shop.Api", handlers),))
    port = app.add_insecure_port("127.0.0.1:0")
    await app.start()
    fields = {"content-type": "application/grpc", "te": "trailers"}
    framed = b"\0\0\0\0\x02hi"
    held = {"path": "/shop.Api/*", "break": "both", "name": "held"}
    try:
        async with laptop(port, **rules(held)) as it, page(it) as inspector:
            task = asking(it, request("POST", "/shop.Api/Call", fields, framed), framed)
            for side in ("request", "response"):
                message = await inspector.held()
                assert message["side"] == side
                await inspector.send("POST", f"/api/held/{message['id']}/continue", {})
            client = await task
            assert bytes(client.body) == b"\0\0\0\0\x04hihi"
            assert dict(client.trailers or [])[b"grpc-status"] == b"0"

            await it.newest()
            await inspector.send("DELETE", "/api/rules/1")
            recorded = (await inspector.send("GET", "/api/exchanges/1/rule"))["rule"]
            assert recorded["path"] == "/shop.Api/Call"
            await inspector.send("POST", "/api/rules", recorded)
            other = b"\0\0\0\0\x01x"
            client = await it.ask(request("POST", "/shop.Api/Call", fields, other), other)
            assert bytes(client.body) == b"\0\0\0\0\x04hihi"
            assert dict(client.trailers or [])[b"grpc-status"] == b"0"

            await inspector.send("POST", "/api/rules", {"fail": 503})
            client = await it.ask(request("POST", "/shop.Api/Call", fields, other), other)
            assert dict(client.heads[0].headers)[b"grpc-status"] == b"14"
    finally:
        await app.stop(None)


async def test_a_websocket_passes_a_breakpoint_untouched() -> None:
    async def talk(asked: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(asked)
        async for message in socket:
            await socket.send_str(message.data + "!")
        return socket

    async with inspected(talk, {"break": "both"}) as (it, inspector):
        async with relayed(it) as url, aiohttp.ClientSession() as session:
            connecting = asyncio.get_running_loop().create_task(session.ws_connect(url))
            path, shown = await inspector.shown()
            assert "upgrade" not in dict(shown["headers"])
            await inspector.send("POST", path + "/continue", {"target": "/edited"})
            socket = await connecting
            await socket.send_str("hi")
            assert await socket.receive_str() == "hi!"
            await socket.close()
        capture = await it.newest()
    assert [each.data for each in capture.messages[:2]] == [b"hi", b"hi!"]
    assert list(map(timeless, capture.rules)) == [
        "rule '*' held the request for N s (edited: target)",
        "rule '*' did not hold the response: it switches protocols",
    ]


# --- breakpoints --------------------------------------------------------------------------------------------


async def test_a_held_request_is_edited_and_keeps_the_secrets_that_are_left() -> None:
    body = b'{"password": "mine", "a": 1}'
    fields = {"content-type": "application/json", "authorization": "Bearer mine"}
    async with inspected(echo, {"path": "/p", "break": "request"}) as (it, inspector):
        task = asking(it, request("POST", "/p?token=mine", fields, body), body)
        path, shown = await inspector.shown()
        assert "mine" not in json.dumps(shown)
        assert shown["target"] == "/p?token=[redacted-1]"
        assert shown["body"] == '{"password": "[redacted-3]", "a": 1}'
        wrong = await inspector.send("POST", path + "/continue", {"method": "G T"})
        assert wrong[0] == 400
        edits = {"method": "PUT", "body": shown["body"].replace('"a": 1', '"a": [1, 2]')}
        assert await inspector.send("POST", path + "/continue", edits) == {"held": 0}
        answer = json.loads((client := await task).body)
        assert (answer["method"], answer["path"]) == ("PUT", "/p?token=mine")
        assert answer["sent"] == '{"password": "mine", "a": [1, 2]}'
        assert answer["h"]["authorization"] == "Bearer mine"
        done = timeless(client.heads[0].by_rule)
        assert done == "rule '/p' held the request for N s (edited: method, body)"
        capture = await it.newest()
        assert (capture.method, bytes(capture.request_body.data)) == (
            "POST", b'{"password": "[redacted]", "a": 1}',
        )  # fmt: skip


async def test_a_held_response_is_edited_replaced_or_aborted() -> None:
    async with inspected(echo, {"break": "response"}) as (it, inspector):
        task = asking(it, get())
        path, shown = await inspector.shown()
        assert (shown["status"], dict(shown["headers"])["set-cookie"]) == (200, "[redacted-1]")
        edits = {"status": 404, "body": "gone"}
        await inspector.send("POST", path + "/continue", edits)
        client = await task
        assert (client.heads[0].status, bytes(client.body)) == (404, b"gone")
        assert (b"set-cookie", b"session=s3cret") in client.heads[0].headers

        task = asking(it, get())
        path, _ = await inspector.shown()
        written = {"status": 201, "headers": [["x-a", "1"]], "body": "mine"}
        await inspector.send("POST", path + "/respond", written)
        client = await task
        assert (client.heads[0].status, bytes(client.body)) == (201, b"mine")
        assert (b"x-a", b"1") in client.heads[0].headers

        task = asking(it, get())
        path, _ = await inspector.shown()
        await inspector.send("POST", path + "/abort", {})
        client = await task
        assert isinstance(client.error, UpstreamReset)


async def test_a_response_can_be_written_before_the_app_sees_the_request() -> None:
    async with inspected(echo, {"break": "request"}) as (it, inspector):
        for action, document in (("respond", {"status": 418, "body": "tea"}), ("abort", {})):
            task = asking(it, request("POST", "/", {}, b"data"), b"data")
            path, _ = await inspector.shown()
            await inspector.send("POST", f"{path}/{action}", document)
            client = await task
            if action == "respond":
                assert (client.heads[0].status, bytes(client.body)) == (418, b"tea")
                assert "sent a response that was written by hand" in client.heads[0].by_rule
            else:
                assert isinstance(client.error, UpstreamReset)


async def test_a_caller_that_gives_up_ends_the_wait() -> None:
    async with inspected(echo, {"break": "both"}) as (it, inspector):
        fields = {"x-envoy-expected-rq-timeout-ms": "15000", "grpc-timeout": "20S"}
        stream = it.where.upstream().open(request("GET", "/", fields), Client())
        held = await inspector.held()
        assert held["caller_waits_s"] == 15
        stream.cancel()
        stale = held["id"]
        await eventually(lambda: not it.rules.breakpoints.held)
        status, message = await inspector.send("POST", f"/api/held/{stale}/continue", {})
        assert (status, message) == (404, f"nothing is held as {stale}")

        stream = it.where.upstream().open(get(), Client())
        await inspector.send("POST", f"/api/held/{(await inspector.held())['id']}/continue", {})
        assert (await inspector.held())["side"] == "response"
        stream.cancel()
        await eventually(lambda: not it.rules.breakpoints.held)


async def test_without_a_page_nothing_waits_and_a_closed_page_lets_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(breakpoints, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(breakpoints, "GONE_SECONDS", 0.05)
    async with serving(echo) as port, laptop(port, **rules({"break": "both"})) as it:
        client = await it.ask(get())
        assert (client.heads[0].status, client.heads[0].by_rule) == (200, "")
        assert (await it.newest()).rules == [
            "rule '*' did not hold the request: no page of the inspector is open",
            "rule '*' did not hold the response: no page of the inspector is open",
        ]
        async with page(it) as inspector:
            task = asking(it, get())
            await inspector.held()
            inspector.stream.close()
            client = await task
            assert client.heads[0].by_rule.endswith("until the inspector's page was closed")


async def test_its_time_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breakpoints, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(breakpoints, "HOLD_SECONDS", 0.05)
    async with serving(echo) as port, laptop(port, **rules({"break": "request"})) as it, page(it):
        client = await it.ask(get())
    assert timeless(client.heads[0].by_rule) == "rule '*' held the request for N s until its time was up"


@pytest.mark.parametrize("side", ["request", "response"])
async def test_a_body_beyond_the_limit_is_not_buffered_and_passes_unedited(side: str) -> None:
    size = 4 * MAX_HELD_BYTES
    sent = 0

    async def app(asked: web.Request) -> web.StreamResponse:
        nonlocal sent
        if side == "request":
            got = 0
            async for piece in asked.content.iter_any():
                got += len(piece)
            return web.Response(text=str(got))
        response = web.StreamResponse()
        await response.prepare(asked)
        while sent < size:
            await response.write(bytes(64 * 1024))
            sent += 64 * 1024
        return response

    async with inspected(app, {"break": side}) as (it, inspector):
        client = Client()
        method, body = ("POST", bytes(size)) if side == "request" else ("GET", b"")
        stream = it.where.upstream().open(request(method, "/", {}, body), client)
        for _ in range(size // 65536 if body else 0):
            stream.send_data(bytes(65536))
            sent += 65536
        if body:
            stream.send_end([])
        held = await eventually(lambda: next(iter(it.rules.breakpoints.held.values()), None))
        await eventually(lambda: held.summary()["received"] > MAX_HELD_BYTES)
        assert held.summary()["received"] < size
        path = f"/api/held/{held.id}"
        shown = await inspector.send("GET", path)
        assert (shown["body"], shown["note"]) == (None, "it has not arrived as a whole, and passes unchanged")
        assert (await inspector.send("POST", path + "/continue", {"body": "x"}))[0] == 400
        shown["headers"].append(["x-added", "1"])
        await inspector.send("POST", path + "/continue", {"headers": shown["headers"]})
        async with asyncio.timeout(20):
            await client.done.wait()
        assert client.error is None
        if side == "request":
            assert int(client.body) == size
        else:
            assert client.size == size
            assert (b"x-added", b"1") in client.heads[0].headers


async def test_a_stream_that_never_ends_passes_on_once_it_is_continued() -> None:
    more = asyncio.Event()
    async with inspected(two_events(more), {"break": "response"}) as (it, inspector):
        client = Client()
        it.where.upstream().open(get(), client)
        held = await eventually(lambda: next(iter(it.rules.breakpoints.held.values()), None))
        await eventually(lambda: held.summary()["received"])
        await inspector.send("POST", f"/api/held/{held.id}/continue", {})
        await eventually(lambda: bytes(client.body) == b"data: 1\n\n")
        more.set()
        async with asyncio.timeout(20):
            await client.done.wait()
        assert bytes(client.body) == b"data: 1\n\ndata: 2\n\n"


async def test_no_more_than_a_few_are_held() -> None:
    async with (
        serving(echo) as port,
        laptop(port, **rules({"break": "request"})) as it,
        page(it) as inspector,
    ):
        tasks = [asking(it, get()) for _ in range(MAX_HELD + 1)]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == 1
        assert len(it.rules.breakpoints.held) == MAX_HELD
        await inspector.send("PUT", "/api/rules", {"on": False})
        clients = await asyncio.gather(*tasks)
    assert all(client.heads[0].status == 200 for client in clients)
    reasons = [client.heads[0].by_rule for client in clients]
    assert sum("until the rules were turned off" in each for each in reasons) == MAX_HELD


# --- the page's rules ---------------------------------------------------------------------------------------


async def test_rules_are_added_changed_switched_and_copied_live() -> None:
    file_rule = {"name": "of the file", "respond": {"status": 500}}
    async with inspected(echo, file_rule) as (it, inspector):

        async def status() -> int:
            return (await it.ask(get(b"/a"))).heads[0].status

        assert await status() == 500
        made = await inspector.send("POST", "/api/rules", {"path": "/a", "fail": 503})
        assert (made["source"], made["label"]) == ("page", "/a")
        assert await status() == 503
        one = f"/api/rules/{made['id']}"
        await inspector.send("PUT", one, {"enabled": False})
        assert await status() == 500
        assert await inspector.send("GET", one) == {"path": "/a", "fail": 503, "enabled": False}
        await inspector.send("PUT", one, {"path": "/a", "fail": 404})
        assert await status() == 404
        assert await inspector.send("PUT", "/api/rules", {"on": False}) == {"on": False}
        assert await status() == 200
        await inspector.send("PUT", "/api/rules", {"on": True})
        assert await status() == 404
        state = await inspector.send("GET", "/api/rules")
        assert [(each["label"], each["hits"]) for each in state["rules"]] == [("/a", 3), ("of the file", 2)]
        copied = await inspector.send("GET", f"/api/rules.yaml?id={made['id']}")
        assert copied == "rules:\n- path: /a\n  fail: 404\n"
        await inspector.send("DELETE", one)
        assert await status() == 500
        assert (await inspector.send("DELETE", one))[0] == 404


@pytest.mark.parametrize(
    ("document", "problem"),
    [
        ({"respond": {"body_file": "/etc/passwd"}}, "body_file is for devroute.yaml"),
        ({"service": "bar", "fail": 503}, "'bar' is not served here"),
        ({"path": "/a"}, "it does nothing"),
        ({"respond": {"capture": 99}}, "there is no capture 99"),
    ],
)
async def test_the_page_cannot_make_every_rule(document: dict[str, Any], problem: str) -> None:
    async with inspected(echo) as (_it, inspector):
        _, message = await inspector.send("POST", "/api/rules", document)
    assert problem in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"truncated": True}, "only the first 2 of the 9 bytes of its response's body were stored"),
        ({"truncated": True, "decoded": True}, "only the first bytes of its response's body were stored"),
        ({"truncated": True, "size": 1}, "only the first bytes of its response's body were stored"),
        ({"data": b"", "note": "not stored: why"}, "its response's body was not stored: why"),
    ],
)
async def test_a_response_that_was_not_stored_whole_makes_no_rule(
    changes: dict[str, Any], problem: str
) -> None:
    capture = Capture("b", "GET", "/", 1e9, 0)
    capture.status = 200
    capture.response_body = Body(**{"data": bytearray(b"ab"), "size": 9, "complete": True, **changes})
    with pytest.raises(NotReplayable) as caught:
        recorded_response(capture)
    assert caught.value.message == problem


async def test_a_recorded_response_is_repeated_without_what_was_redacted() -> None:
    async with inspected(echo) as (it, inspector):
        first = await it.ask(get(b"/a?x=1"))
        await it.newest()
        draft = await inspector.send("GET", "/api/exchanges/1/rule")
        assert (draft["rule"]["path"], draft["without"]) == ("/a", ["set-cookie"])
        await inspector.send("POST", "/api/rules", {"respond": {"capture": 1, "status": 202}})
        client = await it.ask(get(b"/b"))
        assert (client.heads[0].status, client.body) == (202, first.body)
        assert not any(name.lower() == b"set-cookie" for name, _ in client.heads[0].headers)
        head = RequestHead(b"GET", b"/b", Framing.NONE, 0, b"GET /b HTTP/1.1\r\nhost: foo\r\n\r\n")
        assert (await it.ask(head)).heads[0].by_rule == "rule '*' responded"
