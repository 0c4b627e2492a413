"""HTTP/1.1 response heads: parsed strictly, framing decided (RFC 9112). Pure.

Regular expressions check the lines: llhttp would need a new parser for each response that has a body, at
three times the price. Bodies are read by http/http1/body.py.
"""

import re
from typing import Final

from devroute.errors import UpstreamInvalid
from devroute.http.http1.fields import (
    BY_NAME,
    CACHE,
    NO_BODY_HOP,
    RESPONSE_HOP,
    RESPONSE_KINDS,
    SWITCHING_HOP,
    TOKEN,
    Field,
    FieldReader,
    known_fault,
    list_members,
    named_fields,
    parse_content_length,
    spans_of,
    values_by_name,
)
from devroute.http.message import MAX_FIELD_LINES, NO_LIMIT, Framing, ResponseHead, Span

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
#: RFC 9112 §5, RFC 9110 §5.5.
_FIELD_LINE: Final = re.compile(TOKEN + rb":[\t -~\x80-\xff]*")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,\s])timeout=([0-9]{1,9})(?![0-9])")

#: Every line that it knows has passed _FIELD_LINE.
_reader: Final = FieldReader(RESPONSE_KINDS)

# Looking up an enum's member costs as much as a call in Python 3.11, and these are needed for each message.
_NONE: Final = Framing.NONE
_LENGTH: Final = Framing.LENGTH
_CHUNKED: Final = Framing.CHUNKED
_CLOSE: Final = Framing.CLOSE
_UPGRADE: Final = Framing.UPGRADE


def parse_response_head(raw: bytes, request_method: bytes) -> ResponseHead:
    """Check a response's head and decide its framing (RFC 9112 §6.3).

    `raw` ends with CRLF CRLF. Raises UpstreamInvalid.

    Longer than 40 lines: what decides the framing stands in one place.
    """
    lines = raw.split(b"\r\n")
    parsed = _status_lines.get(lines[0])
    if parsed is None:
        parsed = _parse_status_line(lines[0])
    minor, status, reason = parsed
    if (count := len(lines) - 3) > MAX_FIELD_LINES:
        raise UpstreamInvalid(f"the response has {count} field lines; at most {MAX_FIELD_LINES} are accepted")
    hop = RESPONSE_HOP
    if status < 200:
        hop = SWITCHING_HOP if status == 101 else NO_BODY_HOP
    elif status == 204:
        hop = NO_BODY_HOP
    by_name: list[Field] = []
    drop: list[Span] = []
    cached: list[Span] = []
    known = _reader.known
    at = len(lines[0]) + 2
    for index in range(1, len(lines) - 2):
        line = lines[index]
        end = at + len(line) + 2
        field = known.get(line)
        if field is None:
            if _FIELD_LINE.fullmatch(line) is None:
                raise _malformed(raw, index)
            field = _reader.read(line)
        if field.kind == BY_NAME:
            by_name.append(field)
            if field.name in hop:
                drop.append((at, end))
        elif field.kind == CACHE:
            cached.append((at, end))
        at = end
    fields = values_by_name(by_name)
    get = fields.get
    given = get(b"content-length")
    length = -1 if given is None else parse_content_length(given, UpstreamInvalid)
    if (coding := get(b"transfer-encoding")) is not None:
        _check_coding(coding, length, minor)
    keep_alive = minor == 1
    if (connection := get(b"connection")) is not None:
        options = list_members(connection)
        keep_alive = b"close" not in options and (keep_alive or b"keep-alive" in options)
        if named := named_fields(options):
            drop = spans_of(lines, hop.union(named))
    if status == 204 and (coding is not None or length > 0):
        keep_alive = False  # the body that it announced may follow
    framing = _framing(status, request_method, coding is not None, length)
    head = ResponseHead(status, reason, framing, length if framing is _LENGTH else 0, keep_alive, raw, drop)
    head.cached = cached
    if (promise := get(b"keep-alive")) is not None:
        head.idle_limit = _idle_limit(promise)
    return head


def _idle_limit(value: bytes) -> float:
    """The seconds of `keep-alive: timeout=5` (RFC 2068 §19.7.1.1), which Node and Apache send."""
    found = _KEEP_ALIVE_TIMEOUT.search(value)
    return NO_LIMIT if found is None else float(found[1])


def without_cache_fields(head: ResponseHead) -> ResponseHead:
    """The head for a client whose caches may not keep the response. It is made once, as apps repeat heads."""
    if not head.cached:
        return head
    made = head.not_stored
    if made is None:
        made = head.not_stored = head.dropping(head.cached)
    made.repeated = head.repeated
    return made


#: Status lines that were parsed: apps send a handful. Cleared when full, so that no app can fill memory.
_status_lines: Final[dict[bytes, tuple[int, int, bytes]]] = {}
_MAX_STATUS_LINES: Final = 512
_MAX_KNOWN_LINE: Final = 64


def _parse_status_line(line: bytes) -> tuple[int, int, bytes]:
    """Minor version, status and reason phrase. Raises UpstreamInvalid."""
    match = _STATUS_LINE.fullmatch(line)
    if match is None:
        raise UpstreamInvalid("the response does not start with an HTTP/1.1 status line")
    parsed = (int(match[1]), int(match[2]), match[3] or b"")
    if len(line) <= _MAX_KNOWN_LINE:
        if len(_status_lines) >= _MAX_STATUS_LINES:
            _status_lines.clear()
        _status_lines[line] = parsed
    return parsed


def _malformed(raw: bytes, number: int) -> UpstreamInvalid:
    problem, hint = known_fault(raw)
    problem = problem or f"field line {number} is not 'name: value'"
    return UpstreamInvalid(f"the response's head is not valid HTTP/1.1: {problem}", hint=hint)


def _check_coding(coding: bytes, length: int, minor: int) -> None:
    if coding.strip(b" \t") != b"chunked":
        raise UpstreamInvalid("the response has a transfer coding other than one 'chunked'")
    if length >= 0 or minor == 0:
        raise UpstreamInvalid("the response has transfer-encoding with content-length, or in HTTP/1.0")


def _framing(status: int, request_method: bytes, chunked: bool, length: int) -> Framing:
    """RFC 9112 §6.3. `length` is -1 without a content-length."""
    if status == 101:
        return _UPGRADE
    if request_method == b"HEAD" or status == 204 or status == 304 or status < 200:
        return _NONE
    if chunked:
        return _CHUNKED
    if length > 0:
        return _LENGTH
    return _NONE if length == 0 else _CLOSE


#: Larger heads are not remembered: they are rare, and differ.
MAX_REMEMBERED_BYTES: Final = 2048


class ResponseHeadParser:
    """Parses the response heads of one app. Under load an app repeats the same head until the second in its
    date changes, so the last head is remembered with what was parsed from it."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last: ResponseHead | None = None

    def parse(self, raw: bytes, request_method: bytes) -> ResponseHead:
        """As parse_response_head. The result may be shared with another exchange: never change it."""
        last = self._last
        if last is not None and last.raw == raw and request_method != b"HEAD":
            last.repeated = True
            return last
        head = parse_response_head(raw, request_method)
        if len(raw) <= MAX_REMEMBERED_BYTES and request_method != b"HEAD":
            self._last = head
        return head
