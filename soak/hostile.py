"""Hostile and broken clients: at the data port, at the control port, and through the sidecar. Each checks the
response to itself; the well-behaved clients of soak/good.py notice its effect on others."""

import asyncio
import contextlib
import json
import os
import random
import secrets
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import hpack

from devroute.http.http2.flood_guard import CONTROL_BURST, RESET_BURST
from devroute.http.http2.protocol import PREFACE
from devroute.mesh.istio.sidecar import Endpoint
from tests.conformance.requests import CASES

from .apps import POISON
from .ledger import Ledger

PATIENCE_S = 30.0

#: Seconds between two attacks of one kind.
REST_S = (0.05, 0.5)
SLOWLORIS_REST_S = 5.0

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]

#: Cases of "markers" are about contracts and depend on which laptops are online.
REFUSED = [
    case
    for case in CASES
    if case.answers and case.answers[0][1] and not case.reached and not case.name.startswith("markers")
]


async def for_ever(attack: Callable[[], Awaitable[None]], rest: tuple[float, float] = REST_S) -> None:
    while True:
        await attack()
        await asyncio.sleep(random.uniform(*rest))


@asynccontextmanager
async def dialled(to: Endpoint) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection(*to)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def everything(reader: asyncio.StreamReader) -> bytes | None:
    """All bytes up to the end of the connection; None if it does not end."""
    got = b""
    try:
        async with asyncio.timeout(PATIENCE_S):
            while data := await reader.read(65536):
                got += data
    except ConnectionError:
        pass
    except TimeoutError:
        return None
    return got


async def first(reader: asyncio.StreamReader) -> bytes:
    """The first response, as far as it arrives."""
    head = b""
    with contextlib.suppress(ConnectionError, TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(PATIENCE_S):
            head = await reader.readuntil(b"\r\n\r\n")
            head += await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
    return head


def _code(answer: bytes | None) -> tuple[int, str]:
    """Status and code of the first response; 0 if there is none."""
    head, _, body = (answer or b"").partition(b"\r\n\r\n")
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        start = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        return int(head[9:12]), str(json.loads(body[: int(start)])["code"])
    return 0, ""


class Attacks:
    def __init__(self, ledger: Ledger, entry: Endpoint, data: Endpoint, control: Endpoint) -> None:
        self.ledger = ledger
        self.entry = entry
        self.data = data
        self.control = control

    def all(self, session: aiohttp.ClientSession) -> list[Awaitable[None]]:
        return [
            for_ever(self.malformed),
            for_ever(self.noise),
            for_ever(self.half_an_upload),
            for_ever(self.guess_a_token),
            for_ever(self.rapid_reset, (1.0, 4.0)),
            for_ever(self.idle_frames, (1.0, 4.0)),
            for_ever(self.slow_heads, (SLOWLORIS_REST_S, SLOWLORIS_REST_S)),
            for_ever(lambda: self.wrong_contract(session)),
        ]

    # --- the data port

    async def malformed(self) -> None:
        """A case of the conformance table whose request may reach no app."""
        case = random.choice(REFUSED)
        async with dialled(self.data) as (reader, writer):
            writer.write(case.raw)
            if case.ends:
                writer.write_eof()
            answer = await first(reader)
        self.ledger.expect(
            _code(answer)
            in (case.answers[0], (503, "laptop-offline")),  # alice is offline, found before the body is read
            "malformed requests refused as the conformance table says",
            lambda: f"{case.name}: {answer!r}"[:500],
        )

    async def noise(self) -> None:
        port = random.choice((self.data, self.control))
        async with dialled(port) as (reader, writer):
            writer.write(os.urandom(random.randrange(1, 3000)) + b"\r\n\r\n")
            answer = await everything(reader)
        self.ledger.expect(
            answer is not None and (not answer or 400 <= _code(answer)[0] < 500),
            "random bytes refused",
            lambda: f"{answer!r}"[:500],
        )

    async def half_an_upload(self) -> None:
        """An upload that a reset ends at a random point of the exchange."""
        target = random.choice(("absent", "poisoner", "laptop-0", "laptop-1"))
        contract = json.dumps({"foo": target})
        head = f"POST /{secrets.token_hex(4)} HTTP/1.1\r\nhost: foo\r\nx-devroute: {contract}\r\n"
        async with dialled(self.data) as (_, writer):
            writer.write(head.encode() + b"x-devroute-matched: foo\r\ncontent-length: 1000000\r\n\r\n")
            writer.write(bytes(random.randrange(300_000)))
            await asyncio.sleep(random.uniform(0, 0.02))
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.ledger.fine("uploads ended by a reset")

    async def slow_heads(self) -> None:
        """Many connections that never finish their heads, at both ports."""

        async def one(port: Endpoint) -> None:
            async with dialled(port) as (reader, writer):
                writer.write(b"GET / HTTP/1.1\r\nhost: foo\r\n")
                answer = await everything(reader)
            self.ledger.expect(
                _code(answer) == (408, "request-timeout"), "slow heads timed out", lambda: f"{answer!r}"[:300]
            )

        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(one(self.data))
                group.create_task(one(self.control))

    # --- HTTP/2

    async def rapid_reset(self) -> None:
        """CVE-2023-44487."""
        fields = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "foo")]
        mesh = [("x-devroute", '{"foo":"absent"}'), ("x-devroute-matched", "foo")]
        block = hpack.Encoder().encode(fields + mesh)
        cancel = struct.pack("!I", 8)
        flood = [
            _frame(1, 0x5, number, block) + _frame(3, 0, number, cancel)
            for number in range(1, 2 * (RESET_BURST + 1000), 2)
        ]
        await self._flood("HTTP/2 rapid resets cut off", flood)

    async def idle_frames(self) -> None:
        one = random.choice((_frame(6, 0, 0, bytes(8)), _frame(4, 0, 0, b""), _frame(8, 0, 0, b"\0\0\0\1")))
        await self._flood("HTTP/2 floods of empty frames cut off", [one] * (CONTROL_BURST + 1000))

    async def _flood(self, what: str, frames: list[bytes]) -> None:
        async with dialled(self.data) as (reader, writer):
            writer.write(PREFACE + _frame(4, 0, 0, b"") + b"".join(frames))
            answer = await everything(reader)
        self.ledger.expect(answer is not None, what, lambda: "the connection stayed open")

    # --- the control port

    async def guess_a_token(self) -> None:
        token = random.choice(("", "alice", f"dvr_{secrets.token_urlsafe(32)}", "x" * 2000))
        key = "AAAAAAAAAAAAAAAAAAAAAA=="
        upgrade = (
            "GET /tunnel HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            f"sec-websocket-version: 13\r\nsec-websocket-key: {key}\r\nauthorization: Bearer {token}\r\n\r\n"
        )
        async with dialled(self.control) as (reader, writer):
            writer.write(upgrade.encode())
            answer = await everything(reader)
        self.ledger.expect(
            _code(answer) == (401, "token-invalid"), "guessed tokens refused", lambda: f"{answer!r}"[:300]
        )

    # --- through the sidecar

    async def wrong_contract(self, session: aiohttp.ClientSession) -> None:
        """Malformed contracts are refused; those whose target is denied fall back to the service."""
        contract, status, result = random.choice(WRONG)
        since = time.monotonic()
        url = f"http://{self.entry.host}:{self.entry.port}/wrong"
        headers = {"x-devroute": contract, "host": "foo"}
        async with session.get(url, headers=headers, timeout=aiohttp.ClientTimeout(PATIENCE_S)) as response:
            found = response.status, response.headers.get("x-devroute-result")
            reason = response.headers.get("x-devroute-reason", "")
            body = await response.read()
        if found[1] == "fallback" != result and "did not respond within" in reason:
            self.ledger.failed("wrong contracts: fell back to the service", reason, contract, since)
            return
        self.ledger.expect(
            found == (status, result) and POISON.encode() not in body,
            f"wrong contracts: {result}",
            lambda: f"{contract}: {found} {body!r}"[:500],
        )


WRONG = (
    ("{", 400, "error"),
    ('{"foo": "UPPER CASE"}', 400, "error"),
    ('{"foo": "absent", "foo": "laptop-0"}', 400, "error"),
    ('{"foo": {"to": "absent", "unknown": 1}}', 400, "error"),
    ('{"foo": {"to": "absent", "fallback": "fail"}}', 503, "error"),
    ('{"foo": "absent"}', 200, "fallback"),
    ('{"foo": "169.254.169.254:8080"}', 200, "fallback"),
    ('{"foo": "10.1.2.3:8080"}', 200, "fallback"),
    ('{"foo": "127.0.0.1:22"}', 200, "fallback"),
)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload
