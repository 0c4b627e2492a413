"""Each client for real, towards a host that was named and one that was not, also by a redirect."""

import asyncio
import io
import json
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
import requests
import urllib3
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from devroute.pytest_plugin.chromium import Interception
from devroute.pytest_plugin.sender import MAX_TRACES, Host, Sender, create
from tests.inspector import browser
from tests.support.eventually import PATIENCE_S

CONTRACT = '{"b": "alice"}'


class Site:
    """Responds at two names of this machine, of which `named` is to get the contract."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str | None]] = []
        self.traces: list[str | None] = []
        self.repeated: list[list[str] | None] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                host = self.headers["host"].partition(":")[0]
                site.seen.append((host, self.path, self.headers["x-devroute"]))
                site.traces.append(self.headers["x-devroute-trace"])
                site.repeated.append(self.headers.get_all("x-repeated"))
                away = self.path == "/away"
                self.send_response(302 if away else 200)
                if away:
                    self.send_header("location", f"{site.other}/arrived")
                self.send_header("x-devroute-result", "laptop")
                self.send_header("x-devroute-reason", "laptop: alice")
                body = b"<html><link rel=icon href=data:,>"
                self.send_header("content-type", "text/html")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.named, self.other = f"http://localhost:{self.port}", f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> "Site":
        Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


@pytest.fixture
def sender(site: Site) -> Iterator[Sender]:
    made = create(CONTRACT, [site.named])
    yield made
    made.close()


def by_requests(urls: list[str]) -> None:
    with requests.Session() as session:
        for url in urls:
            session.get(url, timeout=PATIENCE_S)


def by_urllib3(urls: list[str]) -> None:
    with urllib3.PoolManager() as pool:
        for url in urls:
            pool.request("GET", url)


def by_httpx(urls: list[str]) -> None:
    with httpx.Client(follow_redirects=True) as client:
        for url in urls:
            client.get(url)


def by_httpx2(urls: list[str]) -> None:
    with httpx2.Client(follow_redirects=True) as client:
        for url in urls:
            client.get(url)


def concurrently(get_all: Callable[[list[str]], Awaitable[None]]) -> Callable[[list[str]], None]:
    def run(urls: list[str]) -> None:
        asyncio.run(get_all(urls))  # type: ignore[arg-type]

    return run


async def by_async_httpx(urls: list[str]) -> None:
    async with httpx.AsyncClient(follow_redirects=True) as client:
        for url in urls:
            await client.get(url)


async def by_aiohttp(urls: list[str]) -> None:
    async with aiohttp.ClientSession() as client:
        for url in urls:
            async with client.get(url) as response:
                await response.read()


def by_selenium(urls: list[str]) -> None:
    options = webdriver.ChromeOptions()
    for flag in browser.FLAGS:
        options.add_argument(flag)
    options.binary_location = browser.CHROMIUM or ""
    driver = webdriver.Chrome(options, Service(browser.DRIVER))
    try:
        for url in urls:
            driver.get(url)
    finally:
        driver.quit()


def by_playwright(urls: list[str]) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser.CHROMIUM, args=list(browser.FLAGS))
        page = chromium.new_page()
        for url in urls:
            page.goto(url)
        chromium.close()


async def by_async_playwright(urls: list[str]) -> None:
    from playwright.async_api import async_playwright

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(
            executable_path=browser.CHROMIUM, args=list(browser.FLAGS)
        )
        page = await (await chromium.new_context()).new_page()
        for url in urls:
            await page.goto(url)
        await chromium.close()


CLIENTS: list[Any] = [
    by_requests,
    by_urllib3,
    by_httpx,
    by_httpx2,
    pytest.param(concurrently(by_async_httpx), id="by_async_httpx"),
    pytest.param(concurrently(by_aiohttp), id="by_aiohttp"),
    pytest.param(by_selenium, marks=[browser.needed, pytest.mark.browser]),
    pytest.param(by_playwright, marks=[browser.needed, pytest.mark.browser, pytest.mark.slow]),
    pytest.param(
        concurrently(by_async_playwright),
        id="by_async_playwright",
        marks=[browser.needed, pytest.mark.browser, pytest.mark.slow],
    ),
]


@pytest.mark.parametrize("get_all", CLIENTS)
def test_the_contract_goes_to_the_host_that_was_named_and_follows_no_redirect_to_another(
    get_all: Callable[[list[str]], None], site: Site, sender: Sender
) -> None:
    get_all([f"{site.named}/one", f"{site.other}/two", f"{site.named}/away", f"{site.named}/three"])
    assert site.seen == [
        ("localhost", "/one", CONTRACT),
        ("127.0.0.1", "/two", None),
        ("localhost", "/away", CONTRACT),
        ("127.0.0.1", "/arrived", None),
        ("localhost", "/three", CONTRACT),
    ]
    assert sender.report()[1:] == ["     3  localhost  laptop: laptop: alice"]
    sender.close()


@pytest.mark.parametrize("get_all", CLIENTS[:6])
def test_the_first_request_of_each_of_a_few_tests_is_traced_and_its_id_follows_no_redirect_away(
    get_all: Callable[[list[str]], None], site: Site, sender: Sender
) -> None:
    for _ in range(2):
        sender.next_test()
        get_all([f"{site.other}/not-this", f"{site.named}/away", f"{site.named}/three"])
    first, second = sender.traces
    assert site.traces == [None, first, None, None, None, second, None, None]
    sender.traces *= MAX_TRACES
    sender.next_test()
    assert sender.own_headers() == {"x-devroute": CONTRACT}


@pytest.mark.parametrize("get_all", CLIENTS[:6])
def test_without_it_the_clients_are_as_they_were(
    get_all: Callable[[list[str]], None], site: Site, sender: Sender
) -> None:
    sender.close()
    get_all([f"{site.named}/one"])
    assert site.seen == [("localhost", "/one", None)]


def test_a_browser_that_cannot_be_watched_is_refused_rather_than_driven_without_the_contract(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = []

    class Driver:
        def __init__(self, address: str | None) -> None:
            self.caps = {"goog:chromeOptions": {"debuggerAddress": address}} if address else {}

        def quit(self) -> None:
            ended.append(self)

    monkeypatch.setattr("selenium.webdriver.remote.webdriver.WebDriver", Driver)
    sender = create(CONTRACT, ["a.qa.example"])
    for address, problem in [(None, "Chromium alone"), ("127.0.0.1:1", "127.0.0.1:1 cannot be reached")]:
        with pytest.raises(pytest.fail.Exception, match=problem):
            Driver(address)
    assert len(ended) == 2
    sender.close()
    Driver(None)


def test_a_tests_own_contract_stays(site: Site, sender: Sender) -> None:
    own = json.dumps({"c": "bob"})
    requests.get(site.named, headers={"X-Devroute": own}, timeout=PATIENCE_S)
    httpx.get(site.named, headers={"X-Devroute": own})
    with urllib3.PoolManager() as pool:
        pool.request("GET", site.named, headers={"X-Devroute": own})
    assert [contract for _, _, contract in site.seen] == [own, own, own]
    assert sender.report()[1:] == ["no request was sent to these hosts"]


def test_headers_that_are_sent_more_than_once_stay_so(site: Site, sender: Sender) -> None:
    twice = [("X-Repeated", "1"), ("X-Repeated", "2")]
    with urllib3.PoolManager(headers=urllib3.HTTPHeaderDict(twice)) as pool, httpx.Client() as client:
        for url in (site.named, site.other):
            pool.request("GET", url)
            pool.request("GET", url, headers=urllib3.HTTPHeaderDict(twice))
            client.get(url, headers=twice)
    assert site.repeated == [["1", "2"]] * 6
    assert [contract for _, _, contract in site.seen] == [CONTRACT] * 3 + [None] * 3


OWN = {"X-devroute": '{"c": "bob"}'}


def as_coroutine(function: Callable[..., Any]) -> Callable[..., Any]:
    async def call(*args: Any, **more: Any) -> Any:
        return function(*args, **more)

    return call


@pytest.mark.parametrize("module", ["sync_api", "async_api"])
def test_a_tests_own_contract_stays_in_playwright(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With stand-ins for its browser, context, route and request."""
    of_api = as_coroutine if module == "async_api" else (lambda function: function)
    finish = asyncio.run if module == "async_api" else (lambda result: result)
    handlers: list[Callable[..., Any]] = []
    sent: list[object] = []
    context = SimpleNamespace(route=of_api(lambda matches, handle: handlers.append(handle)))
    create_context = of_api(lambda self: context)
    for each in ("sync_api", "async_api"):
        functions = {"new_context": create_context, "new_page": create_context}
        monkeypatch.setattr(f"playwright.{each}.Browser", type("Browser", (), functions))

    def fetch(headers: dict[str, str], max_redirects: int) -> SimpleNamespace:
        sent.append(headers)
        return SimpleNamespace(headers={})

    sender = create(CONTRACT, ["a.qa.example"])
    finish(import_module(f"playwright.{module}").Browser().new_context())
    route = SimpleNamespace(
        fetch=of_api(fetch),
        fulfill=of_api(lambda response: None),
        continue_=of_api(lambda: sent.append("as it was")),
    )
    for headers in ({"a": "b"}, {name.lower(): value for name, value in OWN.items()}):
        all_headers = of_api(headers.copy)
        request = SimpleNamespace(url="http://a.qa.example/", headers=headers, all_headers=all_headers)
        finish(handlers[0](route, request))
    assert sent == [{"a": "b", "x-devroute": CONTRACT}, "as it was"]
    assert [count for *_, count in sender.counts()[0]] == [1]
    sender.close()


def test_a_tests_own_contract_stays_in_chromium(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for its DevTools, which have a request and its response wait, twice."""
    sender = Sender(CONTRACT, [Host("a.qa.example")])
    ended = Event()
    events: list[dict[str, Any]] = []
    sent: list[dict[str, Any]] = []
    for headers in ({"A": "b"}, OWN):
        paused = {"requestId": "1", "request": {"url": "http://a.qa.example/", "headers": headers}}
        events += [paused, {**paused, "responseStatusCode": 200}]

    def receive() -> str:
        if not events:
            ended.set()
            return ""
        return json.dumps({"method": "Fetch.requestPaused", "sessionId": "1", "params": events.pop(0)})

    connection = SimpleNamespace(
        settimeout=lambda seconds: None, recv=receive, send=lambda text: sent.append(json.loads(text))
    )
    monkeypatch.setattr("websocket.create_connection", lambda *args, **more: connection)
    version = SimpleNamespace(open=lambda *args, **more: io.BytesIO(b'{"webSocketDebuggerUrl": "ws://a"}'))
    monkeypatch.setattr("devroute.pytest_plugin.chromium.build_opener", lambda *handlers: version)
    Interception(sender, "a:1")
    assert ended.wait(PATIENCE_S)
    changed = [{"name": "A", "value": "b"}, {"name": "x-devroute", "value": CONTRACT}]
    assert [each["params"].get("headers") for each in sent[1:]] == [changed, None, None, None]
    assert [count for *_, count in sender.counts()[0]] == [1]
