"""The demo's page in a real Chromium, with a journal that the test writes."""

import time
from pathlib import Path

import aiohttp
import pytest

from devroute.mesh.demo.journal import Journal
from devroute.mesh.demo.loopback import served
from devroute.mesh.demo.server import JournalPage
from tests.inspector.browser import chromium, needed

ABOUT = {"services": ["a", "b", "c"], "up": "devroute up b=YOURPORT", "curl": "curl -i http://127.0.0.1:1/"}
#: A page that inserts a text as HTML would run this.
HOSTILE = "/<img src=x onerror=\"document.title='owned'\">"


async def test_other_names_and_methods_are_refused() -> None:
    """A web site whose name resolves to 127.0.0.1 (DNS rebinding) sends its own name."""
    async with served(JournalPage(Journal(), ABOUT).add_routes) as url, aiohttp.ClientSession() as session:

        async def status(method: str, path: str, host: str = "") -> int:
            headers = {"host": host} if host else {}
            async with session.request(method, f"{url}{path}", headers=headers) as response:
                return response.status

        port = url.rpartition(":")[2]
        for path in ("/", "/events", "/page/page.js"):
            for host in ("evil.example", f"evil.example:{port}", "127.0.0.1", "127.0.0.1:1", f"127.1:{port}"):
                assert await status("GET", path, host) == 403
            assert await status("POST", path) == 405
        assert await status("GET", "/", f"localhost:{port}") == 200
        assert await status("GET", "/page/..%2fapp.py") == 404


@needed
@pytest.mark.browser
async def test_the_page_shows_each_chain_live_and_the_age_of_open_requests(tmp_path: Path) -> None:
    journal = Journal()
    async with (
        served(JournalPage(journal, ABOUT).add_routes) as url,
        chromium(tmp_path / "profile") as browser,
    ):
        await browser.open(f"{url}/")
        await browser.shows("#state", "live")
        await browser.shows("#none", "None yet")
        await browser.shows("#up", "devroute up b=YOURPORT")

        began = time.time() - 65
        journal.enter("t", "GET", HOSTILE, '{"b": "you"}', began)
        journal.answer(journal.send("t", "a", began), 200, "service", "", time.time())
        at_b = journal.send("t", "b", began)
        await browser.shows(".contract", 'x-devroute: {"b": "you"}')
        await browser.shows(".hop[data-state=open]", "open for 1 min ")
        age = await browser.text(".hop[data-state=open] .who")
        await browser.until(
            "document.querySelector('.hop[data-state=open] .who').textContent != arguments[0]", age
        )
        await browser.size(360, 640)
        assert await browser.js("return document.documentElement.scrollWidth") <= 360
        await browser.picture("demo-360")

        journal.answer(at_b, 201, "laptop", "b answered by you (tunnel)", time.time())
        await browser.shows(".hop[data-state=laptop]", "b answered by you (tunnel)")
        await browser.shows(".hop[data-state=laptop] small:last-child", "status 201 after 1 min")
        assert await browser.text("b") == "GET " + HOSTILE
        journal.enter("u", "GET", "/", "", time.time())
        journal.answer(journal.send("u", "a", time.time()), 400, "error", "not valid JSON", time.time())
        await browser.shows(".hop[data-state=error]", "an error")
        await browser.size(1280, 800)
        for scheme in ("light", "dark"):
            await browser.scheme(scheme)
            await browser.picture(f"demo-{scheme}")
        assert await browser.js("return document.title") == "devroute demo: b"
        assert await browser.complaints() == []
        await browser.leave()
