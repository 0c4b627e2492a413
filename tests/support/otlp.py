"""A strict receiver of OTLP/HTTP, which takes nothing that the specification or the conventions forbid, and
spans as values that tests compare.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.eventually import eventually
from tests.support.laptop import serving

Value = str | int | bool | float


@dataclass(frozen=True, slots=True)
class Received:
    """A span, with ids in hexadecimal digits."""

    service: str
    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    flags: int
    start: int
    end: int
    failed: bool
    attributes: dict[str, Value] = field(compare=False)


def read(body: bytes) -> list[Received]:
    """Raises AssertionError."""
    message = ExportTraceServiceRequest.FromString(body)
    assert message.SerializeToString(deterministic=True), "a batch without spans"
    return [*_spans(message)]


def _spans(message: ExportTraceServiceRequest) -> Iterator[Received]:
    for resource in message.resource_spans:
        of = _attributes(resource.resource.attributes)
        assert of["service.name"], of
        for scope in resource.scope_spans:
            assert scope.scope.name, "a scope without a name"
            assert scope.spans, "a scope without spans"
            for span in scope.spans:
                yield _checked(str(of["service.name"]), span)


def _checked(service: str, span: Span) -> Received:
    assert len(span.trace_id) == 16, span
    assert any(span.trace_id), span
    assert len(span.span_id) == 8, span
    assert any(span.span_id), span
    assert len(span.parent_span_id) in (0, 8), span
    assert span.name, span
    assert span.kind, span
    assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano, span
    return Received(
        service,
        span.name,
        Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.flags,
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        span.status.code == 2,
        _attributes(span.attributes),
    )


def _attributes(found: "list[KeyValue] | object") -> dict[str, Value]:
    attributes: dict[str, Value] = {}
    for each in found:  # type: ignore[attr-defined]
        kind = each.value.WhichOneof("value")
        assert kind, each
        assert each.key not in attributes, f"{each.key} occurs twice"
        attributes[each.key] = getattr(each.value, kind)
    return attributes


class Receiver:
    """Keeps all spans of well-formed requests; whatever else arrives is in `problems`."""

    def __init__(self) -> None:
        self.url = ""
        self.spans: list[Received] = []
        self.bodies: list[bytes] = []
        self.problems: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        try:
            assert (request.method, request.path) == ("POST", "/v1/traces"), request.path
            assert request.content_type == "application/x-protobuf", request.content_type
            self.spans += read(body)
        except (AssertionError, DecodeError, KeyError) as error:
            self.problems.append(f"{error!r} in {body!r}")
            return web.Response(status=400)
        self.bodies.append(body)
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def trace(self, trace_id: str, count: int) -> list[Received]:
        """The spans of a trace, once there are so many."""

        def found() -> list[Received]:
            assert not self.problems
            return [each for each in self.spans if each.trace_id == trace_id]

        await eventually(lambda: len(found()) >= count, f"{count} spans of {trace_id}")
        return found()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    async with serving(found.handle) as port:
        found.url = f"http://127.0.0.1:{port}"
        yield found
        assert not found.problems


# --- collectors that are none -------------------------------------------------------------------------------


@asynccontextmanager
async def raw_server(response: bytes | None, *, endless: bytes = b"") -> AsyncIterator[str]:
    """The URL of a server that sends these bytes to every request, and `endless` again and again; with None
    it accepts, and never responds."""
    gone = asyncio.Event()
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
            )
            await reader.readexactly(length)
            if response is None:
                await gone.wait()
                return
            writer.write(response)
            while endless:
                writer.write(endless)
                await writer.drain()
            await writer.drain()
        except (OSError, EOFError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname()[:2])
    finally:
        server.close()
        gone.set()
        for writer in writers:
            writer.transport.abort()


def http(status: str, body: bytes = b"", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body


def partial(rejected: int, message: str = "no room") -> bytes:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = message
    return response.SerializeToString()


def partial_json(rejected: object) -> bytes:
    return json.dumps({"partialSuccess": {"rejectedSpans": rejected}}).encode()
