"""What a replica serves to the others over their links: requests for laptops whose links end here, and
questions. It looks at no contract: the replica that forwards a request has judged it.
"""

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from typing import Final

from devroute.bounded_cache import BoundedCache
from devroute.errors import (
    BY_CODE,
    DevrouteError,
    LaptopOffline,
    ProtocolError,
    ServiceNotServed,
    TargetUnreachable,
    UpstreamReset,
)
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Headers, RequestHead
from devroute.http.spans import AgentSpan, sampled_parent
from devroute.replicas.node import END, LINE, REACHABLE
from devroute.replicas.peers import Answer
from devroute.routing.registration import Registration
from devroute.routing.registry import Registry
from devroute.tasks import TaskOwner
from devroute.upstream.interface import DiscardedRequest, ResponseSink, Upstream, UpstreamStream
from devroute.upstream.pools import Pools
from devroute.upstream.quota import QuotaUpstream, RefusedStream

#: Bytes of a question that are kept: a reported response, in base64.
MAX_QUESTION: Final = 128 * 1024

#: Of the cache of registrations that have ended here: some 10,000.
MAX_LEFT_BYTES: Final = 4 * 1024 * 1024

_LINE: Final = re.compile(re.escape(LINE) + rb"[a-z0-9-]+ [0-9]{1,19} [@a-z0-9.-]+")
_REACHABLE: Final = re.compile(re.escape(REACHABLE) + rb"([0-9]\.[0-9]{3})")


class LocalLaptops:
    """`forwarded` counts the requests that other replicas sent."""

    def __init__(
        self, registry: Registry, pools: Pools, report: Callable[[AgentSpan], None] | None = None
    ) -> None:
        """`report` gets the laptops' spans of sampled requests."""
        self.registry = registry
        self.pools = pools
        self.forwarded = 0
        self._report = report
        self.tasks = TaskOwner()
        self._left = BoundedCache[tuple[str, int], str](MAX_LEFT_BYTES)  # instances by name and generation
        registry.observers.append(self)

    def registered(self, registration: Registration) -> None: ...

    def unregistered(self, registration: Registration) -> None:
        """Implements RegistryObserver."""
        name, instance = registration.name, registration.hello.instance
        if not registration.remote and instance is not None:
            self._left.put((name, registration.generation), instance, len(name) + len(instance))

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        """Requests for laptops; implements Upstream."""
        self.forwarded += 1
        try:
            line, head = take_line(head)
            registration, service = self.find_newest(line)
            upstream = self._upstream(registration, service)
        except DevrouteError as error:
            return RefusedStream(sink, error)
        if self._report is not None and (parent := sampled_parent(head.wire)) is not None:
            head.span = AgentSpan(parent, service, registration.name, self._report)
        return upstream.open(head, sink)

    def find(self, line: bytes) -> tuple[Registration, str]:
        """The process and the service that a request is for. Raises LaptopOffline."""
        name, generation, service = _parts(line)
        for each in self.registry.processes(name):
            if not each.remote and each.generation == generation:
                return each, service
        raise LaptopOffline(f"laptop '{name}' is not online at this replica any more")

    def find_newest(self, line: bytes) -> tuple[Registration, str]:
        """The same, or where that link has just ended: another one of the same process that ends here, or one
        that it has registered since, maybe at another replica. Never another process, whose terms were not
        judged; and each step leads to a later generation, so a request cannot go round in circles. Raises
        LaptopOffline."""
        try:
            return self.find(line)
        except LaptopOffline:
            name, generation, service = _parts(line)
            instance = self._left.get((name, generation))
            for each in self.registry.processes(name):
                same = instance is not None and each.hello.instance == instance
                ahead = not each.remote or each.generation > generation
                if same and ahead and service in each.services:
                    return each, service
            raise

    def _upstream(self, registration: Registration, service: str) -> Upstream:
        """Raises ServiceNotServed."""
        if service.startswith("@") or registration.remote:
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
        if laptop is None or laptop.address is None or registration.remote:
            await registration.link.upstream(service).check_reachable(seconds)
            return
        try:
            async with asyncio.timeout(seconds):
                await self.pools.probe(laptop.address, service.partition(".")[0])
        except TimeoutError:
            raise TargetUnreachable(f"{laptop.address} did not respond within {seconds:g} s") from None


class Questions:
    """What replicas ask each other; implements Upstream. `answers`: by the first part of the path, such as
    `/reports/`; the questions about laptops are answered here."""

    def __init__(self, laptops: LocalLaptops, answers: Mapping[bytes, Answer]) -> None:
        self._laptops = laptops
        self._answers = answers

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return _Question(self, head, sink)

    def respond(self, head: RequestHead, body: bytes, sink: ResponseSink) -> "asyncio.Task[None]":
        return self._laptops.tasks.start(self._respond(head, body, sink))

    async def _respond(self, head: RequestHead, body: bytes, sink: ResponseSink) -> None:
        try:
            found = await self._answer(head, body)
        except DevrouteError as error:
            sink.on_error(error)
            return
        raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(found)
        sink.on_head(parse_response_head(raw, b"POST"))
        if found:
            sink.on_data(found)
        sink.on_end([])

    async def _answer(self, head: RequestHead, body: bytes) -> bytes:
        """Raises DevrouteError."""
        prefix = head.target[: head.target.find(b"/", 1) + 1]
        if (answer := self._answers.get(prefix)) is not None:
            return answer(head.target.removeprefix(prefix).decode("latin-1"), body)
        line, _ = take_line(head)
        if (seconds := _REACHABLE.fullmatch(head.target)) is not None:
            await self._laptops.check_reachable(*self._laptops.find_newest(line), float(seconds[1]))
        elif head.target == END:
            self._laptops.find(line)[0].link.reject(_error_in(body))
        else:
            raise ProtocolError("a question of a newer release")
        return b""


class _Question(DiscardedRequest):
    """A question, until it is complete and the response to it is sent."""

    def __init__(self, questions: Questions, head: RequestHead, sink: ResponseSink) -> None:
        self._questions = questions
        self._head = head
        self._sink = sink
        self._body = b""
        self._task: asyncio.Task[None] | None = None

    def send_data(self, data: bytes) -> None:
        if len(self._body) <= MAX_QUESTION:
            self._body += data

    def send_end(self, trailers: Headers) -> None:
        self._task = self._questions.respond(self._head, self._body, self._sink)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


def _error_in(body: bytes) -> DevrouteError:
    """The error that a link is to be ended with. Older replicas, which ask only where a laptop has come back
    to them, send none."""
    try:
        document = json.loads(body)
        return BY_CODE[document["code"]](str(document["message"]), hint=str(document["hint"]))
    except (ValueError, KeyError, TypeError):
        return UpstreamReset("the laptop does not respond, and has come back elsewhere")


def _parts(line: bytes) -> tuple[str, int, str]:
    """Name, generation and service."""
    name, generation, service = line.decode("ascii").split(" ")
    return name, int(generation), service


def take_line(head: RequestHead) -> tuple[bytes, RequestHead]:
    """The line that another replica has put first (node.py), and the request without it. Raises
    ProtocolError."""
    start, _, rest = head.wire.partition(b"\r\n")
    line, _, rest = rest.partition(b"\r\n")
    if _LINE.fullmatch(line) is None:
        raise ProtocolError("a request of another replica does not say for which laptop it is")
    wire = b"%b\r\n%b" % (start, rest)
    return line[len(LINE) :], RequestHead(head.method, head.target, head.framing, head.length, wire)
