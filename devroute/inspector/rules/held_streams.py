"""The streams that hold a request before the app gets it, and a response before the caller gets it.

A held body is buffered up to MAX_HELD_BYTES; then its source is paused, and the body passes unedited. What is
held is the real message: the page gets redacted text (edits.py).
"""

from collections.abc import Mapping
from typing import Any, Final

from devroute.errors import DevrouteError, UpstreamReset
from devroute.http.grpc import timeout_of
from devroute.http.message import Framing, Headers, RequestHead, ResponseHead
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules import edits
from devroute.inspector.rules.breakpoints import MAX_HELD_BYTES, Breakpoints, Held
from devroute.inspector.rules.marking import MarkingSink
from devroute.inspector.rules.masking import Shown, show
from devroute.inspector.rules.responses import RespondUpstream
from devroute.upstream.deferred import DeferredStream
from devroute.upstream.interface import ResponseSink, Upstream, UpstreamStream
from devroute.upstream.made_response import MadeStream
from devroute.upstream.quota import RefusedStream, RefusingUpstream

_NONE: Final = Framing.NONE
_UPGRADE: Final = Framing.UPGRADE
#: Envoy sets it where a route, or a retry, has a timeout: milliseconds until the caller's sidecar gives up.
_TIMEOUT_LINE: Final = b"\r\nx-envoy-expected-rq-timeout-ms:"


def caller_waits(head: RequestHead) -> float | None:
    """Seconds for which the caller waits for a response, as far as the request says so."""
    found = [] if (deadline := timeout_of(head.wire)) is None else [deadline]
    if (at := head.wire.find(_TIMEOUT_LINE)) >= 0:
        value = head.wire[at + len(_TIMEOUT_LINE) :].partition(b"\r")[0].strip()
        if value.isdigit() and 0 < len(value) < 10 and int(value):
            found.append(int(value) / 1000)
    return min(found, default=None)


class Breaking:
    """What both kinds of held message need: the registry, redaction, and the names of rule and service."""

    __slots__ = ("breakpoints", "label", "redact", "service")

    def __init__(self, breakpoints: Breakpoints, redact: Redaction, label: str, service: str) -> None:
        self.breakpoints = breakpoints
        self.redact = redact
        self.label = label
        self.service = service

    def release(self, held: Held, mark: MarkingSink, changed: list[str], why: str) -> None:
        """It waits no more: mark the response with how long it did, what was edited, and what ended it."""
        seconds = self.breakpoints.drop(held)
        text = f"held the {held.side} for {seconds:.1f} s"
        if changed:
            text += f" (edited: {', '.join(changed)})"
        mark.add(f"{text} until {why}" if why else text)

    def summary(self, request: RequestHead, size: int, *, complete: bool) -> dict[str, Any]:
        return {
            "method": request.method.decode("latin-1"),
            "target": self.redact.target(request.target).decode("latin-1"),
            "received": size,
            "complete": complete,
            "caller_waits_s": caller_waits(request),
        }


class HeldRequest(DeferredStream, Held):
    """Holds a request; implements UpstreamStream. `app` gets it afterwards."""

    max_buffered = MAX_HELD_BYTES

    def __init__(self, how: Breaking, app: Upstream, head: RequestHead, sink: MarkingSink) -> None:
        DeferredStream.__init__(self, head, sink)
        Held.__init__(self, "request", how.label, how.service)
        self._how = how
        self._app = app
        self._mark = sink
        how.breakpoints.hold(self)

    # --- from the caller

    def send_data(self, data: bytes) -> None:
        super().send_data(data)
        if self.id:
            self._how.breakpoints.touched()

    def send_end(self, trailers: Headers) -> None:
        super().send_end(trailers)
        if self.id:
            self._how.breakpoints.touched()

    def cancel(self) -> None:
        self._how.breakpoints.drop(self)
        super().cancel()

    # --- from the page

    @property
    def _complete(self) -> bool:
        return self._head.framing in (_NONE, _UPGRADE) or self._trailers is not None

    def summary(self) -> dict[str, Any]:
        return self._how.summary(self._head, self._size, complete=self._complete)

    def detail(self) -> dict[str, Any]:
        head, body = self._head, b"".join(self._buffered)
        shown = show(self._how.redact, head.wire, head.target, body, complete=self._complete)
        return _detail(shown) | {"method": head.method.decode("latin-1"), "target": shown.target}

    def proceed(self, given: Mapping[str, Any], why: str = "") -> None:
        head, body = self._head, b"".join(self._buffered)
        edited = edits.edit_request(self._how.redact, head, body, given, complete=self._complete)
        self._how.release(self, self._mark, edited.changed, why)
        self._head = edited.head
        if edited.body is not None:
            self._buffered = [edited.body] if edited.body else []
            if edited.head.framing is _NONE:
                self._trailers = None
            elif self._trailers is None:
                self._trailers = []
        self.begin(self._app)

    def respond(self, given: Mapping[str, Any]) -> None:
        made = edits.written_response(self._head.method, given)
        self._how.release(self, self._mark, [], "")
        self._mark.add("sent a response that was written by hand")
        self.begin(RespondUpstream(lambda _: made, self.service))

    def abort(self) -> None:
        self._how.release(self, self._mark, [], "")
        self.begin(RefusingUpstream(_aborted(self.label)))


class ResponseBreak:
    """Holds the responses of `app`; implements Upstream."""

    def __init__(self, how: Breaking, app: Upstream) -> None:
        self._how = how
        self._app = app

    def open(self, head: RequestHead, sink: ResponseSink) -> UpstreamStream:
        assert isinstance(sink, MarkingSink)
        held = HeldResponse(self._how, head, sink)
        held.stream = self._app.open(head, held)
        return held


class HeldResponse(Held):
    """One request, and its response, which is held from its head on; implements UpstreamStream and
    ResponseSink. A switch of protocols (101) is not held."""

    def __init__(self, how: Breaking, request: RequestHead, sink: MarkingSink) -> None:
        super().__init__("response", how.label, how.service)
        self._how = how
        self._request = request
        self._sink = sink
        self._head: ResponseHead | None = None
        self._kept: list[bytes] = []
        self._size = 0
        self._end: Headers | DevrouteError | None = None
        self._paused = False  # by the client
        self.stream: UpstreamStream
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request
        self.on_informational = sink.on_informational

    # --- from the caller

    def send_data(self, data: bytes) -> None:
        self.stream.send_data(data)

    def send_end(self, trailers: Headers) -> None:
        self.stream.send_end(trailers)

    def cancel(self) -> None:
        self._how.breakpoints.drop(self)
        self.stream.cancel()

    def pause_response(self) -> None:
        self._paused = True
        self.stream.pause_response()

    def resume_response(self) -> None:
        self._paused = False
        if not self.id or self._size <= MAX_HELD_BYTES:
            self.stream.resume_response()

    # --- from the app

    def on_head(self, head: ResponseHead) -> None:
        obstacle = "it switches protocols" if head.framing is _UPGRADE else self._how.breakpoints.obstacle()
        if obstacle:
            self._sink.note(f"did not hold the response: {obstacle}")
            self._sink.on_head(head)
            return
        self._head = head
        self._how.breakpoints.hold(self)

    def on_data(self, data: bytes) -> None:
        if not self.id:
            self._sink.on_data(data)
            return
        self._kept.append(data)
        self._size += len(data)
        if self._size > MAX_HELD_BYTES:
            self.stream.pause_response()
        self._how.breakpoints.touched()

    def on_end(self, trailers: Headers) -> None:
        if self.id:
            self._end = trailers
            self._how.breakpoints.touched()
        else:
            self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        if self.id:
            self._end = error
            self._how.breakpoints.touched()
        else:
            self._sink.on_error(error)

    # --- from the page

    @property
    def _complete(self) -> bool:
        """Whether no more of it comes: also after an error, when its rest can only be written by hand."""
        return self._end is not None

    def summary(self) -> dict[str, Any]:
        assert self._head is not None
        return self._how.summary(self._request, self._size, complete=self._complete) | {
            "status": self._head.status,
            "broken": self._end.message if isinstance(self._end, DevrouteError) else None,
        }

    def detail(self) -> dict[str, Any]:
        assert self._head is not None
        body = b"".join(self._kept)
        shown = show(self._how.redact, self._head.raw, b"", body, complete=self._complete)
        return _detail(shown) | {"status": self._head.status}

    def proceed(self, given: Mapping[str, Any], why: str = "") -> None:
        head, end = self._head, self._end
        assert head is not None
        trailers = end if isinstance(end, list) else []
        edited = edits.edit_response(
            self._how.redact,
            self._request.method,
            head,
            b"".join(self._kept),
            trailers,
            given,
            complete=self._complete,
        )
        self._how.release(self, self._sink, edited.changed, why)
        kept, self._kept = self._kept, []
        if edited.made is not None:
            self._replace(MadeStream(edited.made, self._sink))
            return
        self._sink.on_head(edited.head)
        for data in kept:
            self._sink.on_data(data)
        if isinstance(end, DevrouteError):
            self._sink.on_error(end)
        elif end is not None:
            self._sink.on_end(end)
        elif self._size > MAX_HELD_BYTES and not self._paused:
            self.stream.resume_response()

    def respond(self, given: Mapping[str, Any]) -> None:
        made = edits.written_response(self._request.method, given)
        self._how.release(self, self._sink, [], "")
        self._sink.add("sent a response that was written by hand")
        self._replace(MadeStream(made, self._sink))

    def abort(self) -> None:
        self._how.release(self, self._sink, [], "")
        self._replace(RefusedStream(self._sink, _aborted(self.label)))

    def _replace(self, stream: UpstreamStream) -> None:
        if self._end is None:
            self.stream.cancel()
        self._kept = []
        self.stream = stream
        if self._paused:
            stream.pause_response()


def _detail(shown: Shown) -> dict[str, Any]:
    """`body` is None where it cannot be edited, for which `note` gives the reason."""
    return {
        "headers": [list(pair) for pair in shown.headers],
        "body": shown.body,
        "note": shown.note,
        "redacted": bool(shown.mask),
    }


def _aborted(label: str) -> UpstreamReset:
    return UpstreamReset(f"ended by hand at a breakpoint (rule '{label}' of the laptop)", hint="")
