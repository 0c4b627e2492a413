"""A real agent, a real link and the proxy's egress between the local ports and a mesh of the test."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devroute.agent import app as agent
from devroute.agent.settings import AgentSettings
from devroute.http.message import Framing, RequestHead
from devroute.policy.policy import Policy
from devroute.proxy.egress.egress import Egress
from devroute.proxy.settings import ProxySettings
from tests.agent.reach.mesh import get, say
from tests.agent.reach.test_reach import socks
from tests.support.agent_output import Said
from tests.support.eventually import eventually
from tests.support.loopback import App, Client, Site, answer, site

pytestmark = pytest.mark.asyncio

POLICY = Policy.parse("reach: [{subjects: [alice], services: [c], namespaces: [shop]}]")
CONTRACT = '{"c": "bob"}'


class Running:
    """An agent that is online; `reach` is its event of that name."""

    def __init__(self, where: Site, mesh: App, task: "asyncio.Task[int]", said: Said) -> None:
        self.where = where
        self.mesh = mesh
        self.task = task
        self.said = said

    def events(self) -> list[dict[str, Any]]:
        self.said("")
        return [json.loads(line) for line in re.findall(r"^\{.*\}$", self.said.output, re.MULTILINE)]

    def event(self, name: str) -> dict[str, Any] | None:
        return next((each for each in self.events() if each["event"] == name), None)

    async def reach(self) -> dict[str, Any]:
        return await eventually(lambda: self.event("reach"), task=self.task)

    async def port(self) -> int:
        return int((await self.reach())["ports"][0]["local"].rpartition(":")[2])


@asynccontextmanager
async def laptop(said: Said, state: Path | None = None, **settings: Any) -> AsyncIterator[Running]:
    mesh = App(answer(b"tea"))
    egress = Egress(ProxySettings(), lambda: POLICY, mesh, lambda event, /, **fields: None)
    reach = settings.pop("proxy_s_way", egress)
    async with site(reach=reach) as where:
        given = {
            "server": where.url,
            "token": "alice-token",
            "inspector": False,
            "output": "json",
            **settings,
        }
        run = agent.run(AgentSettings.model_validate(given), state)
        task = asyncio.get_running_loop().create_task(run)
        try:
            yield Running(where, mesh, task, said)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await egress.close()


async def test_a_laptop_without_services_reaches_the_mesh(said: Said) -> None:
    async with laptop(said, reach_port=True) as running:
        proxy_port = (await running.reach())["proxy"]
        response = await say(proxy_port, socks("c.shop", 80) + get("c.shop"), end=False)
        assert response.endswith(b"tea")
        (stream,) = running.mesh.streams
        assert b"\r\nhost: c.shop.svc.cluster.local:80\r\nx-devroute-subject: alice\r\n" in stream.head.wire


async def test_a_child_finds_the_mesh_by_its_environment(said: Said, tmp_path: Path) -> None:
    asks = (
        "import os, urllib.request as u; print(u.urlopen(os.environ['C_SHOP_URL']).read(), "
        "u.urlopen('http://c.shop/').read(), os.environ['ORDERS_DB_ADDR'], flush=True)"
    )
    (tmp_path / "ask.py").write_text(asks)
    async with laptop(
        said,
        tmp_path,
        services=["foo=1"],
        reach=["c.shop:80", "tcp://orders-db:25432"],
        reach_env=True,
        command=(sys.executable, "-IS", str(tmp_path / "ask.py")),
    ) as running:
        assert await asyncio.wait_for(asyncio.shield(running.task), 20) == 0
    assert len(running.mesh.streams) == 2
    assert (tmp_path / "reach.json").exists()


async def test_the_chain_goes_on_through_an_app_that_passes_on_its_trace_alone(said: Said) -> None:
    trace = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        port = await running.port()
        body = (await say(port, get(f"127.0.0.1:{port}", trace), end=False)).rpartition(b"\r\n")[2]
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
        writer.close()

    async with await asyncio.start_server(app, "127.0.0.1", 0) as server:
        own = server.sockets[0].getsockname()[1]
        async with laptop(said, services=[f"foo=127.0.0.1:{own}"], reach=["c.shop:80"]) as running:
            await running.reach()
            client = Client()
            running.where.upstream().open(detoured(trace), client)
            await asyncio.wait_for(client.done.wait(), 20)
            assert client.body == b"tea"
            await say(await running.port(), get("127.0.0.1"), end=False)
    chained, apart = (stream.head.wire for stream in running.mesh.streams)
    assert f"\r\nx-devroute: {CONTRACT}\r\n".encode() in chained
    assert b"\r\nbaggage: devroute=%7B%22c%22%3A%22bob%22%7D,devroute-via=b\r\n" in chained
    assert b"bob" not in apart


def detoured(trace: str) -> RequestHead:
    """A request as the sidecar of b sends it."""
    baggage = "baggage: devroute=%7B%22c%22%3A%22bob%22%7D,devroute-via=b"
    wire = get("b", f"x-devroute: {CONTRACT}", "x-devroute-via: b", baggage, trace)
    return RequestHead(b"GET", b"/", Framing.NONE, 0, wire)


async def test_my_own_contract_is_added_if_that_is_wanted(said: Said) -> None:
    async with laptop(said, services=["foo=1"], reach=["c.shop:80"], reach_contract=True) as running:
        await say(await running.port(), get("127.0.0.1"), end=False)
    assert b'\r\nx-devroute: {"foo": "alice"}\r\n' in running.mesh.streams[0].head.wire


async def test_what_policy_does_not_permit_is_an_error_with_its_code(said: Said) -> None:
    async with laptop(said, services=["foo=1"], reach=["d.shop:80"]) as running:
        await say(await running.port(), get("127.0.0.1"), end=False)
        response = await say(await running.port(), get("127.0.0.1"), end=False)
        # The terminal's lines are written by a thread, those of requests after why they failed.
        await eventually(lambda: [each["event"] for each in running.events()].count("request") == 2)
        failed = [each for each in running.events() if each["event"] == "reach-failed"]
    assert response.startswith(b"HTTP/1.1 403 ")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "reach-denied"
    assert not running.mesh.streams
    assert [(each["service"], each["code"]) for each in failed] == [("d.shop:80", "reach-denied")]
    assert "the platform team can add to reach in the policy: {subjects: [alice]" in failed[0]["hint"]


async def test_what_fails_again_and_again_is_reported_once(said: Said) -> None:
    async with laptop(said, reach_port=True) as running:
        proxy_port = (await running.reach())["proxy"]
        for name in ("github.com", "github.com", "example.org"):
            await say(proxy_port, socks(name, 443), end=False)
        await eventually(lambda: said("example.org"))  # the terminal's lines are written by a thread
        failed = [each["service"] for each in running.events() if each["event"] == "reach-failed"]
    assert failed == ["github.com:443", "example.org:443"]


async def test_a_server_that_has_no_way_into_the_mesh_is_named(said: Said) -> None:
    async with laptop(
        said, services=["foo=1"], reach=["c.shop:80"], reach_port=True, proxy_s_way=None
    ) as running:
        by_forward = await say(await running.port(), get("127.0.0.1"), end=False)
        proxy_port = (await running.reach())["proxy"]
        by_socks = await say(proxy_port, socks("c.shop", 80), end=False)
        event = await eventually(lambda: running.event("reach-failed"))
    assert (event["service"], event["code"]) == ("mesh", "not-supported")
    assert by_forward.startswith(b"HTTP/1.1 501 ")
    assert b"ask the platform team for an upgrade" in by_forward
    assert by_socks[:4] == b"\x05\x00\x05\x07"


async def test_a_laptop_that_is_offline_says_so(said: Said) -> None:
    async with laptop(said, services=["foo=1"], reach=["c.shop:80", "tcp://c.shop:81"]) as running:
        port = await running.port()
        await running.where.stop()
        response = await say(port, get("127.0.0.1"), end=False)
    assert response.startswith(b"HTTP/1.1 502 ")
    assert json.loads(response.partition(b"\r\n\r\n")[2])["code"] == "server-unreachable"
