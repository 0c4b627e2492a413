"""Searches captures for a text: paths, headers, messages and bodies, ignoring case. Pure."""

from collections.abc import Iterable, Iterator

from devroute.inspector.capture import Capture


def search(captures: Iterable[Capture], text: str) -> Iterator[tuple[int, str] | None]:
    """For each capture its id and where the text was found, or None. A generator, so that the caller can let
    the event loop run in between."""
    wanted = text.lower()
    as_bytes = wanted.encode("utf-8", "surrogateescape")
    for capture in captures:
        place = _place(capture, wanted, as_bytes)
        yield None if place is None else (capture.id, place)


def _place(capture: Capture, wanted: str, as_bytes: bytes) -> str | None:
    if wanted in capture.target.lower() or wanted in capture.service.lower():
        return "path"
    places: tuple[tuple[str, bytes | bytearray], ...] = (
        ("request headers", capture.request_head.raw),
        ("response headers", capture.response_head.raw),
        ("request body", capture.request_body.data),
        ("response body", capture.response_body.data),
        *(("messages", message.data) for message in capture.messages),
    )
    return next((place for place, data in places if as_bytes in data.lower()), None)
