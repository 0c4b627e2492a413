"""The HTTP clients of Python. Each is patched where a request leaves it, behind redirects: every hop is
decided apart, so that the contract follows no redirect to another host.
"""

from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final

from devroute.headers import CONTRACT, TRACE
from devroute.pytest_plugin.sender import Sender

#: On a response of urllib3 that was counted: urlopen calls itself to try again.
_COUNTED: Final = "_devroute_counted"
#: What may be put on a request.
_OURS: Final = (CONTRACT, TRACE)


def _urllib3(sender: Sender) -> None:
    """requests sends by it, too."""
    if find_spec("urllib3") is None:
        return
    pool = import_module("urllib3.connectionpool").HTTPConnectionPool
    parse_url = import_module("urllib3.util").parse_url
    original: Callable[..., Any] = pool.urlopen

    def urlopen(
        self: Any, method: str, url: str, body: Any = None, headers: Any = None, *args: Any, **more: Any
    ) -> Any:
        asked = parse_url(url)  # absolute through a forward proxy
        host, port = (asked.host, asked.port or 80) if asked.host else (self.host, self.port)
        given = self.headers if headers is None else headers
        ours = {name.lower(): _text(value) for name, value in given.items() if name.lower() in _OURS}
        before = ours.copy()
        sent = sender.put_on(ours, host, port)
        if ours != before:
            # of its own type: it may have a name more than once
            headers = given.copy() if hasattr(given, "copy") else dict(given)
            for name in [name for name in headers if name.lower() in _OURS]:
                headers.pop(name, None)
            headers.update(ours)
        response = original(self, method, url, body, headers, *args, **more)
        if sent and not getattr(response, _COUNTED, False):
            setattr(response, _COUNTED, True)
            sender.count(host, response.headers)
        return response

    sender.patch(pool, "urlopen", urlopen)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _httpx(sender: Sender) -> None:
    for name in ("httpx", "httpx2"):
        if find_spec(name) is None:
            continue
        module = import_module(name)
        sync, concurrent = module.HTTPTransport, module.AsyncHTTPTransport
        sender.patch(sync, "handle_request", _sync_httpx(sender, sync.handle_request))
        wrapped = _async_httpx(sender, concurrent.handle_async_request)
        sender.patch(concurrent, "handle_async_request", wrapped)


def _sync_httpx(sender: Sender, original: Callable[..., Any]) -> Callable[..., Any]:
    def handle_request(self: Any, request: Any) -> Any:
        sent = sender.put_on(request.headers, *_place(request.url))
        response = original(self, request)
        if sent:
            sender.count(request.url.host, response.headers)
        return response

    return handle_request


def _async_httpx(sender: Sender, original: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def handle_async_request(self: Any, request: Any) -> Any:
        sent = sender.put_on(request.headers, *_place(request.url))
        response = await original(self, request)
        if sent:
            sender.count(request.url.host, response.headers)
        return response

    return handle_async_request


def _place(url: Any) -> tuple[str, int]:
    return url.host, url.port or (443 if url.scheme == "https" else 80)


def _aiohttp(sender: Sender) -> None:
    if find_spec("aiohttp") is None:
        return
    module = import_module("aiohttp.client_reqrep")
    send: Callable[..., Awaitable[Any]] = module.ClientRequest.send
    start: Callable[..., Awaitable[Any]] = module.ClientResponse.start

    async def sent(self: Any, connection: Any) -> Any:
        sender.put_on(self.headers, self.url.host, self.url.port)
        return await send(self, connection)

    async def started(self: Any, connection: Any) -> Any:
        response = await start(self, connection)
        headers = self.request_info.headers
        if headers.get(CONTRACT) == sender.contract and sender.applies(self.url.host, self.url.port):
            sender.count(self.url.host, response.headers)
        return response

    sender.patch(module.ClientRequest, "send", sent)
    sender.patch(module.ClientResponse, "start", started)


PATCHES: Final[tuple[Callable[[Sender], None], ...]] = (_urllib3, _httpx, _aiohttp)
