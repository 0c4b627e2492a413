"""A real Envoy in front of an app and a fake devroute proxy."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from aiohttp import ClientSession, ClientTimeout, web

from devroute.mesh import envoy
from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio import extension_configs
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.rules import RELEASES, Release
from devroute.mesh.istio.sidecar import INBOUND, Document, Endpoint, Sidecar, address, bootstrap
from devroute.mesh.manifests import lua
from devroute.mesh.manifests.model import ProxyService, Scope
from devroute.mesh.manifests.sidecar_filter import CHOOSES_AGAIN_SINCE, envoy_filter
from tests.support.istio_security import with_tls

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

PROXY = ProxyService()
#: How the filter spells its wait for /resolve (lua/parts/rule.lua).
WAIT = "RESOLVE_TIMEOUT_MS = 500"
#: Of a question that no replica responds to (lua/parts/retry.lua).
ATTEMPTS = 3
#: Variables that istiod sets in the container of a sidecar.
ENVIRONMENT = {"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "default"}


def release() -> Release:
    """The one whose Envoy runs."""
    return _release_of(envoy.envoy_binary())


def filters_in_lua() -> int:
    """Of those that a route turns on for a request: the last, and the first where Envoy has none of its
    own."""
    return 1 if re.search(CHOOSES_AGAIN_SINCE, f"{release().istio}.0") else 2


def lua_is_counted() -> bool:
    """Envoy counts executions since 1.37."""
    return release() != RELEASES[0]


@cache
def _release_of(binary: Path) -> Release:
    version = envoy.version_of(binary)
    (found,) = (each for each in RELEASES if version.startswith(f"{each.envoy}."))
    return found


@asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[Endpoint]:
    """An aiohttp server for every method and path, on a port of the kernel's choice."""
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1, max_field_size=1 << 16, max_line_size=1 << 16)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield Endpoint(*runner.addresses[0][:2])
    finally:
        await runner.cleanup()


@dataclass
class FakeProxy:
    """Sends a given response on the control port, and records the requests."""

    answer: Handler | None = None
    asked: list[web.Request] = field(default_factory=list)

    async def resolve(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request)
        assert self.answer is not None
        return await self.answer(request)

    def says(self, decision: str, **more: object) -> None:
        lines = ["devroute 1", f"decision {decision}", *(f"{key} {value}" for key, value in more.items())]

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text="\n".join(lines) + "\n")

        self.answer = answer
        self.asked.clear()


@dataclass(frozen=True)
class Mesh:
    """A sidecar of the service foo, a client of it, and the proxy that it asks."""

    envoy: Envoy
    client: ClientSession
    proxy: FakeProxy

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.envoy.listeners[INBOUND])


async def echo(request: web.Request, who: str) -> web.StreamResponse:
    """Responds with what arrived, as JSON; at /stream with the body as it arrives; at /socket a WebSocket."""
    headers = {"x-devroute-result": "laptop"} if who == "proxy" else {}
    if request.path == "/socket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(f"{who} received {message.data}")
        return socket
    if request.path == "/stream":
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        async for chunk in request.content.iter_any():
            await response.write(chunk)
        return response
    size = len(await request.read())
    sent = [[key, value] for key, value in request.headers.items()]
    return web.json_response({"who": who, "headers": sent, "size": size}, headers=headers)


async def from_app(request: web.Request) -> web.StreamResponse:
    return await echo(request, "app")


async def from_proxy(request: web.Request) -> web.StreamResponse:
    return await echo(request, "proxy")


def patient(configuration: Document, wait_ms: int = 10_000) -> Document:
    """The configuration with a filter that waits 10 s for /resolve, and not half a second: on a machine whose
    cores are all in use the proxy may take longer than that, and every decision would be a fallback."""
    text = json.dumps(configuration)
    assert WAIT in text or "RESOLVE_TIMEOUT_MS" not in text
    changed: Document = json.loads(text.replace(WAIT, f"RESOLVE_TIMEOUT_MS = {wait_ms}"))
    return changed


@asynccontextmanager
async def sidecar_of_foo(
    folder: Path,
    *scopes: Scope,
    control: Endpoint | None = None,
    data: Endpoint | None = None,
    replicas: Sequence[Endpoint] = (),
    gone: Endpoint | None = None,
    controls: Sequence[Endpoint] = (),
    port: int | None = None,
    clusters: bool = True,
    code: str | None = None,
    front: str | None = None,
    tls: Document | None = None,
    permissive: bool = False,
    environment: Mapping[str, str] = ENVIRONMENT,
    hurried: bool = False,
    wait_ms: int = 10_000,
    teams: Sequence[Document] = (),
) -> AsyncIterator[Mesh]:
    """The shipped EnvoyFilters applied to an Istio-shaped sidecar.

    `hurried`: it waits for /resolve as long as shipped; else longer, see `patient`.
    `teams` are EnvoyFilters of others. `control` and `data` replace the fake proxy's ports, `controls` and
    `replicas` its control and data port by several; `gone` is one more endpoint of both, at which nothing
    listens; `port` is that of the app and of the listener, as Istio has it; `front` and `code` replace the
    Lua of the first and last filter (the first one has Lua in old releases alone, whose patches suit any
    Envoy); without `clusters` the sidecar does not know the proxy.
    """
    proxy = FakeProxy()
    async with AsyncExitStack() as stack:
        app = await stack.enter_async_context(serving(from_app))
        fake_data = await stack.enter_async_context(serving(from_proxy))
        fake_control = await stack.enter_async_context(serving(proxy.resolve))
        known = {PROXY.data_cluster: data or fake_data, PROXY.control_cluster: control or fake_control}
        sidecar = Sidecar("foo", app, labels={"app": "foo"}, clusters=known if clusters else {})
        if port is not None:
            sidecar = replace(sidecar, port=port)
        configuration = apply(
            [*map(envoy_filter, scopes), *teams],
            sidecar,
            with_tls(bootstrap(sidecar), tls, permissive),
            release() if front is None else RELEASES[0],
        )
        if port is not None:
            listener = configuration["static_resources"]["listeners"][0]
            listener["address"]["socket_address"]["port_value"] = port
        several = {PROXY.data_cluster: [*replicas], PROXY.control_cluster: [*controls]}
        if gone is not None:
            several[PROXY.data_cluster].append(gone)
            several[PROXY.control_cluster] += [gone, control or fake_control]
        for each in configuration["static_resources"]["clusters"]:
            if places := several.get(each["name"]):
                hosts = [{"endpoint": {"address": address(place)}} for place in places]
                each["load_assignment"]["endpoints"] = [{"lb_endpoints": hosts}]
        if code is not None:
            decide = configuration[extension_configs.KEY]["devroute"]["typed_config"]
            decide["default_source_code"]["inline_string"] = code
        if front is not None:
            text = json.dumps(configuration).replace(json.dumps(lua.source("front")), json.dumps(front))
            configuration = json.loads(text)
        elif not hurried:
            configuration = patient(configuration, wait_ms)
        started = await stack.enter_async_context(running(configuration, folder, "foo", environment))
        client = await stack.enter_async_context(
            ClientSession(timeout=ClientTimeout(total=20), max_field_size=1 << 16, max_line_size=1 << 16)
        )
        yield Mesh(started, client, proxy)
