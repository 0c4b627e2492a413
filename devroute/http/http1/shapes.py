"""Cache of parsed request heads: the fields of heads that differ in ids alone, as those of one caller's
requests mostly do, are parsed once. Pure. Compiled (setup.py).

Never holds the value of an id: it may be a secret.
"""

from typing import Final

from devroute.http.http1.fields import is_identifier
from devroute.http.message import Framing, InboundRequest, Span

#: Shapes that are remembered, one of each length, and the bytes of one. When there are more, all are
#: forgotten.
MAX_SHAPES: Final = 64
MAX_SHAPE_BYTES: Final = 4096

_NONE: Final = Framing.NONE


class Shape:
    """The field lines of a head, up to its end, with gaps for the values of ids. They have no part in
    framing. `pieces`: what is around the gaps; `stops`: where each gap ends. `drop`, as of InboundRequest,
    counts from the first field on. No list here is ever changed."""

    __slots__ = (
        "_pieces", "_request_id", "_stops", "contract", "count", "drop", "matched", "trace", "traceparent",
        "via",
    )  # fmt: skip

    def __init__(self, request: InboundRequest, fields: bytes, ids: list[Span], request_id: int) -> None:
        """`ids`: the spans of the values in `fields`; `request_id`: which of them is the request's id, -1 if
        none is."""
        start = len(request.raw) - len(fields)
        self._pieces: list[bytes] = []
        self._stops: list[int] = []
        self._request_id = request_id
        at = 0
        for first, stop in ids:
            self._pieces.append(fields[at:first])
            self._stops.append(stop)
            at = stop
        self._pieces.append(fields[at:])
        self.count = fields.count(b"\r\n") - 1
        self.drop = [(first - start, last - start) for first, last in request.drop]
        self.contract = request.contract
        self.matched = request.matched
        self.via = request.via
        self.trace = request.trace
        self.traceparent = request.traceparent

    def request_id(self, fields: bytes) -> bytes | None:
        """The request's id in these fields, empty if they have none; None if they are not of this shape."""
        pieces, stops = self._pieces, self._stops
        request_id = b""
        at = 0
        for index in range(len(stops)):
            piece = pieces[index]
            stop = at + len(piece)
            if fields[at:stop] != piece:
                return None
            at = stops[index]
            value = fields[stop:at]
            if not is_identifier(value):
                return None
            if index == self._request_id:
                request_id = value
        return request_id if fields[at:] == pieces[-1] else None

    def request(
        self, method: bytes, target: bytes, line: bytes, raw: bytes, request_id: bytes
    ) -> InboundRequest:
        """The one with this head, whose fields are of this shape; `line`: its first, with CRLF."""
        start = len(line)
        drop: list[Span] = []
        for first, last in self.drop:
            drop.append((first + start, last + start))
        request = InboundRequest(
            method,
            target,
            1,
            _NONE,
            0,
            True,
            False,
            b"",
            False,
            request_id,
            self.contract,
            self.matched,
            line,
            raw,
            drop,
        )
        request.via, request.trace, request.traceparent = self.via, self.trace, self.traceparent
        return request


class Shapes:
    """`by_length`: that of the fields."""

    __slots__ = ("by_length",)

    def __init__(self) -> None:
        self.by_length: dict[int, Shape] = {}

    def remember(self, request: InboundRequest, start: int, id_lines: list[Span], request_id: int) -> None:
        """`start`: where in its head the fields begin; `id_lines`: the lines whose values are ids."""
        raw = request.raw
        if len(raw) - start > MAX_SHAPE_BYTES:
            return
        ids: list[Span] = []
        for first, last in id_lines:
            line = raw[first : last - 2]
            value = line[line.index(b":") + 1 :]
            stop = last - 2 - (len(value) - len(value.rstrip(b" \t")))
            ids.append((stop - len(value.strip(b" \t")) - start, stop - start))
        if len(self.by_length) >= MAX_SHAPES:
            self.by_length.clear()
        self.by_length[len(raw) - start] = Shape(request, raw[start:], ids, request_id)
