"""`--shadow-share`: copies of ordinary requests go to laptops.
Through real Envoy and the real proxy."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web
from grpc import aio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.istio.sidecar import Endpoint
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import MeshScope, NamespaceScope, Scope, WorkloadScope
from tests.envoy.certificates import MeshCa
from tests.envoy.harness import ATTEMPTS, PROXY, filters_in_lua, lua_is_counted, serving, sidecar_of_foo
from tests.envoy.real import Mesh, real_mesh
from tests.envoy.resumption import VERSIONS, get_resumed
from tests.support import grpc_app
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.ports import free_port

pytestmark = [pytest.mark.mesh, pytest.mark.asyncio(loop_scope="module")]

SHORT, LONG = 64 * 1024, 8 * 1024 * 1024
COPIES = f"cluster.{PROXY.data_cluster}.upstream_rq_total"
LATE = f"cluster.{PROXY.control_cluster}.upstream_rq_timeout"


def sharing(service: str, share: float) -> WorkloadScope:
    return WorkloadScope("default", service, shadow_share=share)


@dataclass
class Town:
    """Services that take part with different shares, and laptops that want copies of them."""

    mesh: Mesh
    urls: dict[str, str] = field(default_factory=dict)
    ups: dict[str, testbed.Command] = field(default_factory=dict)
    #: The server, the token and the arguments of each laptop.
    registrations: dict[str, tuple[str, ...]] = field(default_factory=dict)
    copies: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    #: Lets the laptop respond at /held.
    release: asyncio.Event = field(default_factory=asyncio.Event)

    async def get(
        self, service: str, path: str, method: str = "GET", **headers: str
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = b"x" * int(sent.pop("size", "0")) or None
        url = self.urls[service] + path
        async with self.mesh.client.request(method, url, headers=sent, data=body) as response:
            return response.status, await response.json(), dict(response.headers)

    async def start(self, person: str) -> None:
        up = testbed.laptop(self.mesh.folder, person, *self.registrations[person])
        self.ups[person] = await self.mesh.stack.enter_async_context(up)

    def verdict(self, person: str, path: str) -> dict[str, Any] | None:
        """The event of a comparison for a path."""
        shown = (event for event in self.ups[person].events() if event.get("event") == "shadow")
        return next((event for event in shown if event["path"] == path), None)

    async def compared(
        self, person: str, service: str, path: str, method: str = "GET", **headers: str
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """The event of the comparison, and the response's fields. Repeats the request now and then: a sidecar
        whose proxy was too busy to respond in time copies nothing for two seconds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                status, body, fields = await self.get(service, path, method, **headers)
                assert (status, body["who"]) == (200, "service")
                with contextlib.suppress(AssertionError):
                    return await eventually(lambda: self.verdict(person, path), within=2), fields

    def copied(self, path: str) -> list[tuple[str, str, dict[str, str]]]:
        return [each for each in self.copies if each[1].partition("?")[0] == path]

    async def executions(self, service: str) -> int:
        return await self.mesh.envoys[service].lua("executions")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def town(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Town]:
    folder = tmp_path_factory.mktemp("share")
    laptops = {
        "alice": (("foo", "idle"), ["--shadow", "100%", "--ignore", "$.at"]),
        "bob": (("posts", "calls"), ["--shadow", "100%", "--shadow-methods", "GET,POST"]),
        "carol": (("some",), ["--shadow", "30%"]),
    }
    tokens = {name: new_token(name, created="2026-01-01") for name in laptops}
    policy = resources.files("devroute.demo_files").joinpath("policy.yaml").read_text(encoding="utf-8")
    policy += "\nshadow: [foo, posts, calls, some, idle]\n"
    async with real_mesh(folder, *(record for _, record in tokens.values()), policy=policy) as mesh:
        found = Town(mesh)

        async def service(request: web.Request) -> web.Response:
            found.seen.append((request.path, dict(request.headers)))
            return web.json_response({"who": "service", "at": time.time()})

        async def laptop(request: web.Request) -> web.Response:
            size = str(len(await request.read()))
            found.copies.append((request.method, request.path_qs, {**request.headers, "size": size}))
            if request.path == "/held":
                await found.release.wait()
            if request.path == "/loop":
                back = {"baggage": request.headers["baggage"]}
                async with mesh.client.get(found.urls["foo"] + "/looped", headers=back):
                    pass
            who = "laptop" if request.path == "/differs" else "service"
            return web.json_response({"who": who, "at": time.time()})

        app = await mesh.stack.enter_async_context(serving(laptop))
        real = await mesh.stack.enter_async_context(serving(service))
        shares: dict[str, list[Scope]] = {
            "foo": [NamespaceScope("default"), sharing("foo", 100)],
            "posts": [MeshScope(), sharing("posts", 100)],
            "some": [sharing("some", 50)],
            "idle": [sharing("idle", 0)],
        }
        for name, scopes in shares.items():
            found.urls[name] = await mesh.sidecar(name, real, scopes=scopes)
        server, number = await grpc_app.start()
        mesh.stack.push_async_callback(server.stop, None)
        calls = Endpoint("127.0.0.1", number)
        found.urls["calls"] = await mesh.sidecar(
            "calls", calls, scopes=[sharing("calls", 100)], as_client=True
        )
        at = {"calls": f"grpc://127.0.0.1:{number}"}
        for name, (services, flags) in laptops.items():
            offered = (f"{each}={at.get(each, app.port)}" for each in services)
            registration = (mesh.proxy.server, tokens[name][0], *offered, "--output", "json", *flags)
            found.registrations[name] = registration
            await found.start(name)
        yield found


async def test_ordinary_requests_are_served_by_the_service_and_compared(town: Town) -> None:
    verdict, headers = await town.compared("alice", "foo", "/same")
    assert (verdict["differences"], verdict["contract"]) == ([], False)
    assert not any(name.startswith("x-devroute") for name in headers)
    (difference,) = (await town.compared("alice", "foo", "/differs"))[0]["differences"]
    assert difference == {"where": "body $.who", "left": '"service"', "right": '"laptop"'}


async def test_requests_that_a_copy_causes_are_not_copied_again(town: Town) -> None:
    """Its app forwards the first line of baggage, and some callers send baggage."""
    await town.compared("alice", "foo", "/loop")  # reported once the laptop's own request has its response
    await town.compared("alice", "foo", "/loop?more", baggage="a=b,devroute-via=bar")
    await town.compared("alice", "foo", "/after")
    asked = [headers["baggage"] for path, headers in town.seen if path == "/looped"]
    assert {"devroute-via=foo", "a=b,devroute-via=bar~foo"} <= set(asked)
    assert town.copied("/looped") == []


async def test_methods_that_change_something_are_copied_only_if_offered(town: Town) -> None:
    """At a sidecar that has the filter for the mesh, too."""
    await town.compared("bob", "posts", "/post", "POST", size="60000")
    assert {(method, headers["size"]) for method, _, headers in town.copied("/post")} == {("POST", "60000")}
    status, body, _ = await town.get("foo", "/post-foo", "POST")
    assert (status, body["who"]) == (200, "service")
    await town.compared("alice", "foo", "/after-post")
    assert town.copied("/post-foo") == []


async def test_a_grpc_call_is_copied_and_its_status_compared(town: Town) -> None:
    paths = ("/t/Unary", "/t/Abort")
    async with aio.insecure_channel(town.urls["calls"].removeprefix("http://")) as channel:

        async def compared() -> bool:
            assert await channel.unary_unary("/t/Unary")(b"hi") == b"hi"
            with pytest.raises(aio.AioRpcError):
                await channel.unary_unary("/t/Abort")(b"no")
            return all(town.verdict("bob", path) for path in paths)

        await eventually(compared)
    assert [(town.verdict("bob", path) or {})["differences"] for path in paths] == [[], []]


async def test_decisions_are_requested_for_a_share_and_a_part_of_it_is_copied(town: Town) -> None:
    """The workload gives half of its requests, and the laptop wants 30% of all."""
    sidecar, in_time = town.mesh.envoys["some"], False
    while not in_time:
        late = await sidecar.counter(LATE)
        known = len(town.copied("/known"))
        while len(town.copied("/known")) == known:
            await town.get("some", "/known")
        before, copied = await town.executions("some"), await sidecar.counter(COPIES)
        answers = await asyncio.gather(*(town.get("some", f"/share?{n}") for n in range(400)))
        assert {(status, body["who"]) for status, body, _ in answers} == {(200, "service")}
        copies = await sidecar.counter(COPIES) - copied
        # For each request that takes part those of its filters, and one more for the response of each copy.
        asked = (await town.executions("some") - before - copies) / filters_in_lua()
        in_time = late == await sidecar.counter(LATE)
    assert 60 < copies < 180  # 120, and 9.2 is one sigma
    assert 130 < asked < 270 or not lua_is_counted()  # 200, and 10 is one sigma


async def test_a_share_of_zero_runs_no_lua(town: Town) -> None:
    for n in range(50):
        await town.get("idle", f"/{n}")
    assert await town.executions("idle") == 0


async def test_markers_from_a_client_have_no_effect(town: Town) -> None:
    await town.compared("alice", "foo", "/to-learn")
    (ticket,) = {headers["x-devroute-copy"] for _, _, headers in town.copied("/to-learn")}
    forged = {
        "x_devroute_copy": ticket,  # a real one, though no client gets to know it
        "x_devroute_shadow": PROXY.data_cluster,
        "x_devroute_cluster": PROXY.data_cluster,
        "x_devroute_matched": "foo",
        "x_devroute_compare": "0" * 32,
    }
    for service, method in (("idle", "GET"), ("foo", "POST")):  # none of which is copied
        status, body, headers = await town.get(service, "/forged", method, **forged)
        assert (status, body["who"]) == (200, "service")
        assert not any(name.startswith("x-devroute") for name in headers)
    await town.compared("alice", "foo", "/forged-and-copied", **{**forged, "x_devroute_copy": "f" * 32})
    assert town.copied("/forged") == []


async def test_requests_with_a_contract_follow_the_contract(town: Town) -> None:
    _, _, headers = await town.get("foo", "/others", x_devroute='{"bar": "alice"}')
    assert headers["x-devroute-result"] == "service"
    verdict, headers = await town.compared("alice", "foo", "/contract", x_devroute='{"foo": "alice"}')
    assert (headers["x-devroute-result"], verdict["contract"]) == ("mirror", True)
    assert town.copied("/others") == []


async def test_responses_do_not_wait_for_that_of_the_laptop(town: Town) -> None:
    """It holds its own until all of them have arrived."""

    async def copied() -> bool:
        status, body, _ = await town.get("foo", "/held")
        assert (status, body["who"]) == (200, "service")
        return bool(town.copied("/held"))

    await eventually(copied)
    for _ in range(5):
        assert await copied()
    assert town.verdict("alice", "/held") is None
    town.release.set()
    await eventually(lambda: town.verdict("alice", "/held"))


async def test_copies_end_with_the_laptop(town: Town) -> None:
    sidecar = town.mesh.envoys["posts"]
    await town.compared("bob", "posts", "/there")
    town.ups["bob"].process.terminate()
    await town.ups["bob"].process.wait()

    async def ended() -> bool:
        before = await sidecar.counter(COPIES)
        for _ in range(20):
            assert (await town.get("posts", "/gone"))[0] == 200
        return await sidecar.counter(COPIES) == before

    await eventually(ended)
    assert town.copied("/gone") == []
    await town.start("bob")


# --- without a real proxy: what it may send, and whether it is reachable ------------------------------------


TICKETS = ("a" * 32, "b" * 32)


def copies_to(*tickets: str, percent: int = 100) -> str:
    lines = [f"copy {ticket} {percent}.000000 GET,POST" for ticket in tickets]
    return "\n".join(["devroute 1", "decision copy", "ttl 1000", "service foo", *lines]) + "\n"


@asynccontextmanager
async def standing_in(
    town: Town, answer: str, **sidecar: Any
) -> AsyncIterator[tuple[str, list[dict[str, str]]]]:
    """A sidecar whose proxy sends that response: its URL, and the heads of the copies."""
    got: list[dict[str, str]] = []

    async def laptops(request: web.Request) -> web.Response:
        got.append({name.lower(): value for name, value in request.headers.items()})
        return web.Response()

    async def says(_: web.Request) -> web.Response:
        return web.Response(text=answer)

    async def app(request: web.Request) -> web.Response:
        return web.json_response({"who": "app", "size": len(await request.read())})

    async with serving(laptops) as data, serving(says) as control, serving(app) as real:
        proxy = {PROXY.data_cluster: data, PROXY.control_cluster: control, **sidecar.pop("clusters", {})}
        name = f"stand-in-{len(town.mesh.envoys)}"
        yield await town.mesh.sidecar(name, real, clusters=proxy, scopes=[sharing(name, 100)], **sidecar), got


async def test_laptops_share_the_copies_if_they_want_more_than_all(town: Town) -> None:
    async with standing_in(town, copies_to(*TICKETS)) as (url, got):
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < 200:
                async with town.mesh.client.get(url, headers={"x-devroute-caller": "spiffe://f"}) as answer:
                    assert (await answer.json())["who"] == "app"
    count = [sum(each["x-devroute-copy"] == ticket for each in got) for ticket in TICKETS]
    assert sum(count) == len(got)
    assert min(count) > 50  # 100, and 7 is one sigma
    assert not any("x-devroute-caller" in each for each in got)


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.name)
async def test_the_copy_names_the_caller_by_its_certificate(
    town: Town, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    ca, identity = MeshCa(tmp_path), "spiffe://cluster.local/ns/shop/sa/web"
    mtls = ca.for_sidecar("spiffe://cluster.local/ns/default/sa/foo")
    async with standing_in(town, copies_to(TICKETS[0]), tls=mtls) as (url, got):
        address, context = url.removeprefix("http://"), ca.for_caller(identity, version)

        async def copied() -> bool:
            """Where the stand-in is late, on a busy machine, nothing is copied for two seconds."""
            before = len(got)
            responses = await get_resumed(address, context, {"x-devroute-caller": "spiffe://forged"})
            assert [(each.resumed, each.body["who"]) for each in responses] == [
                *[(False, "app"), (True, "app"), (True, "app")]
            ]
            with contextlib.suppress(AssertionError):
                return await eventually(lambda: len(got) >= before + 3, within=2)
            return False

        await eventually(copied)
    assert {each["x-devroute-caller"] for each in got} == {identity}


async def test_an_upload_whose_copy_is_refused_arrives(town: Town) -> None:
    """The ticket is one that the real proxy does not know."""
    real_data = {PROXY.data_cluster: town.mesh.proxy.data}
    async with standing_in(town, copies_to(TICKETS[0]), clusters=real_data) as (url, _):
        sidecar = town.mesh.envoys[list(town.mesh.envoys)[-1]]
        async with asyncio.timeout(PATIENCE_S):
            while not await sidecar.counter(COPIES):
                async with town.mesh.client.post(url, data=b"x" * SHORT) as answer:
                    assert await answer.json() == {"who": "app", "size": SHORT}


async def test_uploads_do_not_wait_for_a_proxy_that_does_not_read(town: Town) -> None:
    """Short ones are copied, and fit into what lies between; long ones, and those that may be, are not."""

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await asyncio.Event().wait()

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(LONG // SHORT):
            yield b"x" * SHORT

    listening = await asyncio.start_server(deaf, "127.0.0.1", 0, limit=1)
    data = {PROXY.data_cluster: Endpoint(*listening.sockets[0].getsockname())}
    try:
        async with standing_in(town, copies_to(TICKETS[0]), clusters=data) as (url, _):
            sidecar = town.mesh.envoys[list(town.mesh.envoys)[-1]]

            async def send(size: int, body: object) -> None:
                async with asyncio.timeout(PATIENCE_S), town.mesh.client.post(url, data=body) as answer:
                    assert await answer.json() == {"who": "app", "size": size}

            sent = 0

            async def copied() -> int:
                nonlocal sent
                sent += 1
                await send(SHORT, b"x" * SHORT)
                return await sidecar.counter(COPIES)

            copies = await eventually(copied)
            assert copies <= sent
            for body in (b"x" * LONG, pieces()):
                await send(LONG, body)
            assert await sidecar.counter(COPIES) == copies
    finally:
        listening.close()


async def test_if_the_lua_fails_the_service_responds(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    source = lua.source

    def broken(entry: str, **constants: lua.Constant) -> str:
        start = "local function drawn(found)"
        return source(entry, **constants).replace(start, f"{start} error('x')")

    monkeypatch.setattr(lua, "source", broken)
    async with standing_in(town, copies_to(TICKETS[0])) as (url, got):
        for _ in range(3):
            async with town.mesh.client.get(url) as answer:
                assert (answer.status, (await answer.json())["who"]) == (200, "app")
        executions = await town.mesh.envoys[list(town.mesh.envoys)[-1]].lua("executions")
        assert executions == filters_in_lua() * 3 or not lua_is_counted()
    assert got == []


async def test_an_empty_assignment_is_requested_once_a_second(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, sharing("foo", 100)) as mesh:
        mesh.proxy.says("service", ttl=1000)
        began = time.monotonic()
        for _ in range(100):
            async with mesh.client.get(mesh.url) as answer:
                assert (await answer.json())["who"] == "app"
        assert 1 <= len(mesh.proxy.asked) <= ATTEMPTS * (1 + time.monotonic() - began)
        assert mesh.proxy.asked[0].headers["x-devroute-candidates"] == "foo"


async def test_a_proxy_that_hangs_makes_one_request_wait(tmp_path: Path) -> None:
    async with sidecar_of_foo(tmp_path, sharing("foo", 100)) as mesh:

        async def hang(_: web.Request) -> web.Response:
            await asyncio.Event().wait()
            raise AssertionError

        mesh.proxy.answer = hang
        began = time.monotonic()

        async def ask() -> None:
            async with mesh.client.get(mesh.url) as answer:
                assert (await answer.json())["who"] == "app"

        await asyncio.gather(*(ask() for _ in range(50)))
        await ask()
        assert len(mesh.proxy.asked) <= ATTEMPTS * (1 + (time.monotonic() - began) / 2)


@pytest.mark.parametrize(
    "answer",
    ["nonsense\n", copies_to("nothing"), "devroute 1\ndecision detour\n", copies_to(TICKETS[0]), None],
)
async def test_the_service_responds_whatever_the_proxy_sends(tmp_path: Path, answer: str | None) -> None:
    """None: it is unreachable. This sidecar has no cluster of the service's own: nothing can be copied."""
    control = Endpoint("127.0.0.1", free_port()) if answer is None else None
    async with sidecar_of_foo(tmp_path, sharing("foo", 100), control=control) as mesh:

        async def says(_: web.Request) -> web.Response:
            return web.Response(text=answer)

        mesh.proxy.answer = says
        for _ in range(3):
            async with mesh.client.get(mesh.url) as response:
                assert (await response.json())["who"] == "app"
                assert not any(name.lower().startswith("x-devroute") for name in response.headers)
    assert "[error]" not in mesh.envoy.log.read_text(), "the Lua failed"  # a small file
