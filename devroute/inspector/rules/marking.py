"""Reports what a rule did: on the response's head, and to a recorder on the way."""

from contextlib import suppress
from typing import Protocol, runtime_checkable

from devroute.errors import DevrouteError, UpstreamInvalid
from devroute.http.message import Headers, ResponseHead
from devroute.inspector.rules.responses import marked
from devroute.upstream.interface import ResponseSink


@runtime_checkable
class RuleObserver(Protocol):
    """A sink that wants to know what a rule does with its request."""

    def on_rule(self, text: str) -> None: ...


class MarkingSink:
    """Passes a response on, its head marked with all that `add` was called with before."""

    def __init__(self, sink: ResponseSink, method: bytes, label: str) -> None:
        self._sink = sink
        self._observer = sink if isinstance(sink, RuleObserver) else None
        self._method = method
        self._label = label
        self._done: list[str] = []
        self.on_informational = sink.on_informational
        self.on_data = sink.on_data
        self.pause_request = sink.pause_request
        self.resume_request = sink.resume_request

    def add(self, text: str) -> None:
        """The rule has done this, as what follows its name in a sentence: "delayed it by 3 s"."""
        self._done.append(text)
        self.note(text)

    def note(self, text: str) -> None:
        """For the recorder only: it changed nothing for the caller."""
        if self._observer is not None:
            self._observer.on_rule(f"rule '{self._label}' {text}")

    def on_head(self, head: ResponseHead) -> None:
        if self._done:
            with suppress(UpstreamInvalid):  # a head that is as long as one may be has no room for the mark
                head = marked(head, self._method, f"rule '{self._label}' {' and '.join(self._done)}")
        self._sink.on_head(head)

    def on_end(self, trailers: Headers) -> None:
        self._sink.on_end(trailers)

    def on_error(self, error: DevrouteError) -> None:
        self._sink.on_error(error)
