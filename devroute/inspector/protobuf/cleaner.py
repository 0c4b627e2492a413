"""Redacts the recorded messages of a gRPC call. It happens before anything of them leaves the store: when a
capture is looked at, exported or written to the history, since that is when its schema is asked for.
"""

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from devroute.inspector.capture import Body, Capture, Message
from devroute.inspector.masks import Masks
from devroute.inspector.patterns import might_have_patterns, overwritten
from devroute.inspector.protobuf import frames, wire
from devroute.inspector.protobuf.catalogue import Found
from devroute.inspector.protobuf.frames import Payload

if TYPE_CHECKING:  # it needs the library `protobuf`
    from devroute.inspector.protobuf.redactor import Redactor

#: Bytes of a compressed message after its compression is removed.
MAX_BYTES: Final = 4 * 1024 * 1024

_NOTE: Final = "stored without messages that could not be searched for fields to redact"


@dataclass(slots=True)
class _Part:
    """The stored bytes of one direction that are not checked yet, and what becomes of the first `consumed` of
    them. `lost`: some could not be searched."""

    body: Body
    from_client: bool
    encoding: str
    data: bytes
    clean: bytes = b""
    consumed: int = 0
    lost: bool = False


def is_clean(capture: Capture) -> bool:
    """Whether all that is recorded has been redacted."""
    bodies = (capture.request_body, capture.response_body)
    return capture.messages_checked == capture.messages_dropped + len(capture.messages) and all(
        each.checked == len(each.data) for each in bodies
    )


async def clean(capture: Capture, found: Found, masks: Masks) -> int:
    """Redact what has been recorded since the last time; returns by how many bytes the capture has grown.

    In a thread, because messages may be large; a call that is open grows meanwhile, and only by its end.
    """
    if found.method is not None and not capture.schema_known:
        capture.schema_known = True
        capture.messages_checked = capture.request_body.checked = capture.response_body.checked = 0
    parts = [_part(capture, from_client=side) for side in (True, False)]
    start = max(0, (capture.messages_checked or 0) - capture.messages_dropped)
    messages = capture.messages[start:]
    total = capture.messages_dropped + len(capture.messages)
    if not messages and not any(each.data for each in parts):
        return 0
    payloads = [_payload(capture, each) for each in messages]
    cleaned = await asyncio.to_thread(_clean, parts, payloads, found, masks, ended=capture.state != "open")
    grown = 0
    for part in parts:
        body, checked = part.body, part.body.checked or 0
        body.data[checked : checked + part.consumed] = part.clean
        body.checked = checked + len(part.clean)
        if part.lost:
            body.note = body.note or _NOTE
        grown += len(part.clean) - part.consumed
    for message, before, (after, redacted) in zip(messages, payloads, cleaned, strict=True):
        if after is not before:
            grown += len(after.data) - len(message.data)
            message.data, message.compressed = after.data, bool(after.encoding)
            message.size = message.size if before.problem else len(after.data)
            message.redacted = redacted
    capture.messages_checked = total
    return grown


def _part(capture: Capture, *, from_client: bool) -> _Part:
    body = capture.request_body if from_client else capture.response_body
    encoding = frames.encoding_of(capture, from_client=from_client)
    return _Part(body, from_client, encoding, bytes(body.data[body.checked or 0 :]))


def _payload(capture: Capture, message: Message) -> Payload:
    side = message.from_client
    encoding = frames.encoding_of(capture, from_client=side) if message.compressed else ""
    return Payload(side, message.data, encoding, "cut" if len(message.data) < message.size else "")


def _clean(
    parts: list[_Part], messages: list[Payload], found: Found, masks: Masks, *, ended: bool
) -> list[tuple[Payload, tuple[str, ...]]]:
    """Clean the parts, and return the clean messages, each with the places of values that were removed."""
    cleaner = _Cleaner(found, masks)
    for part in parts:
        cleaner.part(part, ended=ended)
    return [cleaner.message(each) for each in messages]


class _Cleaner:
    def __init__(self, found: Found, masks: Masks) -> None:
        self._method = found.method
        self._redactor: Redactor | None = None
        if found.method is not None and found.schema is not None:
            from devroute.inspector.protobuf import redactor

            self._redactor = redactor.Redactor(found.schema, masks)

    def part(self, part: _Part, *, ended: bool) -> None:
        """Clean the complete messages. A cut one at the end of a call that has ended goes, unless its
        type has no secrets."""
        clean: list[bytes] = []
        for compressed, data in frames.split(part.data):
            before = Payload(part.from_client, data, part.encoding if compressed else "")
            payload, _ = self.message(before)
            part.lost = part.lost or bool(payload.problem)
            end = part.consumed + frames.PREFIX_BYTES + len(data)
            clean.append(
                part.data[part.consumed : end]
                if payload is before
                else frames.frame(payload.data, compressed=bool(payload.encoding))
            )
            part.consumed = end
        rest = part.data[part.consumed :]
        if rest and ended:
            part.consumed = len(part.data)
            part.lost = part.lost or self._may_hold_secrets(part.from_client)
            clean.append(b"" if self._may_hold_secrets(part.from_client) else _overwritten(rest))
        part.clean = b"".join(clean)

    def message(self, payload: Payload) -> tuple[Payload, tuple[str, ...]]:
        """The same object if there is nothing to redact; `problem` if it cannot be searched, and is empty."""
        side = payload.from_client
        plain = payload.plain(MAX_BYTES)
        redacted: tuple[str, ...] = ()
        if plain.problem:
            if self._may_hold_secrets(side):
                return Payload(side, b"", problem=_NOTE), ()
            data = _overwritten(payload.data)
            return (payload if data == payload.data else payload._replace(data=data)), ()
        found: bytes | None = None
        if self._redactor is not None and self._method is not None:
            from devroute.inspector.protobuf.printer import MessageTooLarge

            try:
                kind = self._method.request if side else self._method.response
                found, redacted = self._redactor.message(kind, plain.data)
            except (MessageTooLarge, RecursionError):
                return Payload(side, b"", problem=_NOTE), ()
        data = _overwritten(plain.data) if found is None else found
        return (payload if data == plain.data else Payload(side, data)), redacted

    def _may_hold_secrets(self, from_client: bool) -> bool:
        if self._redactor is None or self._method is None:
            return False
        return self._redactor.may_hold_secrets(self._method.request if from_client else self._method.response)


def _overwritten(data: bytes) -> bytes:
    """A message without a schema: with secrets that have a form of their own overwritten in its texts."""
    if not might_have_patterns(data):
        return data
    clean = bytearray(data)
    for start, end in wire.texts(data):
        clean[start:end] = overwritten(bytes(clean[start:end]))
    return bytes(clean)
