"""Observers of the requests that programs on this laptop send to services of the mesh: the inspector's
recorder, the laptop's rules, and the terminal. Sends none itself: that is the upstream that it wraps.

From the sender inwards: the terminal's line, recorder, rules, and the upstream. So a capture shows what a
rule did, and a rule may respond before anything leaves the laptop.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from devroute.errors import DevrouteError
from devroute.http.grpc import read_status
from devroute.http.message import Headers, RequestHead, ResponseHead, split_fields
from devroute.inspector.recorder import App, Recorder, RecordingUpstream
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.rules.upstream import RulesUpstream
from devroute.tunnel.served_stream import Finished, Observe, OpenRequest
from devroute.upstream.interface import NO_REQUEST, PassingStream, ResponseSink, Upstream, UpstreamStream

#: Services that are known at a time: a program may call any name through the local proxy port. Of more, the
#: one that was asked for longest ago is given up: its rules do not change any more, nor is it replayed.
MAX_SERVICES: Final = 256


class OutgoingRequests:
    """The outgoing side of one `devroute up`. `recorder`: None where there is no inspector. `observe` gets
    each request when it has ended, with `outgoing` set.

        outgoing = OutgoingRequests(rules, redaction, recorder, observe)
        # The listener of one service asks for this once, a proxy port at each request.
        upstream = outgoing.around("c.shop:80", reach)
        stream = upstream.open(head, sink)  # as it would have called reach.open

    `head` is the request as the mesh gets it, its Host that of the service and the contract in place: that is
    what is recorded, and what a replay sends. The response's head has `by_rule` where a rule did something;
    who writes it for the program says so in x-devroute-reason, as the proxy does (routing/SIDECAR.md). Not
    for tcp:// connections: nothing is known of their bytes, so nothing in them could be redacted.
    """

    def __init__(
        self, rules: RuleList, redact: Redaction, recorder: Recorder | None, observe: Observe
    ) -> None:
        self._rules = rules
        self._redact = redact
        self._recorder = recorder
        self._observe = observe
        self._time = asyncio.get_running_loop().time
        self._services: dict[str, OutgoingUpstream] = {}
        #: The open requests, in the order in which they were opened.
        self._open: dict[_ObservedStream, None] = {}
        #: For replays, by service.
        self.recorded: dict[str, RecordingUpstream] = {}

    def around(self, service: str, upstream: Upstream) -> Upstream:
        """The upstream to use in place of `upstream` for requests to this service, a name and port of the
        mesh. The same one for the same name, as long as it is among MAX_SERVICES."""
        known = self._services.pop(service, None)
        if known is None:
            known = self._made(service, upstream)
        self._services[service] = known  # the newest again
        while len(self._services) > MAX_SERVICES:
            self._give_up(next(iter(self._services)))
        return known

    def _made(self, service: str, upstream: Upstream) -> "OutgoingUpstream":
        rules = RulesUpstream(_Shared(upstream), service, self._rules, self._redact, "out")
        inner: App = rules
        if self._recorder is not None:
            inner = self.recorded[service] = RecordingUpstream(rules, service, self._recorder, "out")
        return OutgoingUpstream(self, service, inner, rules)

    def _give_up(self, service: str) -> None:
        self._rules.leave(self._services.pop(service).rules)
        self.recorded.pop(service, None)

    def open_requests(self, least_age: float, most: int) -> list[OpenRequest]:
        """As those of a link: open for `least_age` seconds, at most so many, the oldest first."""
        now = self._time()
        found: list[OpenRequest] = []
        for stream in self._open:
            if now - stream.started < least_age or len(found) == most:
                break
            found.append(stream.as_open(now))
        return found

    # --- for the streams

    def opened(self, stream: "_ObservedStream") -> float:
        self._open[stream] = None
        return self._time()

    def ended(self, stream: "_ObservedStream", code: str, reason: str) -> None:
        if self._open.pop(stream, self) is None:  # once
            self._observe(stream.as_finished(self._time(), code, reason))


@dataclass(slots=True, eq=False, repr=False)
class _Shared:
    """An upstream that others use too, and that is therefore not closed; implements recorder.App."""

    upstream: Upstream

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        return self.upstream.open(head, sink)

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False, repr=False)
class OutgoingUpstream:
    """A service of the mesh; implements devroute.upstream.interface.Upstream."""

    _seen_by: OutgoingRequests
    service: str
    _inner: Upstream
    rules: RulesUpstream

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        stream = _ObservedStream(self._seen_by, self.service, head, sink)
        stream.stream = self._inner.open(head, stream)
        return stream


class _ObservedStream(PassingStream):
    """One request: what the terminal shows of it."""

    __slots__ = ("_grpc_status", "_head", "_rule", "_seen_by", "_service", "_size", "_status", "started")

    def __init__(
        self, seen_by: OutgoingRequests, service: str, head: RequestHead, sink: ResponseSink
    ) -> None:
        super().__init__(sink)
        self._seen_by = seen_by
        self._service = service
        self._head = head
        self._status = 0
        self._size = 0
        self._grpc_status: int | None = None
        self._rule = ""
        self.started = seen_by.opened(self)

    def as_open(self, now: float) -> OpenRequest:
        method, target = self._start_line
        age = now - self.started
        return OpenRequest(self._service, method, target, self._status, self.started, age, outgoing=True)

    def as_finished(self, now: float, code: str, reason: str) -> Finished:
        method, target = self._start_line
        return Finished(
            self._service,
            method,
            target,
            self._status,
            self.started,
            now - self.started,
            self._size,
            code,
            reason,
            self._head.wire,
            grpc_status=self._grpc_status,
            rule=self._rule,
            outgoing=True,
        )

    @property
    def _start_line(self) -> tuple[str, str]:
        return self._head.method.decode("latin-1"), self._head.target.decode("latin-1")

    # --- the request

    def send_data(self, data: bytes) -> None:
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self.stream.send_end(trailers)

    def cancel(self) -> None:
        self.stream.cancel()
        self._seen_by.ended(self, "cancelled", "the program on this laptop cancelled the request")
        self.stream = NO_REQUEST

    # --- the response

    def on_head(self, head: ResponseHead) -> None:
        self._status = head.status
        self._rule = head.by_rule
        self._read_grpc_status(split_fields(head.raw) if b"rpc-status:" in head.raw else ())
        self._sink.on_head(head)

    def on_data(self, data: bytes) -> None:
        self._size += len(data)
        self._sink.on_data(data)

    def on_end(self, trailers: Headers) -> None:
        self._read_grpc_status(trailers)
        self._sink.on_end(trailers)
        self._seen_by.ended(self, "", "")
        if self._status != 101:  # else the other half may go on
            self.stream = NO_REQUEST

    def on_error(self, error: DevrouteError) -> None:
        self._sink.on_error(error)
        self._seen_by.ended(self, error.code, error.message)
        self.stream = NO_REQUEST

    def _read_grpc_status(self, fields: "Headers | tuple[()]") -> None:
        for name, value in fields:
            if name.lower() == b"grpc-status":
                self._grpc_status = read_status(value)
