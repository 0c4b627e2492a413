"""What a client sends comes back, and goes into log and audit trail, in bounded length."""

import asyncio
import json
import os
from pathlib import Path

import pytest

from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from devroute.proxy.telemetry.background_writer import BackgroundWriter, LineFile
from tests.support.eventually import PATIENCE_S

#: Bytes that one response, or one line, may have.
MAX_RESPONSE = 8 * 1024
MAX_LINE = 8 * 1024

LONG = b"a" * 60_000
CONTRACT = b'x-devroute: {"foo": "alice"}'
MATCHED = b"x-devroute-matched: foo"

#: Fields and targets of requests.
DATA = {
    "x-request-id": (b"/", [b"x-request-id: " + LONG, CONTRACT, MATCHED]),
    "x-request-id that needs escapes": (b"/", [b"x-request-id: " + b'"' * 60_000, CONTRACT, MATCHED]),
    "the matched service": (b"/", [CONTRACT, b"x-devroute-matched: " + LONG]),
    "the caller": (b"/", [CONTRACT, MATCHED, b"x-devroute-caller: " + LONG]),
    "the path": (b"/" + LONG, [CONTRACT, MATCHED]),
    "the target": (b"/", [b'x-devroute: {"foo": "' + LONG[:8000] + b'"}', MATCHED]),
    "a service": (b"/", [b'x-devroute: {"' + LONG[:8000] + b'": "alice"}', MATCHED]),
    "many services": (
        b"/",
        [b"x-devroute: {%b}" % b", ".join(b'"service-number-%d.name": "a"' % n for n in range(64)), MATCHED],
    ),
    "the trace": (b"/", [CONTRACT, MATCHED, b"x-devroute-trace: " + LONG]),
    "the way": (b"/", [CONTRACT, MATCHED, b"x-devroute-via: " + b"foo," * 15_000]),
    "the method": (b"/", [b"x: y"]),
}
CONTROL = {
    "the path": (b"/" + LONG, []),
    "the matched services": (b"/resolve", [CONTRACT, b"x-devroute-candidates: " + LONG]),
    "the contract": (
        b"/resolve",
        [b'x-devroute: {"foo": "' + LONG[:8000] + b'"}', b"x-devroute-candidates: foo"],
    ),
    "the token": (b"/api/status", [b"authorization: Bearer " + LONG]),
}


class Running:
    def __init__(self, folder: Path) -> None:
        self.log, self.audit = folder / "log", folder / "audit"
        self.descriptor = os.open(self.log, os.O_WRONLY | os.O_CREAT)
        self.writer = BackgroundWriter(LineFile(self.descriptor).write)
        hosts = {f"{listener}_host": "127.0.0.1" for listener in ("data", "control", "admin")}
        ports = {f"{listener}_port": 0 for listener in ("data", "control", "admin")}
        settings = {
            **hosts,
            **ports,
            "audit": str(self.audit),
            "log_format": "json",
        }
        self.proxy = Proxy(ProxySettings.model_validate(settings), self.writer)

    async def response(self, port: int, start: bytes, fields: list[bytes]) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\r\n".join([start, b"host: x", b"connection: close", *fields, b"", b""]))
        async with asyncio.timeout(PATIENCE_S):
            response = await reader.read()
        writer.close()
        return response

    async def lines(self) -> list[bytes]:
        await self.proxy.stop()
        self.writer.close()
        os.close(self.descriptor)
        return [*self.log.read_bytes().splitlines(), *self.audit.read_bytes().splitlines()]


@pytest.fixture
async def running(tmp_path: Path) -> Running:
    running = Running(tmp_path)
    await running.proxy.start()
    return running


@pytest.mark.parametrize("case", DATA)
async def test_the_data_port_echoes_in_bounded_length(case: str, running: Running) -> None:
    target, fields = DATA[case]
    method = LONG if case == "the method" else b"GET"
    response = await running.response(running.proxy.data_port, b"%b %b HTTP/1.1" % (method, target), fields)
    head, _, body = response.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))
    assert json.loads(body)["code"]
    assert len(response) < MAX_RESPONSE
    lines = await running.lines()
    assert lines or case == "the method"
    assert all(len(line) < MAX_LINE for line in lines)


@pytest.mark.parametrize("case", CONTROL)
async def test_the_control_port_echoes_in_bounded_length(case: str, running: Running) -> None:
    target, fields = CONTROL[case]
    response = await running.response(running.proxy.control_port, b"GET %b HTTP/1.1" % target, fields)
    assert response.startswith(b"HTTP/1.1 ")
    assert len(response) < MAX_RESPONSE
    assert all(len(line) < MAX_LINE for line in await running.lines())
