"""A mesh on loopback for what a laptop reaches: apps of the test, and the local ports around them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from devroute.agent.reach.contract_by_trace import ContractsByTrace
from devroute.agent.reach.mesh_port import Forward, MeshPort
from devroute.agent.reach.ports import LocalPorts
from devroute.agent.reach.reach import Reach
from devroute.agent.reach.rewriting import RewritingUpstream
from devroute.errors import DevrouteError, TargetDenied
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Framing, RequestHead
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from tests.support.loopback import App, AppStream, answer

SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: tcp\r\n\r\n"


class BytesApp:
    """A server of bytes: `greeting` as soon as it is connected, then what it gets comes back in upper case.
    Its half ends with the client's."""

    def __init__(self, greeting: bytes = b"") -> None:
        self._greeting = greeting
        self.streams: list[_Bytes] = []

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        assert head.framing is Framing.UPGRADE
        stream = _Bytes(head, sink)
        self.streams.append(stream)
        asyncio.get_running_loop().call_soon(stream.accept, self._greeting)
        return stream


class _Bytes(AppStream):
    def accept(self, greeting: bytes) -> None:
        self.sink.on_head(parse_response_head(SWITCHED, b"GET"))
        if greeting:
            self.sink.on_data(greeting)

    def send_data(self, data: bytes) -> None:
        super().send_data(data)
        self.sink.on_data(data.upper())

    def send_end(self, trailers: Any) -> None:
        super().send_end(trailers)
        self.sink.on_end([])


class Denied:
    """What policy does not permit."""

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        error = TargetDenied("policy does not permit it", hint="ask the platform team")
        asyncio.get_running_loop().call_soon(sink.on_error, error)
        return AppStream(head, sink)


class Mesh:
    """`apps` by destination; all others are refused. `around`: what sees requests for HTTP."""

    def __init__(
        self,
        apps: dict[str, Upstream] | None = None,
        around: Callable[[str, Upstream], Upstream] = lambda _, app: app,
    ) -> None:
        self._around = around
        self.c = App(answer(b"tea"))
        self.apps: dict[str, Upstream] = {"c.shop:80": self.c, **(apps or {})}
        self.contracts = ContractsByTrace(lambda: 0.0)
        self.own: bytes | None = None
        self.failures: list[tuple[str, DevrouteError]] = []
        self.offline: DevrouteError | None = None
        self.entries = ["https://qa.example"]

    def way(self, to: MeshPort) -> Upstream:
        app = self.apps.get(str(to), Denied())
        if to.tcp:
            return app
        return RewritingUpstream(
            to, self._around(str(to), app), self.contracts, lambda: self.own, self.failed
        )

    def failed(self, name: str, error: DevrouteError) -> None:
        self.failures.append((name, error))

    def check_ready(self) -> None:
        if self.offline is not None:
            raise self.offline

    @asynccontextmanager
    async def reached(
        self,
        *forwards: str,
        proxy: bool = False,
        folder: Path | None = None,
        direct: Callable[[MeshPort], Any] | None = None,
    ) -> AsyncIterator[Reach]:
        reach = Reach(
            [Forward.parse(each) for each in forwards],
            LocalPorts(folder, "https://devroute.example"),
            self.contracts,
            self.way,
            direct=direct,
            check_ready=self.check_ready,
            entries=lambda: self.entries,
            failed=self.failed,
        )
        await reach.open(proxy)
        try:
            yield reach
        finally:
            await reach.close()


async def say(port: int, *pieces: bytes, end: bool = True) -> bytes:
    """All that a server on loopback sends to a client that says these."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        async with asyncio.timeout(20):
            for piece in pieces:
                writer.write(piece)
            if end:
                writer.write_eof()
            return await reader.read()
    finally:
        writer.close()


def get(host: str, *lines: str, target: str = "/") -> bytes:
    fields = "".join(f"{line}\r\n" for line in (f"host: {host}", "connection: close", *lines))
    return f"GET {target} HTTP/1.1\r\n{fields}\r\n".encode()


def heads(app: App) -> Iterable[bytes]:
    return (stream.head.wire for stream in app.streams)
