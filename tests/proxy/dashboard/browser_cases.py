"""The team's page in a real Chromium. tests/inspector/test_page.py runs these tests in its browser: one is
started for both pages.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from devroute.proxy.telemetry.activity import Activity
from devroute.routing.route import Route
from tests.inspector.browser import Browser
from tests.proxy.dashboard.team import Exchange, Team, team
from tests.support.eventually import eventually

ENTRY = {"entry_url": "https://qa.example", "entry_links": True}
#: A page that inserts it as HTML would run this.
HOSTILE = "<img src=x onerror=window.owned=1>"
LIVE = "document.querySelector('#live')?.dataset.state === 'live'"


def activity_of(here: Team) -> Activity:
    return here.proxy.telemetry.activity


def requests(here: Team, service: str, target: str, count: int, failed: int = 0) -> None:
    route: Any = Route(None, service, target, "laptop", "")  # type: ignore[arg-type]
    for number in range(count):
        activity_of(here).count(Exchange(route, 500 if number < failed else 200))  # type: ignore[arg-type]


async def open_page(browser: Browser, here: Team, subject: str) -> None:
    await browser.open(f"{here.url}/dashboard/?code={await here.code(subject)}")
    # The test's driver opens it from a page of another site, as a chat would.
    if await browser.js("return document.querySelector('form[method=post]') !== null"):
        await browser.click("button", "Open the page")
    await browser.until(LIVE)


async def live_and_text(browser: Browser, tmp_path: Path) -> None:
    async with team(tmp_path, **ENTRY) as here:
        await open_page(browser, here, "bob")
        assert str(await browser.js("return location.href")) == f"{here.url}/dashboard/"
        assert await browser.js("return document.cookie") == ""  # HttpOnly
        await browser.shows("#no-laptops", "No laptop is online")
        link = await here.laptop("alice--dev", "shop", "cart")
        await browser.shows("#services", "alice--dev")
        await browser.shows("#laptops", "for less than a minute")
        requests(here, "shop", "alice--dev", 12, failed=3)
        requests(here, "cart", HOSTILE, 2)
        await here.ask("GET", "/resolve", {"x-devroute": '{"shop": "dora"}', "x-devroute-candidates": "shop"})
        await browser.shows("#fallbacks", "laptop 'dora' is not online")
        await browser.shows("#services", "12/min 3 failed")
        await browser.shows("#services", HOSTILE)
        await browser.shows("#summary", "1 laptop online · 14/min · 3 failed")
        assert await browser.js("return document.querySelectorAll('main img, main script').length") == 0
        assert await browser.js("return window.owned") is None
        # What the others see of a request is its service, target and reason.
        await browser.allow_clipboard(here.url)
        await browser.press("j", "c")
        await browser.shows("#notice", "header copied")
        assert (
            await browser.js("return navigator.clipboard.readText()") == 'X-devroute: {"cart": "alice--dev"}'
        )
        join = await browser.js("return document.querySelector('#laptops [data-do=join]').href")
        assert (
            join
            == "https://qa.example/?devroute=%7B%22shop%22%3A%22alice--dev%22%2C%22cart%22%3A%22alice--dev%22%7D"
        )
        assert await browser.js("return document.querySelectorAll('[data-do=end]').length") == 0
        await browser.press("?")
        await browser.shows("dialog[open]", "filter by name")
        await browser.press("Esc")
        await browser.until("!document.querySelector('dialog').open")
        await browser.press("/", *"shop")
        await browser.until("document.querySelectorAll('#services > li').length === 1")
        await browser.press("Esc")
        link.transport.abort()
        await browser.shows("#no-laptops", "No laptop is online")
        assert await browser.complaints() == []
        here.revoke("bob")
        await browser.shows("#dialog", "devroute dashboard")
        await browser.leave()
        await browser.complaints()  # that the session has ended


async def administrator(
    browser: Browser, tmp_path: Path, check_accessibility: Callable[[Browser], Awaitable[list[str]]]
) -> None:
    async with team(tmp_path, **ENTRY) as here:
        link = await here.laptop("alice--dev", "shop", "cart")
        await here.laptop("bob", "shop")
        await here.ask("GET", "/resolve", {"x-devroute": '{"shop": "dora"}', "x-devroute-candidates": "shop"})
        requests(here, "shop", "bob", 340, failed=4)
        await open_page(browser, here, "carol")
        await browser.shows("#who", "carol, administrator")
        await browser.shows("#services", "340/min")
        assert await check_accessibility(browser) == []
        await browser.picture("team")
        await browser.click("#laptops [data-do=end]")
        await browser.until("document.querySelector('#reason')")
        assert await check_accessibility(browser) == []
        await browser.js("document.querySelector('#reason').focus()")
        await browser.press(*"the demo", "Enter")
        await link.close_reason
        assert link.goaway is not None
        assert link.goaway.message.endswith("the demo")
        await browser.until("!document.querySelector('#laptops').textContent.includes('alice--dev')")
        await browser.click("#laptops [data-do=block]")
        await browser.click("#do-it")
        await browser.shows("#blocks", "by carol")
        await browser.shows("#no-laptops", "No laptop is online")
        await eventually(lambda: [each["action"] for each in here.audited("admin")] == ["end", "block"])
        try:
            await here.laptop(
                "carol--with-a-name-that-is-really-rather-long", *(f"service-{n}" for n in range(9))
            )
            await browser.shows("#laptops", "carol--")
            for scheme in ("light", "dark"):
                await browser.scheme(scheme)
                await browser.size(360, 740)
                await browser.until("innerWidth === 360")
                assert await browser.js("return document.documentElement.scrollWidth") == 360
                assert await check_accessibility(browser) == []
                await browser.picture(f"team-phone-{scheme}")
        finally:
            await browser.size(1440, 900)
            await browser.scheme("light")
        await browser.click("#blocks [data-do=unblock]")
        await browser.shows("#no-blocks", "No one is blocked")
        await browser.click("#logout")
        await browser.shows("#dialog", "This page is closed")
        await browser.leave()
        await browser.complaints()
