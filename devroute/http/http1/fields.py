"""The field lines of an HTTP/1.1 head: find them, read them, decide which end at this hop. Pure.

Never accepts or refuses a head as a whole: http/http1/request.py and response.py do. Fields are searched by
name, since a head has a dozen lines and a gateway acts on one or two.
"""

import re
from typing import Final

from devroute import headers
from devroute.errors import DevrouteError
from devroute.http.message import Span

END_OF_HEAD: Final = b"\r\n\r\n"

#: RFC 9110 §8.6 sets no limit; 15 digits are exact as a float everywhere, and more than any disk holds.
MAX_LENGTH_DIGITS: Final = 15

# --- find ---------------------------------------------------------------------------------------------------


def _pattern(*names: str) -> re.Pattern[bytes]:
    """Matches (name, value) of these fields in a lower-case head."""
    return re.compile(rb"\n(%b):[ \t]*([^\r]*)" % "|".join(map(re.escape, names)).encode())


#: Every request field that decides the framing or ends at this hop. An ordinary GET has none of them.
REQUEST_FIELDS = _pattern(
    *("content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection"),
    *("proxy-authorization", "te", "upgrade", "expect"),
    *(headers.FAILOVER, headers.HOST, headers.SUBJECT),
)
RESPONSE_FIELDS = _pattern(
    *("content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "upgrade"),
    *(headers.RESULT, headers.REASON, headers.RULE, headers.UNSENT),
)

_NO_FIELDS: Final[dict[bytes, bytes]] = {}


def find_fields(pattern: re.Pattern[bytes], low: bytes) -> dict[bytes, bytes]:
    """Values by name, in lower case. A repeated field's values are joined by LF, which no value contains."""
    found: list[tuple[bytes, bytes]] = pattern.findall(low)
    if not found:
        return _NO_FIELDS
    fields = dict(found)
    if len(fields) < len(found):
        fields = {}
        for name, value in found:
            fields[name] = b"%b\n%b" % (fields[name], value) if name in fields else value
    return fields


def field_values(raw: bytes, low: bytes, needle: bytes) -> list[bytes]:
    """The value of each line of a field. `needle` is LF, the field's name in lower case, and a colon."""
    values: list[bytes] = []
    find = low.find  # bound once: looking a method up costs half as much as the search
    at = find(needle)
    while at >= 0:
        first = at + len(needle)
        last = find(b"\r", first)
        values.append(value_at(raw, first, last))
        at = find(needle, last)
    return values


# --- read ---------------------------------------------------------------------------------------------------

_SPACE: Final = 0x20
_TAB: Final = 0x09


def value_at(raw: bytes, first: int, last: int) -> bytes:
    """The value between two offsets, without white space at its ends."""
    if first < last and raw[first] == _SPACE:
        first += 1
    value = raw[first:last]
    if value and (value[0] == _SPACE or value[0] == _TAB or value[-1] == _SPACE or value[-1] == _TAB):
        value = value.strip(b" \t")
    return value


def parse_content_length(value: bytes, error: type[DevrouteError]) -> int:
    """Raises `error` for anything but one plain decimal number (RFC 9110 §8.6)."""
    value = value.strip(b" \t")
    if not value.isdigit() or len(value) > MAX_LENGTH_DIGITS:
        raise error("content-length is not a plain decimal number", hint="RFC 9110 §8.6")
    return int(value)


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, in lower case (RFC 9110 §5.6.1)."""
    if value == b"keep-alive" or value == b"close":
        return [value]
    return [member.strip(b" \t") for member in value.lower().replace(b"\n", b",").split(b",")]


def known_fault(raw: bytes) -> tuple[str, str]:
    """(problem, hint) for common faults of field lines; ("", "") for any other."""
    if b"\r\n " in raw or b"\r\n\t" in raw:
        return "a folded field line (obs-fold)", "RFC 9112 §5.2: write it on one line"
    if raw.count(b"\n") != raw.count(b"\r\n") or raw.count(b"\r") != raw.count(b"\r\n"):
        return "a bare CR or LF in the head", "RFC 9112 §2.2: lines end with CR LF"
    return "", ""


# --- fields that end at this hop ----------------------------------------------------------------------------

#: Each field line, by its name.
_LINES = re.compile(rb"(?<=\n)([^:\r\n]+):[^\n]*\n")

#: Fields that end at this hop, whatever Connection says (RFC 9110 §7.6.1). MATCHED, which the sidecar wrote
#: for this proxy, ends here too, and so do those that sidecars and services believe of this proxy alone:
#: written for a failover or for what a laptop reaches, never passed on.
REQUEST_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"proxy-authorization", b"te", b"transfer-encoding",
    b"upgrade", headers.FAILOVER.encode(), headers.HOST.encode(), headers.SUBJECT.encode(),
))  # fmt: skip
MATCHED: Final = headers.MATCHED.encode()
RESPONSE_HOP: Final = frozenset((
    b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade",
    headers.RESULT.encode(), headers.REASON.encode(), headers.RULE.encode(), headers.UNSENT.encode(),
))  # fmt: skip
NO_BODY_HOP: Final = RESPONSE_HOP | {b"content-length"}  # RFC 9110 §8.6: 1xx and 204 have none
SWITCHING_HOP: Final = NO_BODY_HOP - {b"upgrade"}
#: What permits a cache to keep a response: for all caches (RFC 9111), for those of CDNs (RFC 9213), and for
#: some products'.
CACHE_FIELDS: Final = (
    *(b"cache-control", b"expires", b"cdn-cache-control", b"surrogate-control", b"x-accel-expires"),
)

#: Connection options that remove no field: without these fields the message would mean something else, or
#: they end here anyway. Nor does an option that starts as devroute's own headers: x-devroute-via guards
#: against loops.
_NEVER_DROPPED: Final = frozenset(
    (b"host", b"content-length", b"x-request-id", b"te", b"close", b"upgrade", b"keep-alive")
)
_OUR_PREFIX: Final = headers.PREFIX.encode()

#: How the lines start of the fields that are searched for in each head.
_NEEDLES: Final = {name: b"\n%b:" % name for name in {*REQUEST_HOP, *NO_BODY_HOP, *CACHE_FIELDS, MATCHED}}


def field_spans(low: bytes, name: bytes) -> list[Span]:
    """The spans of a field's lines, for a field that ends at this hop. `low` is the head in lower case."""
    needle = _NEEDLES[name]
    spans: list[Span] = []
    find = low.find
    at = find(needle)
    while at >= 0:
        end = find(b"\n", at + 1)
        spans.append((at + 1, end + 1))
        at = find(needle, end)
    return spans


def hop_by_hop_spans(low: bytes, names: frozenset[bytes], options: list[bytes]) -> list[Span]:
    """The spans, in order, of the fields `names` and of those that Connection names (RFC 9110 §7.6.1)."""
    named = [each for each in options if each not in _NEVER_DROPPED and not each.startswith(_OUR_PREFIX)]
    if named:  # a head has room for thousands of options, so it is not searched once for each
        names = names.union(named)
        return [line.span() for line in _LINES.finditer(low) if line[1] in names]
    spans: list[Span] = []
    for name in names:
        spans += field_spans(low, name)
    if len(spans) > 1:
        spans.sort()
    return spans
