"""Sampled requests as OpenTelemetry's spans: what is kept of an exchange at its end, and the message that a
collector gets (OTLP 1.x). Pure, but for its libraries. Needs the extra `otel`.

Attributes are those of the stable HTTP conventions, and `devroute.*`. No query, no header's value but the
host's, no body: people put secrets there, and a team's traces have more readers than a request has.
"""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, SpanFlags, Status

from devroute import __version__
from devroute.downstream.context import CompletedExchange
from devroute.downstream.sampling import new_span_id
from devroute.errors import FaultInjected
from devroute.headers import line_start
from devroute.http.message import header_value
from devroute.http.spans import AgentSpan, SpanIds
from devroute.metrics.requests import METHODS, error_type
from devroute.metrics.table import OTHER
from devroute.proxy.telemetry.metrics import result_of

#: `service.name` of the proxy's spans, and of those that it sends for agents.
PROXY_NAME: Final = "devroute-proxy"
AGENT_NAME: Final = "devroute-agent"

#: Characters of a path, and of a host with its port.
MAX_PATH: Final = 512
MAX_AUTHORITY: Final = 262

_HOST: Final = line_start("host")
_SCHEME: Final = line_start("x-forwarded-proto")
_PORTS: Final = {"http": 80, "https": 443}

_COMMON: Final = (
    "http.request.method",
    "http.request.method_original",
    "devroute.service",
    "devroute.result",
    "devroute.reason",
    "devroute.laptop",
)

_LOCAL_PARENT: Final = SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK
_REMOTE_PARENT: Final = _LOCAL_PARENT | SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK


class SampledRequest(NamedTuple):
    """What is kept of a sampled exchange. `code` is that of the error, "" without one; `opened` is 0 where no
    upstream was asked. Times by time.monotonic()."""

    ids: SpanIds
    method: bytes
    path: str
    scheme: str
    authority: str
    http2: bool
    status: int
    service: str
    laptop: str
    result: str
    reason: str
    code: str
    started: float
    opened: float
    ended: float
    finished: float

    @property
    def spans(self) -> int:
        """How many spans it becomes."""
        return 2 if self.opened else 1


def sampled_request(exchange: CompletedExchange, ids: SpanIds) -> SampledRequest:
    request, route, error = exchange.request, exchange.route, exchange.error
    raw = request.raw
    scheme = (header_value(raw, _SCHEME) or b"").decode("latin-1")
    code = "" if error is None else error.code
    service = (error.service if error is not None else None) if route is None else route.service
    return SampledRequest(
        ids,
        request.method,
        request.target.partition(b"?")[0][:MAX_PATH].decode("latin-1"),
        scheme if scheme in _PORTS else "http",
        (header_value(raw, _HOST) or b"")[:MAX_AUTHORITY].decode("latin-1"),
        request.http2,
        exchange.status,
        service or "",
        "" if route is None else route.laptop,
        *result_of(exchange),
        code,
        exchange.started,
        0.0 if isinstance(error, FaultInjected) else exchange.opened,
        exchange.ended,
        exchange.finished,
    )


def server_of(authority: str, scheme: str) -> tuple[str, int]:
    """`server.address` and `server.port`, by a Host (RFC 9110 §7.2)."""
    host, colon, port = authority.rpartition(":")
    if colon and port.isascii() and port.isdigit() and len(port) <= 5:
        return host.strip("[]"), int(port)
    return authority.strip("[]"), _PORTS[scheme]


class Batch:
    """The request to a collector. `clock_offset`: nanoseconds of Unix time minus monotonic ones."""

    def __init__(self, clock_offset: int, instance: str) -> None:
        """`instance` is this process's `service.instance.id`."""
        self._offset = clock_offset
        self._message = ExportTraceServiceRequest()
        self._instance = instance
        self._proxy: Any = None
        self._agent: Any = None
        self._encoded: dict[tuple[str, ...], bytes] = {}
        self.spans = 0

    def add(self, sampled: "SampledRequest | AgentSpan") -> None:
        if isinstance(sampled, AgentSpan):
            self._add_agent(sampled)
        else:
            self._add_request(sampled)

    def body(self) -> bytes:
        return self._message.SerializeToString()

    def _add_request(self, one: SampledRequest) -> None:
        if self._proxy is None:
            self._proxy = self._resource(PROXY_NAME)
        ids = one.ids
        parent, flags = ids.parent, ids.parent.flags
        method = METHODS.get(one.method, OTHER)
        address, port = server_of(one.authority, one.scheme)
        common = self._common(one, method)
        failed = error_type(one.code, one.status)

        server = self._span(self._proxy, method, Span.SPAN_KIND_SERVER, one.started, one.finished)
        _identify(server, parent.trace_id, ids.server_id, parent.span_id, flags | _REMOTE_PARENT)
        server.MergeFromString(common)
        text = _texts(server)
        text("url.scheme", one.scheme)
        text("url.path", one.path)
        text("server.address", address)
        _number(server, "server.port", port)
        text("network.protocol.version", "2" if one.http2 else "1.1")
        if one.status:
            _number(server, "http.response.status_code", one.status)
        if failed and not 400 <= one.status < 500:
            _fail(server, failed)
        if not one.opened:
            return

        client = self._span(self._proxy, method, Span.SPAN_KIND_CLIENT, one.opened, one.ended)
        _identify(client, parent.trace_id, ids.client_id, ids.server_id, flags | _LOCAL_PARENT)
        client.MergeFromString(common)
        text = _texts(client)
        text("url.full", f"{one.scheme}://{one.authority}{one.path}")
        text("server.address", one.service)
        _number(client, "server.port", port)
        if not one.code:
            _number(client, "http.response.status_code", one.status)
        if one.code or one.status >= 400:
            _fail(client, one.code or str(one.status))

    def _add_agent(self, one: AgentSpan) -> None:
        """Its kind is internal: the app's own span, a child of the same client span, is the server's."""
        if self._agent is None:
            self._agent = self._resource(AGENT_NAME)
        parent = one.parent
        span = self._span(self._agent, "agent", Span.SPAN_KIND_INTERNAL, *one.at_laptop())
        _identify(span, parent.trace_id, new_span_id(), parent.span_id, parent.flags | _REMOTE_PARENT)
        text = _texts(span)
        text("devroute.service", one.service)
        text("devroute.laptop", one.laptop)
        if one.status:
            _number(span, "http.response.status_code", one.status)
        if one.code:
            _fail(span, one.code)

    def _common(self, one: SampledRequest, method: str) -> bytes:
        """What the server's and the client's span both have, encoded: most requests of a batch share it."""
        original = one.method[:MAX_PATH].decode("latin-1") if method == OTHER else ""
        key = (method, original, one.service, one.result, one.reason, one.laptop)
        encoded = self._encoded.get(key)
        if encoded is None:
            span = Span()
            text = _texts(span)
            for name, value in zip(_COMMON, key, strict=True):
                text(name, value)
            encoded = self._encoded[key] = span.SerializeToString()
        return encoded

    def _resource(self, name: str) -> Any:
        """The spans of a new resource."""
        of = self._message.resource_spans.add()
        attributes = {"service.name": name, "service.version": __version__}
        if name == PROXY_NAME:
            attributes["service.instance.id"] = self._instance
        for key, value in attributes.items():
            of.resource.attributes.add(key=key).value.string_value = value
        scope = of.scope_spans.add()
        scope.scope.name, scope.scope.version = "devroute", __version__
        return scope.spans

    def _span(self, among: Any, name: str, kind: "Span.SpanKind.ValueType", start: float, end: float) -> Span:
        self.spans += 1
        span: Span = among.add()
        span.name = "HTTP" if name == OTHER else name
        span.kind = kind
        span.start_time_unix_nano = begin = int(start * 1e9) + self._offset
        span.end_time_unix_nano = max(begin, int(end * 1e9) + self._offset)
        return span


def _identify(span: Span, trace_id: bytes, span_id: bytes, parent_id: bytes, flags: int) -> None:
    span.trace_id = bytes.fromhex(trace_id.decode("ascii"))
    span.span_id = bytes.fromhex(span_id.decode("ascii"))
    span.parent_span_id = bytes.fromhex(parent_id.decode("ascii"))
    span.flags = flags


def _texts(span: Span) -> Callable[[str, str], None]:
    """Adds an attribute, unless its value is empty."""
    add = span.attributes.add

    def text(key: str, value: str) -> None:
        if value:
            attribute = add()
            attribute.key = key
            attribute.value.string_value = value

    return text


def _number(span: Span, key: str, value: int) -> None:
    attribute = span.attributes.add()
    attribute.key = key
    attribute.value.int_value = value


def _fail(span: Span, error_type: str) -> None:
    span.status.code = Status.STATUS_CODE_ERROR
    span.attributes.add(key="error.type").value.string_value = error_type
