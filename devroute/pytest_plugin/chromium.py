"""Requests of a Chromium that Selenium drives, by the browser's own DevTools protocol.

A connection of its own, beside the driver's: while the driver loads a page it takes no other command, so a
request that was intercepted by way of the driver would wait for the page, and the page for the request.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from threading import Event, Thread
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, build_opener

from devroute.headers import CONTRACT
from devroute.pytest_plugin.sender import Host, Sender

#: Seconds for the connection and the first page.
START_SECONDS: Final = 10.0
_ATTACH: Final = {"autoAttach": True, "waitForDebuggerOnStart": True, "flatten": True}


class Interception:
    """Of all pages, frames and workers, those that open later included, until the browser ends."""

    def __init__(self, sender: Sender, address: str) -> None:
        """`address`: HOST:PORT of the browser's DevTools. Raises OSError."""
        self._sender = sender
        self._patterns = _patterns(sender.hosts)
        self._next = 0
        self._enabled: set[int] = set()
        self._ready = Event()
        with build_opener(ProxyHandler({})).open(
            f"http://{address}/json/version", timeout=START_SECONDS
        ) as found:
            url = json.load(found)["webSocketDebuggerUrl"]
        connect = import_module("websocket").create_connection
        self._connection: Any = connect(url, timeout=START_SECONDS, suppress_origin=True)
        self._connection.settimeout(None)
        self._send("Target.setAutoAttach", _ATTACH)
        Thread(target=self._read, daemon=True).start()

    def wait(self) -> bool:
        """Whether the first page's requests are intercepted, within START_SECONDS."""
        return self._ready.wait(START_SECONDS)

    def _read(self) -> None:
        with suppress(Exception):  # the browser has ended
            while text := self._connection.recv():
                message = json.loads(text)
                if message.get("id") in self._enabled:
                    self._ready.set()
                match message.get("method"):
                    case "Target.attachedToTarget":
                        self._attached(message["params"]["sessionId"])
                    case "Fetch.requestPaused":
                        self._paused(message["sessionId"], message["params"])

    def _attached(self, session: str) -> None:
        self._enabled.add(self._send("Fetch.enable", {"patterns": self._patterns}, session))
        self._send("Target.setAutoAttach", _ATTACH, session)
        self._send("Runtime.runIfWaitingForDebugger", {}, session)

    def _paused(self, session: str, event: dict[str, Any]) -> None:
        """A request, or its response, waits."""
        request, answer = event["request"], {"requestId": event["requestId"]}
        own = {name.lower(): value for name, value in request["headers"].items()}
        applies = self._sender.applies_to(request["url"]) and not self._sender.differs(own)
        if "responseStatusCode" in event:
            if applies:
                fields = {each["name"].lower(): each["value"] for each in event.get("responseHeaders", [])}
                self._sender.count(urlsplit(request["url"]).hostname, fields)
        elif applies:
            headers = {name: value for name, value in request["headers"].items() if name.lower() != CONTRACT}
            headers |= self._sender.own_headers()
            answer["headers"] = [{"name": name, "value": value} for name, value in headers.items()]
        self._send("Fetch.continueRequest", answer, session)

    def _send(self, method: str, parameters: dict[str, Any], session: str | None = None) -> int:
        self._next += 1
        own = {} if session is None else {"sessionId": session}
        self._connection.send(json.dumps({"id": self._next, "method": method, "params": parameters, **own}))
        return self._next


def _patterns(hosts: Sequence[Host]) -> list[dict[str, str]]:
    """All that may be of these hosts, as request and as response: * stands for any text."""
    urls = [f"*://{host}{rest}" for host in hosts for rest in ("/*", ":*/*")]
    return [{"urlPattern": url, "requestStage": stage} for url in urls for stage in ("Request", "Response")]
