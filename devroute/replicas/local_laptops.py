"""What a replica serves to the others over their links: requests for laptops whose links end here, and
questions. It looks at no contract: the replica that forwards a request has judged it.
"""

import asyncio
import re
from collections.abc import Coroutine
from typing import Final

from devroute.errors import (
    DevrouteError,
    LaptopOffline,
    ProtocolError,
    ServiceNotServed,
    TargetUnreachable,
    UpstreamReset,
)
from devroute.http.http1.response import parse_response_head
from devroute.http.message import RequestHead
from devroute.replicas.node import END, LINE, REACHABLE
from devroute.routing.registration import Registration
from devroute.routing.registry import Registry
from devroute.tasks import TaskOwner
from devroute.upstream.interface import DiscardedRequest, ResponseSink, Upstream, UpstreamStream
from devroute.upstream.pools import Pools
from devroute.upstream.quota import QuotaUpstream, RefusedStream

_LINE: Final = re.compile(re.escape(LINE) + rb"[a-z0-9-]+ [0-9]{1,19} [@a-z0-9.-]+")
_REACHABLE: Final = re.compile(re.escape(REACHABLE) + rb"([0-9]\.[0-9]{3})")


class LocalLaptops:
    """`forwarded` counts the requests that other replicas sent."""

    def __init__(self, registry: Registry, pools: Pools) -> None:
        self.registry = registry
        self.pools = pools
        self.forwarded = 0
        self.tasks = TaskOwner()

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        """Requests for laptops; implements Upstream."""
        self.forwarded += 1
        try:
            line, head = take_line(head)
            upstream = self._upstream(*self.find(line))
        except DevrouteError as error:
            return RefusedStream(sink, error)
        return upstream.open(head, sink)

    def find(self, line: bytes) -> tuple[Registration, str]:
        """The process and the service that a request is for. Raises LaptopOffline."""
        name, generation, service = line.decode("ascii").split(" ")
        for each in self.registry.processes(name):
            if not each.remote and each.generation == int(generation):
                return each, service
        raise LaptopOffline(f"laptop '{name}' is not online at this replica any more")

    def _upstream(self, registration: Registration, service: str) -> Upstream:
        """Raises ServiceNotServed."""
        if service.startswith("@"):
            return registration.link.upstream(service)
        laptop = registration.services.get(service)
        if laptop is None:
            raise ServiceNotServed(f"laptop '{registration.name}' serves '{service}' no longer")
        if laptop.address is None:
            assert laptop.upstream is not None
            return laptop.upstream
        pool = self.pools.get(service.partition(".")[0], laptop.address)
        return pool if laptop.quota is None else QuotaUpstream(pool, laptop.quota)

    async def check_reachable(self, registration: Registration, service: str, seconds: float) -> None:
        """Raises LaptopOffline, TargetUnreachable or TargetDenied."""
        laptop = registration.services.get(service)
        if laptop is None or laptop.address is None:
            await registration.link.upstream(service).check_reachable(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.pools.probe(laptop.address, service.partition(".")[0])
        except TimeoutError:
            raise TargetUnreachable(f"{laptop.address} did not answer within {seconds:g} s") from None


class Questions:
    """What replicas ask each other; implements Upstream."""

    def __init__(self, laptops: LocalLaptops) -> None:
        self._laptops = laptops

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Answer(self._laptops.tasks, self._answer(head), sink)

    async def _answer(self, head: RequestHead) -> bytes:
        """Raises DevrouteError."""
        line, _ = take_line(head)
        registration, service = self._laptops.find(line)
        if (seconds := _REACHABLE.fullmatch(head.target)) is not None:
            await self._laptops.check_reachable(registration, service, float(seconds[1]))
        elif head.target == END:
            registration.link.reject(
                UpstreamReset("the laptop does not respond, and has come back elsewhere")
            )
        else:
            raise ProtocolError("a question of a newer release")
        return b""


class _Answer(DiscardedRequest):
    """A question, until the response to it is sent."""

    def __init__(self, tasks: TaskOwner, answer: Coroutine[None, None, bytes], sink: ResponseSink) -> None:
        self._sink = sink
        self._task = tasks.start(self._send(answer))

    async def _send(self, answer: Coroutine[None, None, bytes]) -> None:
        try:
            body = await answer
        except DevrouteError as error:
            self._sink.on_error(error)
            return
        self._sink.on_head(
            parse_response_head(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body), b"GET")
        )
        if body:
            self._sink.on_data(body)
        self._sink.on_end([])

    def cancel(self) -> None:
        self._task.cancel()


def take_line(head: RequestHead) -> tuple[bytes, RequestHead]:
    """The line that another replica has put first (node.py), and the request without it. Raises
    ProtocolError."""
    start, _, rest = head.wire.partition(b"\r\n")
    line, _, rest = rest.partition(b"\r\n")
    if _LINE.fullmatch(line) is None:
        raise ProtocolError("a request of another replica does not say for which laptop it is")
    wire = b"%b\r\n%b" % (start, rest)
    return line[len(LINE) :], RequestHead(head.method, head.target, head.framing, head.length, wire)
