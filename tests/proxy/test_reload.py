"""A new policy comes into force while requests are in flight: a real proxy, a real laptop."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from tests.support.eventually import PATIENCE_S, eventually

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN = "direct: {networks: [127.0.0.0/8]}\n"
#: Another policy that permits the same.
ALSO = OPEN + "register: [{subjects: [alice, bob], services: [foo, bar]}]\ncallers: [{from: ['*']}]\n"
BROKEN = OPEN + "callers:\n- {form: ['*']}\n"
FEWER = OPEN + "register: [{subjects: [bob], services: [foo]}]\n"

HALF = b"a" * 1000


@dataclass
class App:
    """/now responds at once; /slow sends half of its body, and the rest once `may_end` is set."""

    begun: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % (2 * len(HALF)))
                writer.write(HALF)
                if head.startswith(b"GET /slow "):
                    self.begun += 1
                    await self.may_end.wait()
                writer.write(HALF)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


@dataclass
class World:
    folder: Path
    proxy: testbed.RunningProxy
    app: App
    port: int
    secret: str
    client: aiohttp.ClientSession

    async def get(self, target: str, path: str = "/now") -> tuple[int, bytes]:
        headers = {"x-devroute": json.dumps({"foo": target}), "x-devroute-matched": "foo"}
        url = f"http://{self.proxy.data.host}:{self.proxy.data.port}{path}"
        async with self.client.get(url, headers=headers) as response:
            return response.status, await response.read()

    async def ready(self) -> tuple[int, dict[str, object]]:
        url = f"http://{self.proxy.admin.host}:{self.proxy.admin.port}/readyz"
        async with self.client.get(url) as response:
            return response.status, await response.json()

    def said(self, event: str) -> list[dict[str, object]]:
        return [each for each in self.proxy.command.events() if each.get("event") == event]

    async def policy(self, text: str, event: str = "file.loaded") -> None:
        """Replace the policy file, and wait until the proxy logs `event`."""
        before = len(self.said(event))
        new = self.folder / "policy.new"
        new.write_text(text)
        os.replace(new, self.folder / "policy.yaml")
        await eventually(lambda: len(self.said(event)) > before)

    @property
    def targets(self) -> list[str]:
        return ["alice", f"127.0.0.1:{self.port}"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder = tmp_path_factory.mktemp("reload")
    secret, record = new_token("alice")
    app = App()
    listening = await asyncio.start_server(app.serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    async with (
        listening,
        testbed.proxy(folder, [record], OPEN, {"DEVROUTE_RELOAD_INTERVAL": "0.5"}) as proxy,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as client,
    ):
        yield World(folder, proxy, app, port, secret, client)


async def test_changes_of_the_policy_file_drop_no_request(world: World) -> None:
    whole = (200, 2 * HALF)
    world.app.begun = 0
    world.app.may_end.clear()
    offline = len(world.said("laptop.offline"))
    async with testbed.laptop(
        world.folder, "alice", world.proxy.server, world.secret, f"foo=127.0.0.1:{world.port}"
    ):
        slow = [asyncio.ensure_future(world.get(target, "/slow")) for target in world.targets * 5]
        await eventually(lambda: world.app.begun == len(slow))
        changing = asyncio.Event()
        answered: list[tuple[int, bytes]] = []

        async def keep_asking(target: str) -> None:
            while not changing.is_set():
                answered.append(await world.get(target))

        async with asyncio.TaskGroup() as asking:
            for target in world.targets * 2:
                asking.create_task(keep_asking(target))
            await world.policy(ALSO)
            await world.policy(BROKEN, "file.rejected")
            await world.policy(OPEN)
            await eventually(lambda: len(answered) > 100)
            changing.set()
        assert set(answered) == {whole}
        assert not any(each.done() for each in slow)
        world.app.may_end.set()
        assert await asyncio.gather(*slow) == [whole] * len(slow)
        assert len(world.said("laptop.offline")) == offline


async def test_an_invalid_file_changes_nothing_and_shows_in_the_readiness(world: World) -> None:
    assert (await world.ready())[1]["policy_problem"] is None
    await world.policy(BROKEN, "file.rejected")
    problem = "policy.yaml:3: callers.0.from: it is missing"
    assert world.said("file.rejected")[-1]["problem"] == problem
    status, details = await world.ready()
    assert (status, details["ready"], details["policy_problem"]) == (200, True, problem)
    await eventually(lambda: policy_age(world, at_least=1))
    assert details["tokens_age_s"] is not None
    assert (await world.get(world.targets[1]))[0] == 200
    (world.folder / "policy.yaml").unlink()
    await eventually(lambda: "No such file" in str(world.said("file.rejected")[-1]["problem"]))
    assert "No such file" in str((await world.ready())[1]["policy_problem"])
    assert (await world.get(world.targets[1]))[0] == 200
    await world.policy(OPEN)
    assert (await world.ready())[1]["policy_problem"] is None


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_target_that_a_new_policy_does_not_list_is_denied_to_the_next_request(
    world: World, host: str
) -> None:
    target = f"{host}:{world.port}"
    await world.policy("direct: {networks: [127.0.0.0/8, '::1/128']}")
    world.app.may_end.clear()
    world.app.begun = 0
    slow = asyncio.ensure_future(world.get(target, "/slow"))
    await eventually(lambda: world.app.begun)
    await world.policy("direct: {networks: [192.0.2.0/24]}")
    assert (await denied(world, target)) == (403, "target-denied")
    world.app.may_end.set()
    assert await slow == (200, 2 * HALF)
    assert (await denied(world, target)) == (403, "target-denied"), "its pooled connection is not used again"
    await world.policy(OPEN)


async def policy_age(world: World, at_least: int) -> bool:
    age = (await world.ready())[1]["policy_age_s"]
    assert isinstance(age, int)
    return age >= at_least


async def denied(world: World, target: str) -> tuple[int, str]:
    status, body = await world.get(target)
    return status, json.loads(body)["code"]


async def test_a_policy_s_limits_apply_to_the_next_request_and_end_none(world: World) -> None:
    laptop, address = world.targets
    service = f"foo=127.0.0.1:{world.port}"
    server, secret = world.proxy.server, world.secret
    async with testbed.laptop(world.folder, "alice", server, secret, service) as up:
        world.app.may_end.clear()
        world.app.begun = 0
        slow = [asyncio.ensure_future(world.get(target, "/slow")) for target in world.targets * 2]
        await eventually(lambda: world.app.begun == len(slow))
        for limit, bounded in (
            ("in_flight_per_target", world.targets),
            ("in_flight_per_subject", [laptop]),
            ("streams_per_link", [laptop]),
        ):
            await world.policy(f"{OPEN}limits: {{{limit}: 2}}")
            for target in bounded:
                assert (await denied(world, target)) == (503, "target-overloaded")
            for target in {laptop, address}.difference(bounded):
                assert (await world.get(target))[0] == 200
            await world.policy(f"{OPEN}limits: {{{limit}: 3, links_per_subject: 1}}")
            for target in world.targets:
                assert (await world.get(target))[0] == 200
        second = ("up", service, "--name", "alice--ci")
        where = {"DEVROUTE_SERVER": server, "DEVROUTE_TOKEN": secret}
        async with testbed.command(world.folder, "up-refused", second, where) as refused:
            await eventually(lambda: "'alice' has 1 processes online already" in refused.log.read_text())
        await world.policy(OPEN)
        async with testbed.laptop(world.folder, "alice--ci", server, secret, *second[1:]):
            pass
        assert not any(each.done() for each in slow)
        world.app.may_end.set()
        assert await asyncio.gather(*slow) == [(200, 2 * HALF)] * len(slow)
        assert up.process.returncode is None


async def test_a_registration_that_policy_no_longer_permits_ends_devroute_up(
    world: World,
) -> None:
    services = (f"foo=127.0.0.1:{world.port}", f"bar=127.0.0.1:{world.port}")
    async with testbed.laptop(world.folder, "alice", world.proxy.server, world.secret, *services) as up:
        world.app.may_end.clear()
        world.app.begun = 0
        slow = asyncio.ensure_future(world.get("alice", "/slow"))
        await eventually(lambda: world.app.begun)
        await world.policy(FEWER)
        status, body = await world.get("alice")
        assert (status, json.loads(body)["code"]) == (503, "laptop-offline")
        world.app.may_end.set()
        assert await slow == (200, 2 * HALF), "a request in flight completes"
        async with asyncio.timeout(PATIENCE_S):
            assert await up.process.wait() == 30
        assert "'alice' may register nothing, not 'foo'" in up.log.read_text()
    revoked = world.said("laptop.revoked")[-1]
    assert (revoked["laptop"], revoked["code"]) == ("alice", "not-permitted")
    await world.policy(OPEN)
