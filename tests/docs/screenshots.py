"""`make screenshots`: the pictures of the pages, each in light and dark, of running programs: the inspector
of a real `devroute up` behind a real proxy, the page of a real demo, and the team's page; or those that are
named (`make screenshots ARGS=team`). Look at them before you commit them.
"""

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import aiohttp
from aiohttp import web
from grpc import aio

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.demo import text
from devroute.mesh.demo.journal import Journal
from devroute.mesh.demo.loopback import served
from devroute.mesh.demo.mesh import ALICE, BOB, YOU, mesh
from devroute.mesh.demo.server import JournalPage
from tests.inspector.browser import Browser, chromium
from tests.proxy.dashboard.browser_cases import open_page
from tests.proxy.dashboard.browser_cases import requests as requests_to
from tests.proxy.dashboard.team import JSON, team
from tests.support.grpc_shop import SERVICE, V1, message, reflecting, serving
from tests.support.paths import ROOT

FOLDER = ROOT / "docs"
SCHEMES = {"light": "", "dark": "-dark"}
WIDTH = 1280
CALLER = "spiffe://cluster.local/ns/shop/sa/a"


class Shop:
    """The app of alice's `b`."""

    def add_routes(self, router: web.UrlDispatcher) -> None:
        router.add_get("/api/orders/{id}", self.order)
        router.add_post("/api/orders", self.place)
        router.add_get("/api/stock/{sku}", self.stock)
        router.add_get("/ws/prices", self.prices)

    async def order(self, request: web.Request) -> web.Response:
        if request.match_info["id"] == "1029":
            return web.json_response({"error": "no such order"}, status=404)
        customer = {"name": "Ada Lovelace", "email": "ada@example.org", "vip": True, "since": None}
        items = [
            {"sku": "TEA-1", "amount": 2, "price": 12.5},
            {"sku": "MUG-7", "amount": 1, "price": 9.0},
        ]
        number = int(request.match_info["id"])
        return web.json_response({"id": number, "customer": customer, "items": items, "total": 34.0})

    async def place(self, request: web.Request) -> web.Response:
        return web.json_response({"id": 1036}, status=201, headers={"location": "/api/orders/1036"})

    async def stock(self, request: web.Request) -> web.Response:
        return web.Response(status=500, text='Traceback (most recent call last):\n  …\nKeyError: "TEA-9"\n')

    async def prices(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for each in socket:
            await socket.send_json({"sku": each.data, "price": 12.5})
        return socket


@asynccontextmanager
async def inspector(folder: Path) -> AsyncIterator[str]:
    """The link of an inspector that has recorded requests of several kinds."""
    secret, record = new_token(ALICE)
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        app = (await enter(served(Shop().add_routes))).removeprefix("http://")
        grpc = await enter(serving(reflecting(V1)))
        proxy = await enter(testbed.proxy(folder, [record]))
        services = (f"b={app}", f"c=grpc://127.0.0.1:{grpc.port}")
        # A guard of the app's server permits its own name only.
        options = ("--host-header", "app")
        up = await enter(testbed.laptop(folder, ALICE, proxy.server, secret, *services, *options))
        await requests(f"{proxy.data.host}:{proxy.data.port}")
        link = re.search(r"http://127\.0\.0\.1:\d+/\?token=\S+", up.log.read_text())
        assert link is not None, up.log.read_text()
        yield link[0]


async def requests(data_port: str) -> None:
    """Send what the list shows, as a sidecar of each service does."""
    headers = {"x-devroute": '{"b": "alice", "c": "alice"}', "x-devroute-caller": CALLER}
    to_b = {**headers, "x-devroute-matched": "b", "host": "b.shop:8080"}
    async with aiohttp.ClientSession(f"http://{data_port}", headers=to_b) as session:

        async def send(method: str, path: str, body: object = None) -> None:
            async with session.request(method, path, json=body) as response:
                await response.read()

        for number in range(1024, 1032):
            await send("GET", f"/api/orders/{number}?expand=items")
        await send("GET", "/api/stock/TEA-9")
        async with session.ws_connect("/ws/prices") as socket:
            await socket.send_str("TEA-1")
            await socket.receive()
        for _ in range(3):
            await send("POST", "/api/orders", {"customer": "Ada Lovelace", "items": [{"sku": "TEA-1"}]})
        metadata = {**headers, "x-devroute-matched": "c"}
        async with aio.insecure_channel(data_port) as channel:
            for method in ("Place", "Refuse"):
                call = channel.unary_unary(f"/{SERVICE}/{method}", lambda each: each.SerializeToString())
                order = message("Order", {"id": 7, "customer": "Ada"})
                try:
                    await call(order, metadata=tuple(metadata.items()))
                except aio.AioRpcError:
                    assert method == "Refuse"
        await send("GET", "/api/orders/1036?expand=items")


async def take(browser: Browser, name: str) -> None:
    for scheme, suffix in SCHEMES.items():
        await browser.scheme(scheme)
        await browser.save(FOLDER / f"{name}{suffix}.png")


async def picture_inspector(browser: Browser, folder: Path) -> None:
    async with inspector(folder) as link:
        await browser.open(link)
        await browser.until("document.querySelector('#live')?.dataset.state === 'live'")
        await browser.click("#list [role=option]", "/api/orders/1036")
        await browser.shows(".json", "Ada Lovelace")
        await take(browser, "inspector")
        await browser.leave()


async def picture_demo(browser: Browser, folder: Path) -> None:
    journal = Journal()
    async with mesh(folder, "b", journal, print) as running:
        about = {
            "services": running.services,
            "up": "devroute up b=8001",
            "curl": text.curl(running.url, {"b": YOU}),
        }
        async with aiohttp.ClientSession() as session, served(JournalPage(journal, about).add_routes) as page:
            for contract in ("", f'{{"b": "{BOB}"}}', f'{{"b": "{ALICE}"}}'):
                headers = {"x-devroute": contract} if contract else {}
                async with session.get(f"{running.url}/orders/7", headers=headers) as response:
                    assert response.status == 200, await response.text()
            await browser.open(f"{page}/")
            await browser.shows(".hop[data-state=laptop]", ALICE)
            await take(browser, "demo")
            await browser.leave()


async def picture_team(browser: Browser, folder: Path) -> None:
    settings = {"entry_url": "https://qa.example", "entry_links": True}
    async with team(folder, **settings) as here:
        await here.laptop("alice", "shop", "cart")
        await here.laptop("alice--pay", "payments")
        await here.laptop("bob", "shop")
        for service, target, count, failed in (("shop", "bob", 340, 4), ("cart", "alice", 26, 0)):
            requests_to(here, service, target, count, failed)
        for target in ("dora", "dora", "emil"):
            asked = {"x-devroute": f'{{"shop": "{target}"}}', "x-devroute-candidates": "shop"}
            await here.ask("GET", "/resolve", asked)
        body = {"contract": '{"shop": "alice", "payments": "alice--pay"}'}
        await here.ask("PUT", "/api/contracts/checkout", here.token("alice") | JSON, body)
        await open_page(browser, here, "carol")
        await browser.shows("#services", "340/min")
        await browser.until("document.querySelectorAll('#laptops [title^=round]').length === 3")
        await take(browser, "dashboard")
        await browser.size(360, 640)
        await take(browser, "dashboard_phone")
        await browser.leave()


async def main() -> None:
    with TemporaryDirectory(prefix="devroute-screenshots-") as name:
        folder = Path(name)
        async with chromium(folder / "profile") as browser:
            for each, height in ((picture_inspector, 760), (picture_demo, 640), (picture_team, 640)):
                if sys.argv[1:] and each.__name__.removeprefix("picture_") not in sys.argv[1:]:
                    continue
                (parts := folder / each.__name__).mkdir()
                await browser.size(WIDTH, height)
                await each(browser, parts)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
