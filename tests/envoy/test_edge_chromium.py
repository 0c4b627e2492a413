"""The edge in a real Chromium: what a typed address, another site's page and our own page lead to."""

import html
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.mesh.istio.gateway import LISTENER
from devroute.mesh.istio.sidecar import Document
from devroute.mesh.manifests.gateway_filter import EdgeSettings
from tests.envoy.certificates import MeshCa
from tests.envoy.edge import CONTRACT, ENCODED, EVERYBODY, HOST, Edge, gateway
from tests.envoy.harness import serving
from tests.inspector.browser import Browser, chromium, needed

pytestmark = [pytest.mark.mesh, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module"), needed]

ASKS = "Route the requests of this browser?"


def port_of(edge: Edge) -> int:
    return edge.envoy.listeners[LISTENER].port


@dataclass(frozen=True)
class Scene:
    """A browser, a shop behind a gateway by https and by http, and a site of someone else."""

    browser: Browser
    https: str
    http: str
    foreign: str

    async def opened(self, url: str) -> str:
        """The text of the page at an address that the user types."""
        await self.browser.open(url)
        return str(await self.browser.js("return document.body.innerText"))

    async def clicked(self, css: str, wanted: str) -> str:
        """The text of the page behind an element, which holds `wanted`."""
        await self.browser.click(css)
        await self.browser.until("document.body.innerText.includes(arguments[0])", wanted)
        return str(await self.browser.js("return document.body.innerText"))

    async def routed(self, shop: str) -> bool:
        return CONTRACT.replace('"', '\\"') in await self.opened(f"{shop}/")


def server_side(folder: Path) -> Document:
    """TLS without client certificates."""
    tls = MeshCa(folder).for_sidecar("spiffe://cluster.local/ns/istio-system/sa/gateway")
    del tls["require_client_certificate"], tls["common_tls_context"]["validation_context"]
    return tls


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    folder = tmp_path_factory.mktemp("edge")
    settings = EdgeSettings(networks=EVERYBODY)
    addresses: dict[str, str] = {}

    async def attack(request: web.Request) -> web.Response:
        """A page of each attack: the path is its name, the query the address of the shop."""
        shop = html.escape(addresses[request.query_string])
        page = {
            "/link": f'<a href="{shop}/p?devroute={ENCODED}">read more</a>',
            "/image": f'<img src="{shop}/p?devroute={ENCODED}" onerror="document.title = 1">',
            "/frame": f'<iframe src="{shop}/p?devroute={ENCODED}" onload="document.title = 1"></iframe>',
            "/form": f'<form method="post" action="{shop}/p?confirm-devroute={ENCODED}"><button>win</button>',
        }[request.path]
        return web.Response(text=f"<!DOCTYPE html><title>evil</title>{page}", content_type="text/html")

    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tls = server_side(folder)
        https = await enter(gateway(folder, settings, tls=tls, name="https"))
        http = await enter(gateway(folder, settings, name="http"))
        foreign = await enter(serving(attack))
        flags = ("--host-resolver-rules=MAP *.example 127.0.0.1", "--ignore-certificate-errors")
        browser = await enter(chromium(folder / "profile", *flags))
        addresses |= {"https": f"https://{HOST}:{port_of(https)}", "http": f"http://{HOST}:{port_of(http)}"}
        yield Scene(browser, addresses["https"], addresses["http"], f"http://evil.example:{foreign.port}")


async def test_a_typed_address_sets_the_cookie_and_off_clears_it(scene: Scene) -> None:
    assert not await scene.routed(scene.https)
    assert '"path": "/p?a=b"' in await scene.opened(f"{scene.https}/p?devroute={ENCODED}&a=b")
    assert await scene.browser.js("return location.href") == f"{scene.https}/p?a=b"
    assert await scene.routed(scene.https)
    assert await scene.browser.js("return document.cookie") == "", "no script reads it"
    await scene.opened(f"{scene.https}/?devroute=off")
    assert not await scene.routed(scene.https)


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_a_page_of_another_site_never_sets_the_cookie(scene: Scene, scheme: str) -> None:
    shop = scene.https if scheme == "https" else scene.http
    for attack, press in {"link": "a", "form": "button"}.items():
        await scene.opened(f"{scene.foreign}/{attack}?{scheme}")
        assert "192.0.2.1:8001" in await scene.clicked(press, ASKS)
        assert not await scene.routed(shop), attack
    for attack in ("image", "frame"):
        await scene.opened(f"{scene.foreign}/{attack}?{scheme}")
        await scene.browser.until("document.title === '1'")
        assert not await scene.routed(shop), attack


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_the_user_may_agree_or_continue_without(scene: Scene, scheme: str) -> None:
    shop = scene.https if scheme == "https" else scene.http
    link = f"{scene.foreign}/link?{scheme}"
    await scene.opened(link)
    assert scene.foreign in await scene.clicked("a", ASKS)
    await scene.clicked("a", '"path": "/p"')
    assert not await scene.routed(shop)
    await scene.opened(link)
    await scene.clicked("a", ASKS)
    await scene.browser.complaints()
    await scene.clicked("button", '"path": "/p"')
    assert await scene.browser.js("return location.href") == f"{shop}/p"
    assert await scene.browser.complaints() == []
    assert await scene.routed(shop)
    await scene.opened(f"{shop}/?devroute=off")
    assert not await scene.routed(shop)


async def test_without_fetch_metadata_a_typed_address_asks_too(scene: Scene) -> None:
    assert ASKS in await scene.opened(f"{scene.http}/p?devroute={ENCODED}")
    assert not await scene.routed(scene.http)
