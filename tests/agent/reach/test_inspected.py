"""Requests through a local port are seen by the inspector and subject to its rules."""

import asyncio
from typing import Any

import aiohttp
import pytest

from devroute.agent.outgoing import OutgoingRequests
from devroute.http.http1.response import parse_response_head
from devroute.inspector.recorder import Recorder
from devroute.inspector.redaction import redaction
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.rules.settings import read_rules
from devroute.inspector.store import CaptureStore
from devroute.tunnel.served_stream import Finished
from tests.agent.reach.mesh import Mesh, get, say
from tests.agent.reach.test_laptop_reach import laptop
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import App, AppStream
from tests.support.ports import free_port

pytestmark = pytest.mark.asyncio


def detoured(stream: AppStream) -> None:
    """A response from the mesh, where another laptop answered at c."""
    lines = b"x-devroute-result: laptop\r\nx-devroute-reason: c answered by bob (tunnel)\r\ncontent-length: 3"
    stream.sink.on_head(parse_response_head(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n", b"GET"))
    stream.sink.on_data(b"tea")
    stream.sink.on_end([])


async def asked(*rules: dict[str, Any]) -> tuple[bytes, Any, list[Finished]]:
    """The response to a request through the port of c.shop:80, its capture, and what was reported."""
    store, finished = CaptureStore(), list[Finished]()
    recorder = Recorder(store, asyncio.get_running_loop())
    seen = OutgoingRequests(RuleList(read_rules(rules)), redaction(), recorder, finished.append)
    mesh = Mesh({"c.shop:80": App(detoured)}, seen.around)
    async with mesh.reached("c.shop:80") as reach:
        port = reach.local[0].port
        response = await say(port, get(f"127.0.0.1:{port}", "authorization: Bearer s3cret"), end=False)
    recorder.flush()
    (capture,) = store.newest_first()
    return response, capture, finished


async def test_a_capture_has_the_name_of_the_service_and_is_redacted() -> None:
    response, capture, finished = await asked()
    assert b"\r\nx-devroute-reason: c answered by bob (tunnel)\r\n" in response
    assert (capture.direction, capture.service, capture.status) == ("out", "c.shop:80", 200)
    fields = {name.lower(): value for name, value in capture.request_headers}
    assert (fields["host"], fields["authorization"]) == ("c.shop", "[redacted]")
    assert dict(capture.response_headers)["x-devroute-result"] == "laptop"
    assert [(each.service, each.outgoing) for each in finished] == [("c.shop:80", True)]


async def test_what_a_rule_did_stands_once_in_the_reason() -> None:
    rule = {"name": "slow", "direction": "out", "delay": "1ms"}
    response, capture, _ = await asked(rule)
    reason = b"c answered by bob (tunnel), where rule 'slow' delayed it by 0.001 s"
    assert b"\r\nx-devroute-result: laptop\r\nx-devroute-reason: %b\r\n" % reason in response
    assert response.lower().count(b"\r\nx-devroute-reason:") == 1
    assert b"x-devroute-rule" not in response
    assert capture.rules == ["rule 'slow' delayed it by 0.001 s"]


async def test_a_service_that_a_rule_stands_for_is_not_asked() -> None:
    rule = {
        "name": "down",
        "direction": "out",
        "service": "c.shop:80",
        "respond": {"status": 503, "body": "no"},
    }
    response, capture, _ = await asked(rule)
    assert response.startswith(b"HTTP/1.1 503 ")
    assert response.endswith(b"no")
    outcome = b"x-devroute-result: laptop\r\nx-devroute-reason: c.shop:80 answered by this laptop, where rule"
    assert outcome + b" 'down' responded\r\n" in response
    assert (capture.status, capture.rules) == (503, ["rule 'down' responded"])


async def test_a_timeout_is_a_504_that_names_the_rule() -> None:
    response, capture, _ = await asked({"name": "late", "direction": "out", "delay": "9s", "timeout": "1ms"})
    assert response.startswith(b"HTTP/1.1 504 ")
    assert b"c.shop:80 took longer than 0.001 s, the timeout of rule 'late' of the laptop" in response
    assert capture.error[0] == "upstream-timeout"


async def test_a_real_agent_lists_replays_and_fails_what_leaves_through_its_port(said: Said) -> None:
    rule = {"name": "down", "direction": "out", "path": "/down", "fail": 503}
    own = free_port()
    about = {"services": ["foo=1"], "reach": ["c.shop:80"], "rules": [rule], "inspector": own}
    jar = aiohttp.CookieJar(unsafe=True)
    async with laptop(said, **about) as running, aiohttp.ClientSession(cookie_jar=jar) as session:
        port = await running.port()
        assert (await say(port, get("127.0.0.1", target="/tea"), end=False)).endswith(b"tea")
        assert (await say(port, get("127.0.0.1", target="/down"), end=False)).startswith(b"HTTP/1.1 503 ")
        online = await eventually(lambda: running.event("online"))
        async with session.get(online["inspector"]):
            pass
        api = f"http://127.0.0.1:{own}/api/exchanges"

        async def listed() -> list[dict[str, Any]]:
            async with session.get(api, params={"q": "direction:out"}) as response:
                found = (await response.json())["exchanges"]
                return found if [each["state"] for each in found] == ["done"] * 2 else []

        found = await eventually(listed)
        assert [(each["service"], each["target"], each["status"]) for each in found] == [
            ("c.shop:80", "/down", 503),
            ("c.shop:80", "/tea", 200),
        ]
        assert [each["rules"] for each in found] == [["rule 'down' failed it with 503"], []]
        async with session.get(f"{api}/{found[1]['id']}/curl") as response:
            assert (await response.json())["command"] == f"curl http://127.0.0.1:{port}/tea"
        origin = {"origin": f"http://127.0.0.1:{own}"}
        async with session.post(f"{api}/{found[1]['id']}/replay", json={}, headers=origin) as response:
            assert response.status == 202
        await eventually(lambda: len(running.mesh.streams) == 2)
    assert [stream.head.target for stream in running.mesh.streams] == [b"/tea", b"/tea"]
