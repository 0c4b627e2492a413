"""`devroute up --shadow`: the service responds, the laptop gets copies, and its owner sees the differences.
Through real Envoy and the real proxy."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib import resources
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from tests.envoy.harness import serving
from tests.envoy.real import Mesh, real_mesh
from tests.support.eventually import PATIENCE_S, eventually

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SIZE = 20 * 1024 * 1024


class Party:
    """A service foo, and laptops of alice, bob and carol with different offers."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.foo = ""
        self.ups: dict[str, testbed.Command] = {}
        self.copies: list[tuple[str, str]] = []
        self.first_read = asyncio.Event()
        self.release = asyncio.Event()

    async def ask(
        self, person: str, path: str, method: str = "GET", **option: Any
    ) -> tuple[int, str, dict[str, Any]]:
        headers = {"x-devroute": json.dumps({"foo": {"to": person, **option}})}
        async with self.mesh.client.request(method, self.foo + path, headers=headers) as response:
            return response.status, response.headers["x-devroute-result"], await response.json()

    async def verdict(self, person: str, path: str) -> dict[str, Any]:
        """The event of the comparison for a path."""
        up = self.ups[person]
        (event,) = await eventually(
            lambda: [each for each in up.events() if each.get("event") == "shadow" and each["path"] == path],
            f"a comparison of {path}",
            process=up,
        )
        return event


async def service(request: web.Request) -> web.StreamResponse:
    if request.path == "/big":
        response = web.StreamResponse()
        await response.prepare(request)
        for _ in range(SIZE // (64 * 1024)):
            await response.write(b"s" * 64 * 1024)
        return response
    document = {"who": "same", "at": "now", "user": {"password": "hunter-real"}}
    return web.json_response(document, headers={"x-kind": "a", "x-own": "service"})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def party(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Party]:
    folder = tmp_path_factory.mktemp("shadow")
    options = {
        "alice": ["--shadow", "100%", "--ignore", "$.at", "--ignore", "x-own"],
        "bob": ["--shadow", "100", "--shadow-methods", "GET,POST"],
        "carol": ["--shadow", "30%"],
    }
    tokens = {name: new_token(name, created="2026-01-01") for name in options}
    policy = resources.files("devroute.demo_files").joinpath("policy.yaml").read_text(encoding="utf-8")
    policy += "\nshadow: [foo]\n"
    async with real_mesh(folder, *(record for _, record in tokens.values()), policy=policy) as mesh:
        found = Party(mesh)

        async def real_service(request: web.Request) -> web.StreamResponse:
            if request.path != "/slow":
                return await service(request)
            response = web.StreamResponse()
            await response.prepare(request)
            await response.write(b"first")
            await found.first_read.wait()
            await response.write(b"last")
            return response

        async def laptop(request: web.Request) -> web.StreamResponse:
            found.copies.append((request.method, request.path_qs))
            if request.path in ("/held", "/hung"):
                await found.release.wait()
            document: dict[str, Any] = {"who": "same", "at": "then", "user": {"password": "hunter-mine"}}
            if request.path == "/json":
                document["who"] = "laptop"
            status = 500 if request.path == "/status" else 200
            return web.json_response(document, status=status, headers={"x-kind": "a", "x-own": "laptop"})

        app = await mesh.stack.enter_async_context(serving(laptop))
        real = await mesh.stack.enter_async_context(serving(real_service))
        found.foo = await mesh.sidecar("foo", real, knows_itself=True)
        for name, flags in options.items():
            arguments = (f"foo={app.port}", "--output", "json", *flags)
            up = testbed.laptop(folder, name, mesh.proxy.server, tokens[name][0], *arguments)
            found.ups[name] = await mesh.stack.enter_async_context(up)
        yield found


async def test_the_service_responds_and_equal_responses_do_not_differ(party: Party) -> None:
    status, result, body = await party.ask("alice", "/same")
    assert (status, result, body["user"]["password"]) == (200, "mirror", "hunter-real")
    event = await party.verdict("alice", "/same")
    assert (event["service"], event["method"], event["differences"]) == ("foo", "GET", [])
    assert ("GET", "/same") in party.copies


async def test_a_difference_in_json_is_named_by_its_path(party: Party) -> None:
    await party.ask("alice", "/same?before")
    await party.verdict("alice", "/same?before")
    status, _, body = await party.ask("alice", "/json")
    assert (status, body["who"]) == (200, "same")
    event = await party.verdict("alice", "/json")
    assert event["differences"] == [{"where": "body $.who", "left": '"same"', "right": '"laptop"'}]
    assert event["different"] >= 1
    assert event["same"] >= 1


async def test_a_difference_in_status_is_named(party: Party) -> None:
    assert (await party.ask("alice", "/status"))[0] == 200
    event = await party.verdict("alice", "/status")
    assert event["differences"] == [{"where": "status", "left": "200", "right": "500"}]


async def test_what_is_not_ignored_differs_and_secrets_are_not_shown(party: Party) -> None:
    await party.ask("bob", "/all")
    event = await party.verdict("bob", "/all")
    assert [each["where"] for each in event["differences"]] == ["header x-own", "body $.at"]
    assert "hunter" not in party.ups["bob"].log.read_text()


async def test_methods_that_change_something_are_copied_only_if_offered(party: Party) -> None:
    assert (await party.ask("alice", "/post", "POST"))[1] == "service"
    assert (await party.ask("bob", "/post", "POST"))[1] == "mirror"
    await party.verdict("bob", "/post")
    assert party.copies.count(("POST", "/post")) == 1


async def test_a_share_is_copied(party: Party) -> None:
    results = [(await party.ask("carol", f"/share?{n}"))[1] for n in range(100)]
    assert set(results) == {"mirror", "service"}
    assert 5 < results.count("mirror") < 60  # 30 ± 5 sigma


async def test_a_contract_without_fallback_is_refused_by_a_laptop_of_shadow_traffic(party: Party) -> None:
    headers = {"x-devroute": json.dumps({"foo": {"to": "alice", "fallback": "fail"}})}
    async with party.mesh.client.get(party.foo, headers=headers) as response:
        assert response.status == 501
        assert "accepts only shadow traffic" in (await response.json())["message"]


async def test_a_big_response_streams_and_is_compared_by_its_beginning(party: Party) -> None:
    headers = {"x-devroute": '{"foo": "alice"}'}
    size = 0
    async with party.mesh.client.get(party.foo + "/big", headers=headers) as response:
        async for piece in response.content.iter_any():
            size += len(piece)
    assert size == SIZE
    event = await party.verdict("alice", "/big")
    assert any(each["where"] == "body" for each in event["differences"])


async def test_the_first_byte_does_not_wait_for_the_last(party: Party) -> None:
    headers = {"x-devroute": '{"foo": "alice"}'}
    async with party.mesh.client.get(party.foo + "/slow", headers=headers) as response:
        async with asyncio.timeout(PATIENCE_S):
            assert await response.content.readany() == b"first"
            party.first_read.set()
            assert await response.content.read() == b"last"


async def test_a_response_does_not_wait_for_that_of_the_laptop(party: Party) -> None:
    async with asyncio.timeout(PATIENCE_S):
        assert (await party.ask("alice", "/held"))[0] == 200
    await eventually(lambda: ("GET", "/held") in party.copies)
    assert not any(each.get("path") == "/held" for each in party.ups["alice"].events())
    party.release.set()
    await party.verdict("alice", "/held")


async def test_a_laptop_that_does_not_respond_in_time_is_reported(party: Party) -> None:
    party.release.clear()
    assert (await party.ask("alice", "/hung", timeout="1s"))[0] == 200
    (found,) = (await party.verdict("alice", "/hung"))["differences"]
    assert (found["where"], found["left"]) == ("answer", "200")
    assert found["right"].startswith("upstream-timeout")


async def test_captures_have_their_comparison(party: Party) -> None:
    online = next(each for each in party.ups["alice"].events() if each.get("event") == "online")
    link = str(online["inspector"])
    path = "/json?captured"
    await party.ask("alice", path)
    await party.verdict("alice", path)
    async with AsyncExitStack() as stack:
        jar = aiohttp.CookieJar(unsafe=True)
        client = await stack.enter_async_context(aiohttp.ClientSession(cookie_jar=jar))
        async with client.get(link) as response:
            assert response.status == 200
        base = link.partition("/?")[0].rstrip("/")
        async with client.get(base + "/api/exchanges") as response:
            listed = await response.json()
    found = [each for each in listed["exchanges"] if each["target"] == path]
    assert found
    assert found[0]["differences"] == 1


async def test_where_policy_permits_no_copies_no_laptop_gets_them(tmp_path: Path) -> None:
    secret, record = new_token("alice", created="2026-01-01")
    async with testbed.proxy(tmp_path, [record]) as proxy:
        environment = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": secret}
        async with testbed.command(tmp_path, "up", ("up", "foo=8001", "--shadow", "25%"), environment) as up:
            async with asyncio.timeout(PATIENCE_S):
                assert await up.process.wait() == 30
            said = up.log.read_text()
    assert "does not permit shadow traffic" in said
    assert "shadow" in said
