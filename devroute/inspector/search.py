"""Finds text in what was captured: paths, headers, messages and bodies, without regard to case. Pure.

It is a generator that stops after each exchange, so that whoever runs it decides how long the loop may wait.
"""

from collections.abc import Iterable, Iterator

from devroute.inspector.capture import Capture


def search(captures: Iterable[Capture], text: str) -> Iterator[tuple[int, str] | None]:
    """For each exchange its id and where the text is, or None where it is not."""
    wanted = text.lower()
    as_bytes = wanted.encode("utf-8", "surrogateescape")
    for capture in captures:
        place = _place(capture, wanted, as_bytes)
        yield None if place is None else (capture.id, place)


def _place(capture: Capture, wanted: str, as_bytes: bytes) -> str | None:
    if wanted in capture.target.lower() or wanted in capture.service.lower():
        return "path"
    if as_bytes in capture.request_head.raw.lower():
        return "request headers"
    if as_bytes in capture.response_head.raw.lower():
        return "response headers"
    if as_bytes in capture.request_body.data.lower():
        return "request body"
    if as_bytes in capture.response_body.data.lower():
        return "response body"
    if any(as_bytes in message.data.lower() for message in capture.messages):
        return "messages"
    return None
