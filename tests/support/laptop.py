"""A real agent on loopback with an inspector, between a proxy's listener and an app of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from devroute.agent.app import Agent
from devroute.agent.settings import AgentSettings
from devroute.agent.ui.fan_out import FanOut
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.writer import TerminalWriter
from devroute.contract.service_spec import ServiceSpec
from devroute.http.message import Framing, RequestHead
from devroute.inspector.capture import Capture
from tests.support.eventually import eventually
from tests.support.loopback import Client, Site, site


class Laptop:
    """An agent that is online, and its captures."""

    def __init__(self, agent: Agent, where: Site) -> None:
        assert agent.inspection is not None
        self.agent = agent
        self.store = agent.inspection.store
        self.rules = agent.inspection.rules
        self.where = where

    async def ask(self, head: RequestHead, body: bytes = b"", client: Client | None = None) -> Client:
        client = client or Client()
        stream = self.where.upstream().open(head, client)
        if body:
            stream.send_data(body)
        if head.framing is not Framing.NONE:
            stream.send_end([])
        async with asyncio.timeout(20):
            await client.done.wait()
        return client

    async def newest(self, fits: Callable[[Capture], bool] = lambda each: each.state != "open") -> Capture:
        def newest() -> Capture | None:
            found = next(self.store.newest_first(), None)
            return found if found is not None and fits(found) else None

        return await eventually(newest)


@asynccontextmanager
async def laptop(port: int, **changes: Any) -> AsyncIterator[Laptop]:
    settings = AgentSettings.model_validate(
        {"token": "alice-token", "services": (ServiceSpec("foo", "127.0.0.1", port),), **changes}
    )
    with open("/dev/null", "w") as nowhere:  # noqa: ASYNC230
        printer = TerminalWriter(nowhere)
        async with site() as where:
            reporter = FanOut(LineReporter("text", printer))
            agent = Agent(settings.model_copy(update={"server": where.url}), reporter)
            task = asyncio.get_running_loop().create_task(agent.run())
            try:
                await eventually(where.registry.listing, task=task)
                yield Laptop(agent, where)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                printer.close()


@asynccontextmanager
async def serving(handler: Callable[[web.Request], Any]) -> AsyncIterator[int]:
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    tcp = web.TCPSite(runner, "127.0.0.1", 0)
    await tcp.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def two_events(more: asyncio.Event) -> Callable[[web.Request], Any]:
    """The handler of an app that sends one event, and another one once `more` is set."""

    async def events(asked: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(asked)
        await response.write(b"data: 1\n\n")
        await more.wait()
        await response.write(b"data: 2\n\n")
        return response

    return events


def request(method: str, target: str, fields: dict[str, str], body: bytes = b"") -> RequestHead:
    lines = "".join(f"{name}: {value}\r\n" for name, value in {"host": "foo", **fields}.items())
    if body:
        lines += f"content-length: {len(body)}\r\n"
    wire = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode()
    framing = Framing.LENGTH if body else Framing.NONE
    return RequestHead(method.encode(), target.encode(), framing, len(body), wire)


class Relay(Client):
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__()
        self._writer = writer

    def on_head(self, head: Any) -> None:
        self._writer.write(head.raw)

    def on_data(self, data: bytes) -> None:
        self._writer.write(data)

    def on_end(self, trailers: Any) -> None:
        self._writer.close()


@asynccontextmanager
async def relayed(it: Laptop) -> AsyncIterator[str]:
    """A listener that sends the bytes of every connection to the laptop as one upgrade, with its own head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        start = head.split(b" ", 2)
        client = Relay(writer)
        stream = it.where.upstream().open(RequestHead(start[0], start[1], Framing.UPGRADE, 0, head), client)
        while data := await reader.read(4096):
            stream.send_data(data)
        stream.send_end([])

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
