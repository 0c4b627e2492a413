"""Replicas are restarted one after the other, as a Deployment does it: real processes and a real Redis."""

import asyncio
import json
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import aiohttp.web

from devroute.agent import app as agent
from devroute.agent.settings import AgentSettings
from devroute.auth.tokens import new_token
from devroute.contract.service_spec import ServiceSpec
from devroute.mesh import testbed
from devroute.proxy.settings import ProxySettings
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.laptop import serving
from tests.support.redis_server import needs_redis, running_redis
from tests.support.relay import wire

DRAIN_S: float = ProxySettings.model_fields["drain_timeout"].default
HEADERS = {"x-devroute": json.dumps({"foo": "alice"}), "x-devroute-matched": "foo"}


class Load:
    """Requests one after the other, each on a connection of its own."""

    def __init__(self, url: str) -> None:
        self.answered = 0
        self.failed: list[str] = []
        self._url = url

    async def run(self) -> None:
        connector = aiohttp.TCPConnector(force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as client:
            while True:
                async with client.get(self._url) as response:
                    found = response.headers.get("x-devroute-result"), await response.text()
                    if found == ("laptop", "from the laptop"):
                        self.answered += 1
                    else:
                        self.failed.append(f"{response.status} {found} {dict(response.headers)}")
                await asyncio.sleep(0.01)

    async def more(self, count: int = 10) -> None:
        wanted = self.answered + count
        await eventually(lambda: self.answered >= wanted or self.failed, "more answers")


def has_laptop(proxy: testbed.RunningProxy) -> bool:
    return any(event.get("event") == "laptop.online" for event in proxy.command.events())


async def is_ready(proxy: testbed.RunningProxy) -> bool:
    url = f"http://127.0.0.1:{proxy.admin.port}/readyz"
    async with aiohttp.ClientSession() as client, client.get(url) as response:
        return response.status == 200


@needs_redis
async def test_a_rolling_restart_of_the_replicas_costs_no_request(tmp_path: Path) -> None:
    secret, record = new_token("alice")
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(running_redis(tmp_path))
        data = await stack.enter_async_context(wire())
        control = await stack.enter_async_context(wire())

        async def start(name: str) -> testbed.RunningProxy:
            (tmp_path / name).mkdir()
            environment = {"DEVROUTE_REGISTRY": redis.url, "DEVROUTE_PEER_PORT": "0"}
            proxy = testbed.proxy(tmp_path / name, [record], environment=environment)
            started = await stack.enter_async_context(proxy)
            await eventually(lambda: is_ready(started), "readiness")
            data.targets.append(tuple(started.data))
            control.targets.append(tuple(started.control))
            return started

        async def restart(old: testbed.RunningProxy) -> None:
            """What Kubernetes does: no new connections to it, a pause for those on their way, then the
            signal."""
            data.targets.remove(tuple(old.data))
            control.targets.remove(tuple(old.control))
            await eventually(lambda: not data.open[tuple(old.data)], "the connections on their way")
            old.command.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(old.command.process.wait(), DRAIN_S + PATIENCE_S)

        one, two = await start("one"), await start("two")

        async def respond(request: object) -> aiohttp.web.Response:
            return aiohttp.web.Response(text="from the laptop")

        port = await stack.enter_async_context(serving(respond))
        settings = AgentSettings.model_validate(
            {
                "server": control.url,
                "token": secret,
                "services": (ServiceSpec("foo", "127.0.0.1", port),),
                "output": "json",
                "inspector": "off",
            }
        )
        load = Load(data.url)
        async with asyncio.TaskGroup() as tasks:
            laptop = tasks.create_task(agent.run(settings))
            await eventually(
                lambda: "laptop.online" in one.command.log.read_text() + two.command.log.read_text()
            )
            running = tasks.create_task(load.run())
            await load.more()
            first, second = (one, two) if has_laptop(one) else (two, one)
            await restart(first)
            await load.more()
            await start("three")
            await restart(second)
            await load.more()
            assert not laptop.done()
            running.cancel()
            laptop.cancel()
        assert load.failed == []
        assert has_laptop(second)
