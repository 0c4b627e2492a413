"""One exchange: a request, its way to an upstream, and the response. Independent of the HTTP version.

Asks the router where the request goes and passes data on in both directions as they arrive. Never buffers a
body, and never lets an incomplete response look complete.
"""

import uuid
from time import monotonic
from typing import Final

from devroute.downstream.context import CompletedExchange, Context
from devroute.errors import ClientClosed, DevrouteError, RequestTimeout, UpstreamInvalid, UpstreamTimeout
from devroute.headers import NO_RETRY
from devroute.http.aio.connection import READ_TURN
from devroute.http.http1.response import without_cache_fields
from devroute.http.message import Headers, InboundRequest, ResponseHead
from devroute.routing.route import FAILOVER, RULE
from devroute.upstream.interface import NO_REQUEST, UpstreamStream

#: Interim responses (1xx) to one request; uploads that report their progress send some (104). They have no
#: flow control, so without a limit they could fill memory.
MAX_INTERIM: Final = 100


#: A gRPC response that is its status alone ("Trailers-Only") has it in its head; HTTP/2 has lower case.
_GRPC_STATUS: Final = b"\r\ngrpc-status:"
#: On responses that callers might ask for again: the laptop has seen the request.
_NO_RETRY: Final = f"{NO_RETRY}: true\r\n".encode("ascii")


class Exchange(CompletedExchange):
    """One request and its response; implements ResponseSink.

    Subclasses write the response to the client's connection: they implement the methods from `send_interim`
    to `resume_request`.
    """

    __slots__ = ("_active", "_context", "_head_sent", "_interim", "_stream", "completed")

    def __init__(self, context: Context, request: InboundRequest) -> None:
        super().__init__(request, monotonic())
        self._context = context
        self.completed = False
        self._stream: UpstreamStream = NO_REQUEST
        self._active = context.now  # when data last passed in either direction
        self._head_sent = False
        self._interim = 0

    def start(self) -> None:
        sampler = self._context.sampler
        if sampler is not None:
            self.spans = sampler.sample(self.request)
        try:
            route = self._context.router(self.request)
        except DevrouteError as error:
            self.on_error(error)
            return
        self.route = route
        self.opened = monotonic()
        head = self.request.forward()
        if sampler is not None and self.spans is not None:
            sampler.pass_on(self.spans, head, route)
        self._stream = route.upstream.open(head, self)

    def elapsed(self) -> float:
        """Seconds since the request's head was complete."""
        return monotonic() - self.started

    # --- the client's connection, which subclasses write to

    def send_interim(self, head: ResponseHead) -> None:
        raise NotImplementedError

    def send_head(self, head: ResponseHead, response_headers: bytes) -> None:
        """`response_headers` are whole lines to be added."""
        raise NotImplementedError

    def send_data(self, data: bytes) -> None:
        raise NotImplementedError

    def send_end(self, trailers: Headers) -> None:
        raise NotImplementedError

    def send_error(self, error: DevrouteError, request_id: str) -> int:
        """Send a whole response; returns the size of its body."""
        raise NotImplementedError

    def abort_response(self) -> None:
        """Let the client see that the response, whose head was sent, is not complete."""
        raise NotImplementedError

    def finish(self) -> None:
        """The whole response was sent: the connection may serve another request."""
        raise NotImplementedError

    def pause_request(self) -> None:
        raise NotImplementedError

    def resume_request(self) -> None:
        raise NotImplementedError

    # --- from the client

    def receive_data(self, data: bytes) -> None:
        self._active = self._context.now
        self.bytes_in += len(data)
        self._stream.send_data(data)

    def receive_end(self, trailers: Headers) -> None:
        self._active = self._context.now
        self._stream.send_end(trailers)

    def pause_response(self) -> None:
        self._stream.pause_response()

    def resume_response(self) -> None:
        self._stream.resume_response()

    def client_gone(self, reason: str) -> None:
        if not self.completed:
            self._stream.cancel()
            self.error = ClientClosed(reason)
            self._complete()

    def fail(self, error: DevrouteError) -> None:
        """Cancel the request at the upstream, and report the error to the client."""
        self._stream.cancel()
        self.on_error(error)

    # --- from the upstream

    def on_informational(self, head: ResponseHead) -> None:
        self._interim += 1
        if self._interim > MAX_INTERIM:
            self.fail(UpstreamInvalid(f"more than {MAX_INTERIM} interim responses (1xx)"))
        else:
            self.send_interim(head)

    def on_head(self, head: ResponseHead) -> None:
        self._active = self._context.now
        self.status = head.status
        self._head_sent = True
        route = self.route
        assert route is not None
        if head.outcome is not None:
            result, reason = head.outcome
            code = FAILOVER if result == "service" else route.reason_code
            self.route = route = route.with_outcome(result, reason, code)
        if head.by_rule:
            reason = f"{route.reason}, where {head.by_rule}"
            self.route = route = route.with_outcome(route.result, reason, RULE)
        if route.no_store:
            head = without_cache_fields(head)
        lines = route.response_headers
        # Without any, no sidecar has sent the request.
        if lines and (head.status >= 400 or head.raw.find(_GRPC_STATUS) >= 0):
            lines += _NO_RETRY
        self.send_head(head, lines)

    def on_data(self, data: bytes) -> None:
        self._active = self._context.now
        self.bytes_out += len(data)
        self.send_data(data)

    def on_end(self, trailers: Headers) -> None:
        self.send_end(trailers)
        self._complete()
        self.finish()

    def on_error(self, error: DevrouteError) -> None:
        error.forget_origin()
        self.error = error
        route = self.route
        if route is not None:
            error.at(route.service, route.target)
        if self._head_sent:
            self._complete()
            self.abort_response()
            return
        self.status = error.status
        if not self.request_id:
            self.request_id = str(uuid.uuid4()).encode()
        self.bytes_out = self.send_error(error, self.request_id.decode("latin-1"))
        self._complete()
        self.finish()

    def _complete(self) -> None:
        """Report the exchange, once, when what was written is flushed."""
        self._stream = NO_REQUEST  # breaks the reference cycle, which would wait for the garbage collector
        if not self.completed:
            self.completed = True
            self.ended = monotonic()
            READ_TURN.after_flush(self._observe)

    def _observe(self) -> None:
        self.finished = monotonic()
        self._context.observe(self)

    # --- timeouts

    def check(self, now: float, *, body_late: bool) -> None:
        """Enforce the timeouts; `body_late`: the rest of the request's body is overdue."""
        timeouts = self._context.timeouts
        waited = now - self._active
        if body_late:
            self.fail(RequestTimeout(f"the request's body made no progress for {timeouts.body:g} s"))
        elif not self._head_sent and waited > timeouts.first_byte:
            self.fail(self._no_response(f"within {timeouts.first_byte:g} s"))
        elif self._head_sent and waited > timeouts.idle:
            self.fail(UpstreamTimeout(f"no data in either direction for {timeouts.idle:g} s"))
        elif self.elapsed() > timeouts.total:
            self.fail(UpstreamTimeout(f"the request was not complete after {timeouts.total:g} s"))

    def _no_response(self, when: str) -> UpstreamTimeout:
        target = "the target" if self.route is None else self.route.target
        return UpstreamTimeout(f"{target} did not respond {when}")
