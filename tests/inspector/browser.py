"""A real browser for tests of the page: one session, driven from threads, so that the event loop keeps
running. Chromium, or Firefox with `pytest --firefox` (make test-firefox).
"""

import asyncio
import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.common.exceptions import ElementClickInterceptedException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.common.options import PageLoadStrategy
from selenium.webdriver.firefox.service import Service as FirefoxService

from tests.support.eventually import eventually

CHROMIUM = shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
FIREFOX = shutil.which("firefox-esr") or shutil.which("firefox")
GECKODRIVER = shutil.which("geckodriver")

#: Screenshots to look at after the tests; not in the repository.
ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "inspector"

FLAGS = (
    *(
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--hide-scrollbars",
)

#: The names of special keys.
KEYS = {"Enter": Keys.ENTER, "Esc": Keys.ESCAPE, "Down": Keys.ARROW_DOWN}

#: JavaScript that returns the first visible element that matches a selector and holds a text.
SEEN = """[...document.querySelectorAll(arguments[0])].find(
    (each) => each.checkVisibility() && each.textContent.includes(arguments[1]))"""

needed = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None,
    reason="needs chromium and chromedriver (apt: chromium chromium-driver)",
)


#: What the page has loaded: when it was asked for, and when it had arrived, in ms since the page was opened.
_LOADED = """
const line = (each) => `${each.name} ${Math.round(each.startTime)} ${Math.round(each.responseEnd)}`;
return performance.getEntriesByType('resource').map(line).join('\\n');
"""


class Browser:
    """Chromium."""

    def __init__(self, driver: Any) -> None:
        self._driver = driver

    async def _run(self, call: Any, *values: Any) -> Any:
        return await asyncio.to_thread(call, *values)

    async def open(self, url: str) -> None:
        await self.js("window.left = true")  # `get` does not wait for the new page
        await self._run(self._driver.get, url)
        await self.until("!window.left && document.readyState === 'complete'")

    async def leave(self) -> None:
        """Leave the page, so that its server can end without failing the page's requests."""
        await self.open("about:blank")

    async def js(self, script: str, *values: Any) -> Any:
        """The result of a JavaScript function with this body."""
        return await self._run(self._driver.execute_script, script, *values)

    async def until(self, expression: str, *values: Any) -> Any:
        """Wait for a JavaScript expression to be true. It may throw while an element is missing."""
        script = f"try {{ return {expression} }} catch (_) {{ return null }}"
        try:  # for the first page on a machine that starts Envoys at the same time
            return await eventually(lambda: self.js(script, *values), expression, within=60)
        except AssertionError as error:
            shown = await self.js("return document.body.innerText.slice(0, 3000)")
            loaded = await self.js(_LOADED)
            raise AssertionError(f"{error} {values}\n{shown}\n{loaded}\n{await self.complaints()}") from None

    async def shows(self, css: str, text: str) -> None:
        """Wait until an element's text holds `text`."""
        await self.until(
            "document.querySelector(arguments[0])?.textContent.includes(arguments[1])", css, text
        )

    async def text(self, css: str) -> str:
        return str(await self.js("return document.querySelector(arguments[0]).textContent", css))

    async def click(self, css: str, text: str = "") -> None:
        """Click the first visible element that matches and holds `text`."""
        while True:
            found = await self.until(SEEN, css, text)
            try:
                return await self._run(found.click)
            except (StaleElementReferenceException, ElementClickInterceptedException):
                continue  # the page was redrawn, or an element covered the target

    async def press(self, *keys: str) -> None:
        """Press keys in the focused element."""
        for key in keys:
            await self._run(ActionChains(self._driver).send_keys(KEYS.get(key, key)).perform)

    async def choose_file(self, css: str, file: Path) -> None:
        field = await self.js("return document.querySelector(arguments[0])", css)
        await self._run(field.send_keys, str(file))

    async def size(self, width: int, height: int) -> None:
        await self._cdp(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    async def scheme(self, scheme: str) -> None:
        """Set the colour scheme: light or dark."""
        await self._cdp(
            "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        )

    async def allow_clipboard(self, origin: str) -> None:
        await self._cdp(
            "Browser.grantPermissions",
            {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
        )

    async def picture(self, name: str) -> None:
        """Save a screenshot under artefacts/."""
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        await self.save(ARTEFACTS / f"{name}.png")

    async def save(self, file: Path) -> None:
        """Save a screenshot as PNG."""
        taken = await self._cdp("Page.captureScreenshot", {"format": "png"})
        await asyncio.to_thread(file.write_bytes, base64.b64decode(taken["data"]))

    async def complaints(self) -> list[str]:
        """Console errors since the last call, violations of the content security policy included."""
        lines = await self._run(self._driver.get_log, "browser")
        return [line["message"] for line in lines if line["level"] in ("SEVERE", "WARNING")]

    async def _cdp(self, command: str, values: dict[str, Any]) -> Any:
        return await self._run(self._driver.execute_cdp_cmd, command, values)


@asynccontextmanager
async def chromium(profile: Path, *flags: str) -> AsyncIterator[Browser]:
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, *flags, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM or ""
    options.page_load_strategy = PageLoadStrategy.none  # the page's event stream never ends
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    # With the driver's path, Selenium downloads nothing.
    driver = await asyncio.to_thread(webdriver.Chrome, options, Service(DRIVER))
    try:
        yield Browser(driver)
    finally:
        await asyncio.to_thread(driver.quit)


class Firefox(Browser):
    """Firefox, which has no DevTools protocol. `complaints` are not known."""

    async def size(self, width: int, height: int) -> None:
        viewport = {"width": width, "height": height}  # a window has at least 450 pixels
        await self._run(
            lambda: self._driver.browsing_context.set_viewport(
                context=self._driver.current_window_handle, viewport=viewport
            )
        )

    async def scheme(self, scheme: str) -> None:
        def prefer() -> None:
            with self._driver.context("chrome"):
                name, value = "layout.css.prefers-color-scheme.content-override", 0 if scheme == "dark" else 1
                self._driver.execute_script("Services.prefs.setIntPref(...arguments)", name, value)

        await self._run(prefer)

    async def allow_clipboard(self, origin: str) -> None:
        pass  # a preference of the profile

    async def picture(self, name: str) -> None:
        ARTEFACTS.mkdir(parents=True, exist_ok=True)
        await self._run(self._driver.save_screenshot, str(ARTEFACTS / f"{name}-firefox.png"))

    async def complaints(self) -> list[str]:
        return []


@asynccontextmanager
async def firefox() -> AsyncIterator[Browser]:
    """Raises pytest's skip where a program is missing."""
    if FIREFOX is None or GECKODRIVER is None:
        pytest.skip("needs firefox and geckodriver (apt: firefox-esr; cargo install geckodriver)")
    options = webdriver.FirefoxOptions()
    options.binary_location = FIREFOX
    options.page_load_strategy = PageLoadStrategy.none
    options.enable_bidi = True  # for `size`
    options.add_argument("-headless")
    options.set_preference("dom.events.testing.asyncClipboard", True)
    service = FirefoxService(GECKODRIVER, service_args=["--allow-system-access"])  # for `scheme`
    driver = await asyncio.to_thread(webdriver.Firefox, options, service)
    try:
        yield Firefox(driver)
    finally:
        await asyncio.to_thread(driver.quit)
