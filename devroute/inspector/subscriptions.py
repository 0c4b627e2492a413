"""Reports changes of captures to subscribers, after the current turn of the event loop. Pure."""

from collections.abc import Callable
from typing import Any, Literal

from devroute.inspector.capture import Capture

Event = Literal["open", "head", "data", "message", "rule", "done", "restored", "cleared"]
#: Called with the event, the capture (None for "cleared") and details: `side` ("request" or "response") and
#: `size` for "data", `message` for "message". "head" is the response's; "done" includes failures;
#: "restored": it is of an earlier run.
Callback = Callable[[Event, Capture | None, dict[str, Any]], None]
#: Calls a function after the current turn of the event loop, as loop.call_soon does.
Defer = Callable[[Callable[[], None]], object]


class Subscriptions:
    """The subscribers, and the events that are due for them. Deferring delivers many events at once, and
    keeps errors of subscribers away from requests."""

    def __init__(self, defer: Defer) -> None:
        self.callbacks: list[Callback] = []
        self._defer = defer
        self._events: list[tuple[Event, Capture | None, dict[str, Any]]] = []

    def add(self, callback: Callback) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        self.callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self.callbacks:
                self.callbacks.remove(callback)

        return unsubscribe

    def notify(self, event: Event, capture: Capture | None, details: dict[str, Any]) -> None:
        if self.callbacks:
            self._events.append((event, capture, details))
            if len(self._events) == 1:
                self._defer(self._deliver)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        for event in events:
            for callback in list(self.callbacks):
                callback(*event)
