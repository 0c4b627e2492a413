"""What the inspector shows and acts on: given to its server by the agent, and to each part of its API."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from devroute.errors import NotFound
from devroute.inspector.capture import Capture
from devroute.inspector.protobuf.decoder import Decoder, decoder
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.store import CaptureStore


@dataclass(slots=True)
class About:
    """This laptop: the URLs of its apps by service, and its name, "" until the proxy has assigned it.
    `reached`: the URLs of the local ports that lead to services of the mesh, by name and port such as
    "c.shop:80"; `reach_proxy`: that of the port which leads to any, by HTTP CONNECT, "" for none. `entries`:
    the URLs by which services are called from outside, by name, as far as the proxy knows them; `command` and
    `link` send a request to this laptop, by a shell and by a browser."""

    services: dict[str, str]
    name: str = ""
    reached: dict[str, str] = field(default_factory=dict)
    reach_proxy: str = ""
    entries: dict[str, str] = field(default_factory=dict)
    command: str = ""
    link: str | None = None

    def local_url(self, capture: Capture) -> tuple[str, str]:
        """Where a program on this laptop sends such a request: to the app, to the port that leads to the
        service of the mesh, or by its name through the proxy, whose URL is the second."""
        outgoing, service = capture.direction == "out", capture.service
        known = (self.reached if outgoing else self.services).get(service)
        return known or f"http://{service}", self.reach_proxy if outgoing and known is None else ""

    def entry_of(self, service: str) -> str:
        """Where to send a request for a service through the mesh: its own entry, else the first one, else the
        name by which it is called inside."""
        return self.entries.get(service) or next(iter(self.entries.values()), f"http://{service}")


#: Sends a captured request again, with the edits in a JSON object; returns its capture. Raises DevrouteError.
Replay = Callable[[Capture, dict[str, Any]], Awaitable[Capture]]


@dataclass(slots=True)
class Inspection:
    """The captures, how to replay them, the laptop they are of, what decodes their gRPC messages, and the
    laptop's rules. `metrics(accept)`: the body of /metrics and its Content-Type, None where it is not
    served."""

    store: CaptureStore
    replay: Replay
    about: About
    decoder: Decoder = field(default_factory=decoder)
    rules: RuleList = field(default_factory=RuleList)
    metrics: Callable[[str], Awaitable[tuple[bytes, str]]] | None = None

    async def shown(self, number: str) -> Capture:
        """The capture with this id, redacted as far as it is recorded. Raises NotFound."""
        found = self.capture(number)
        await self.redact(found)
        return found

    async def redact(self, capture: Capture) -> None:
        """Has to be called before anything of a capture is put out: its messages may not be redacted yet."""
        self.store.resize(capture, await self.decoder.clean(capture))

    def capture(self, number: str) -> Capture:
        """The capture with this id. Raises NotFound."""
        known = number_of(number)
        found = None if known is None else self.store.get(known)
        if found is None:
            raise NotFound(
                f"there is no capture {number[:12]}", hint="it may have been dropped for newer ones"
            )
        return found


def number_of(text: str) -> int | None:
    """A number of at most 11 digits in a URL, None for any other text."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 12 else None
