"""Browsers that Selenium and Playwright drive. Both would set a header for every host that a page uses: here
each request is intercepted, and continues with the contract if its host is a listed one.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final
from urllib.parse import urlsplit

import pytest

from devroute.pytest_plugin.chromium import Interception
from devroute.pytest_plugin.sender import Sender


def _selenium(sender: Sender) -> None:
    if find_spec("selenium") is None:
        return
    driver = import_module("selenium.webdriver.remote.webdriver").WebDriver
    original: Callable[..., None] = driver.__init__

    def __init__(self: Any, *args: Any, **more: Any) -> None:
        original(self, *args, **more)
        address = self.caps.get("goog:chromeOptions", {}).get("debuggerAddress")
        problem = "of the browsers that Selenium drives, Chromium alone sends the contract"
        try:
            if address and Interception(sender, address).wait():
                return
        except OSError as error:
            problem = f"the browser's DevTools at {address} cannot be reached: {error}"
        self.quit()
        pytest.fail(f"devroute: {problem}")

    sender.patch(driver, "__init__", __init__)


def _playwright(sender: Sender) -> None:
    """Responses are passed on as a whole: an event stream therefore goes without the contract."""
    if find_spec("playwright") is None:
        return
    sync = import_module("playwright.sync_api").Browser
    concurrent = import_module("playwright.async_api").Browser
    for name in ("new_context", "new_page"):
        sender.patch(sync, name, _sync_playwright(sender, getattr(sync, name)))
        sender.patch(concurrent, name, _async_playwright(sender, getattr(concurrent, name)))


def _sync_playwright(sender: Sender, original: Callable[..., Any]) -> Callable[..., Any]:
    def handle(route: Any, request: Any) -> None:
        headers = request.all_headers()
        if "text/event-stream" in headers.get("accept", "") or sender.differs(headers):
            route.continue_()
            return
        response = route.fetch(headers=headers | sender.own_headers(), max_redirects=0)
        sender.count(urlsplit(request.url).hostname, response.headers)
        route.fulfill(response=response)

    def create(self: Any, *args: Any, **more: Any) -> Any:
        made = original(self, *args, **more)
        getattr(made, "context", made).route(sender.applies_to, handle)
        return made

    return create


def _async_playwright(
    sender: Sender, original: Callable[..., Awaitable[Any]]
) -> Callable[..., Awaitable[Any]]:
    async def handle(route: Any, request: Any) -> None:
        headers = await request.all_headers()
        if "text/event-stream" in headers.get("accept", "") or sender.differs(headers):
            await route.continue_()
            return
        response = await route.fetch(headers=headers | sender.own_headers(), max_redirects=0)
        sender.count(urlsplit(request.url).hostname, response.headers)
        await route.fulfill(response=response)

    async def create(self: Any, *args: Any, **more: Any) -> Any:
        made = await original(self, *args, **more)
        await getattr(made, "context", made).route(sender.applies_to, handle)
        return made

    return create


PATCHES: Final[tuple[Callable[[Sender], None], ...]] = (_selenium, _playwright)
