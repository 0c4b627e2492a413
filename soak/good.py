"""Well-behaved requests through the sidecar, each with a nonce and an app that should respond; checks every
response."""

import asyncio
import itertools
import json
import random
import secrets
import time
from dataclasses import dataclass

import aiohttp

from devroute.mesh.istio.sidecar import Endpoint

from .apps import POISON, body_of
from .ledger import HUNG, Ledger

SERVICE = "the service"
DIRECT = "direct"
#: An app that sends unrequested responses. Its own clients may receive them: in HTTP/1.1, whatever it sends
#: right after the next request is the response to that request. No other client may.
POISONER = "poisoner"

#: A request that takes longer counts as hung.
PATIENCE_S = 30.0

#: Error codes that only the clients of an app that breaks HTTP may receive.
BROKEN_APP = ("upstream-invalid", "upstream-reset")

_numbers = itertools.count()


@dataclass(frozen=True)
class Way:
    """`laptops`: names of those that may be killed. `addresses`: where the other targets are, by name."""

    entry: Endpoint
    laptops: tuple[str, ...]
    addresses: dict[str, str]


async def ask_for_ever(ledger: Ledger, session: aiohttp.ClientSession, way: Way) -> None:
    kinds = [get, get, get, large, post, post, slow, leave, chat]
    while True:
        who = random.choice((*way.laptops, *way.laptops, SERVICE, DIRECT, POISONER))
        kind = get if who == POISONER else random.choice(kinds)
        await kind(Request(ledger, session, way, who))
        await asyncio.sleep(random.uniform(0, 0.05))


class Request:
    """One request, and the check of its response."""

    def __init__(self, ledger: Ledger, session: aiohttp.ClientSession, way: Way, who: str) -> None:
        self.ledger = ledger
        self.session = session
        self.who = who
        self.nonce = f"{next(_numbers)}-{secrets.token_hex(6)}"
        self.since = time.monotonic()
        self.url = f"http://{way.entry.host}:{way.entry.port}/{self.nonce}"
        target = way.addresses.get(who, who)
        self.headers = {"host": "foo"} | (
            {} if who == SERVICE else {"x-devroute": json.dumps({"foo": target})}
        )

    def failed(self, what: str, detail: str) -> None:
        self.ledger.failed(what, f"{self.who} {self.nonce} {detail}", self.who, self.since)

    async def judge(self, response: aiohttp.ClientResponse, size: int) -> None:
        body = await response.read()
        said = response.headers
        nonce, who = said.get("x-nonce"), said.get("x-who")
        if self.who == who == POISONER and nonce != self.nonce:
            self.ledger.fine("answered by poisoner with a response of its own making")
        elif POISON.encode() in body or nonce not in (None, self.nonce):
            self.ledger.deliver_to_wrong(f"{self.who} {self.nonce} got {nonce} {who} {body[:80]!r}")
        elif nonce is None:
            self._refused(response, body)
        elif said.get("x-body") == "wrong":
            self.ledger.deliver_to_wrong(f"{who} got another body for {self.nonce}")
        elif body != body_of(self.nonce, who or "", size):
            self.ledger.deliver_to_wrong(f"{self.who} {self.nonce}: {len(body)} bytes of {size} look whole")
        elif who == self.who:
            kind = who if who in (SERVICE, DIRECT, POISONER) else "a laptop"
            self.ledger.fine(f"answered by {kind}, as asked")
        elif who == SERVICE and said.get("x-devroute-result") == "fallback":
            self.failed("fell back to the service", said.get("x-devroute-reason", ""))
        else:
            self.ledger.deliver_to_wrong(f"{self.who} {self.nonce} was answered by {who}")

    def _refused(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        status = response.status
        try:
            code = json.loads(body)["code"]
        except (ValueError, KeyError, TypeError):
            said = {name: value for name, value in response.headers.items() if name.startswith("x-")}
            self.failed(f"{status} without a code", f"{response.method} {body[:200]!r} {said}")
            return
        if self.who == POISONER and code in BROKEN_APP:
            self.ledger.fine(f"{status} {code}: the app broke HTTP")
        else:
            self.failed(f"{status} {code}", body.decode("utf-8", "replace")[:300])


async def _send(request: Request, method: str, size: int, body: bytes | None = None, query: str = "") -> None:
    size = 64 if request.who == POISONER else size
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            request.session.request(
                method, f"{request.url}?size={size}{query}", headers=request.headers, data=body
            ) as response,
        ):
            await request.judge(response, size)
    except TimeoutError:
        request.failed(HUNG, f"{method} of {size} bytes after {PATIENCE_S:g} s")
    except (aiohttp.ClientError, ConnectionError) as error:
        request.failed("cut off", f"{method} {type(error).__name__}: {error}")


async def get(request: Request) -> None:
    await _send(request, "GET", random.randrange(2000))


async def large(request: Request) -> None:
    await _send(request, "GET", random.randrange(2_000_000))


async def slow(request: Request) -> None:
    await _send(request, "GET", random.randrange(200_000), query="&slow=1")


async def post(request: Request) -> None:
    body = body_of(request.nonce, "client", random.choice((1, 100, 70_000, 400_000)))
    await _send(request, random.choice(("POST", "PUT")), 100, body)


async def leave(request: Request) -> None:
    """A client that disconnects before the end of its response."""
    try:
        async with asyncio.timeout(random.uniform(0, 0.05)):
            await _send(request, "GET", 300_000, query="&slow=1")
    except TimeoutError:
        request.ledger.fine("left by the client")


async def chat(request: Request) -> None:
    """A WebSocket whose app returns each message with its own name."""
    try:
        async with (
            asyncio.timeout(PATIENCE_S),
            request.session.ws_connect(request.url, headers=request.headers) as socket,
        ):
            said = socket._response.headers.get("x-devroute-reason", "")  # noqa: SLF001
            for _ in range(random.randrange(1, 8)):
                word = secrets.token_hex(8)
                await socket.send_str(word)
                message = await socket.receive()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    request.failed("WebSocket cut off", str(message.type))
                    return
                who = message.data.removesuffix(f" {request.nonce} {word}")
                if who == SERVICE != request.who:
                    request.failed("WebSocket fell back to the service", str(said))
                    return
                if who != request.who:
                    request.ledger.deliver_to_wrong(
                        f"{request.who} {request.nonce} received {message.data!r}"
                    )
                    return
            request.ledger.fine("WebSockets, each message answered by the right app")
    except TimeoutError:
        request.failed(f"WebSocket {HUNG}", "")
    except aiohttp.WSServerHandshakeError as error:
        request.failed(f"WebSocket refused with {error.status}", str(error))
    except (aiohttp.ClientError, ConnectionError) as error:
        request.failed("WebSocket cut off", f"{type(error).__name__}: {error}")
