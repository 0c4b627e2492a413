"""Finds text in what was captured: paths, headers, messages and bodies, without regard to case. Pure.

It is a generator that stops after each exchange, so that whoever runs it decides how long the loop may wait.
"""

from collections.abc import Iterable, Iterator

from devroute.inspector.capture import Capture


def search(exchanges: Iterable[Capture], text: str) -> Iterator[tuple[int, str] | None]:
    """For each exchange its id and where the text is, or None where it is not."""
    wanted = text.lower()
    as_bytes = wanted.encode("utf-8", "surrogateescape")
    for exchange in exchanges:
        place = _place(exchange, wanted, as_bytes)
        yield None if place is None else (exchange.id, place)


def _place(exchange: Capture, wanted: str, as_bytes: bytes) -> str | None:
    if wanted in exchange.target.lower() or wanted in exchange.service.lower():
        return "path"
    if as_bytes in exchange.raw_request.lower():
        return "request headers"
    if as_bytes in exchange.raw_response.lower():
        return "response headers"
    if as_bytes in exchange.request_body.data.lower():
        return "request body"
    if as_bytes in exchange.response_body.data.lower():
        return "response body"
    if any(as_bytes in message.data.lower() for message in exchange.messages):
        return "messages"
    return None
