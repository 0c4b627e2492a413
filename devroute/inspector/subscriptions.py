"""Reports changes of captures to subscribers, after the current turn of the event loop. Pure."""

from collections.abc import Callable
from typing import Any, Literal

from devroute.inspector.capture import Capture

Event = Literal["open", "head", "data", "message", "done", "cleared"]
#: Called with the event, the capture (None for "cleared") and details: `side` ("request" or "response") and
#: `size` for "data", `message` for "message". "head" is the response's; "done" includes failures.
Callback = Callable[[Event, Capture | None, dict[str, Any]], None]
#: Calls a function after the current turn of the event loop, as loop.call_soon does.
Defer = Callable[[Callable[[], None]], object]


class Subscriptions:
    """The subscribers, and the events that are due for them. Deferring delivers many events at once, and
    keeps errors of subscribers away from requests. False if there are no subscribers."""

    def __init__(self, defer: Defer) -> None:
        self._defer = defer
        self._subscribers: list[Callback] = []
        self._events: list[tuple[Event, Capture | None, dict[str, Any]]] = []

    def __bool__(self) -> bool:
        return bool(self._subscribers)

    def add(self, callback: Callback) -> Callable[[], None]:
        """Returns the function that ends the subscription."""
        self._subscribers.append(callback)

        def unsubscribe() -> None:
            if callback in self._subscribers:
                self._subscribers.remove(callback)

        return unsubscribe

    def notify(self, event: Event, capture: Capture | None, details: dict[str, Any]) -> None:
        if self._subscribers:
            self._events.append((event, capture, details))
            if len(self._events) == 1:
                self._defer(self._deliver)

    def _deliver(self) -> None:
        events, self._events = self._events, []
        for event in events:
            for callback in list(self._subscribers):
                callback(*event)
