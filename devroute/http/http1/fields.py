"""The field lines of an HTTP/1.1 head: read them, decide which end at this hop. Pure.

Never accepts or refuses a head: http/http1/request.py and response.py do.
"""

from typing import Final

from devroute import headers
from devroute.errors import DevrouteError
from devroute.http.message import Span
from devroute.quoting import ONLY_IDENTIFIERS

END_OF_HEAD: Final = b"\r\n\r\n"

#: For a regular expression: a token, as methods and field names are (RFC 9110 §5.6.2).
TOKEN: Final = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

#: RFC 9110 §8.6 sets no limit; 15 digits are exact as a float everywhere, and more than any disk holds.
MAX_LENGTH_DIGITS: Final = 15

# --- read ---------------------------------------------------------------------------------------------------

#: What a parser does with a field: nothing; what its name says; or, for those that are in most heads, one of
#: the others. From VIA to TRACEPARENT, only where the line is spelled as sidecars do it, by `line_start`.
OTHER: Final = 0
BY_NAME: Final = 1
HOST: Final = 2
CONTRACT: Final = 3
MARKER: Final = 4
CACHE: Final = 5
VIA: Final = 6
TRACE: Final = 7
#: From here on, lines are not remembered: they are another one in each message, or secret. SECRET is as
#: BY_NAME, UNIQUE as OTHER.
TRACEPARENT: Final = 8
REQUEST_ID: Final = 9
SECRET: Final = 10
UNIQUE: Final = 11


class Field:
    """What a parser knows of a field line; of one of kind OTHER, nothing more. `name` and `low` are in lower
    case, the values without white space at their ends. `low` of a REQUEST_ID is empty."""

    __slots__ = ("kind", "low", "name", "value")

    def __init__(self, kind: int, name: bytes, value: bytes) -> None:
        self.kind = kind
        self.name = name
        self.value = value
        self.low = b"" if kind == REQUEST_ID else value.lower()


_OTHER: Final = Field(OTHER, b"", b"")
_TRACEPARENT: Final = Field(TRACEPARENT, b"traceparent", b"")

#: Lines are remembered, since most are repeated from head to head: so many and so long ones at most. When
#: there are more, all are forgotten.
MAX_REMEMBERED: Final = 1024
MAX_REMEMBERED_BYTES: Final = 512


def is_identifier(value: bytes) -> bool:
    """Whether these are letters, digits and dashes, at least one: valid in any field of any head."""
    return value.isalnum() or (value != b"" and value.translate(ONLY_IDENTIFIERS) == value)


class FieldReader:
    """Reads field lines. `kinds`: by name, without OTHER."""

    __slots__ = ("_kinds", "known")

    def __init__(self, kinds: dict[bytes, int]) -> None:
        self._kinds = kinds
        self.known: dict[bytes, Field] = {}

    def read_id(self, line: bytes) -> Field | None:
        """A line that is another one in each message, if it is valid whatever the head is: its name in lower
        case, its value of letters, digits and dashes. None for any other line, valid or not."""
        at = line.find(b":")
        if at <= 0:
            return None
        name = line[:at]
        kind = self._kinds.get(name, OTHER)
        if kind < TRACEPARENT:
            return None
        value = line[at + 1 :]
        if kind == TRACEPARENT and value[:1] != b" ":
            return None
        value = value.strip(b" \t")
        if not is_identifier(value):
            return None
        if kind == TRACEPARENT:
            return _TRACEPARENT
        return _OTHER if kind == UNIQUE else Field(kind, name, value)

    def read(self, line: bytes) -> Field:
        """A valid line that is not in `known`."""
        name, _, value = line.partition(b":")
        name = name.lower()
        kind = self._kinds.get(name, OTHER)
        if kind == UNIQUE:
            return _OTHER
        if VIA <= kind <= TRACEPARENT and not line.startswith(name + b": "):
            kind = OTHER
        field = _OTHER if kind == OTHER else Field(kind, name, value.strip(b" \t"))
        if kind < TRACEPARENT and len(line) <= MAX_REMEMBERED_BYTES:
            if len(self.known) >= MAX_REMEMBERED:
                self.known.clear()
            self.known[line] = field
        return field


def values_by_name(fields: list[Field]) -> dict[bytes, bytes]:
    """Values in lower case. A repeated field's are joined by LF, which no value contains."""
    values: dict[bytes, bytes] = {}
    for field in fields:
        name = field.name
        values[name] = b"%b\n%b" % (values[name], field.low) if name in values else field.low
    return values


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


#: By name, what the parsers of request and response do with a field; nothing with all others.
REQUEST_KINDS: Final = {
    **dict.fromkeys((*REQUEST_HOP, b"content-length", b"expect"), BY_NAME),
    b"proxy-authorization": SECRET,
    **dict.fromkeys((b"authorization", b"cookie", headers.AUTHORIZATION.encode()), UNIQUE),
    **dict.fromkeys((b"x-b3-traceid", b"x-b3-spanid", b"b3"), UNIQUE),
    b"host": HOST,
    b"x-request-id": REQUEST_ID,
    headers.CONTRACT.encode(): CONTRACT,
    MATCHED: MARKER,
    headers.VIA.encode(): VIA,
    headers.TRACE.encode(): TRACE,
    headers.TRACEPARENT.encode(): TRACEPARENT,
}
RESPONSE_KINDS: Final = {
    **dict.fromkeys(NO_BODY_HOP, BY_NAME),
    **dict.fromkeys(CACHE_FIELDS, CACHE),
    **dict.fromkeys((b"set-cookie", b"x-request-id"), UNIQUE),
}


def spans_of(lines: list[bytes], names: frozenset[bytes]) -> list[Span]:
    """The spans, in order, of the fields of these names. `lines` are those of a whole head: the first is no
    field, and the last two are empty."""
    spans: list[Span] = []
    at = len(lines[0]) + 2
    for line in lines[1:-2]:
        end = at + len(line) + 2
        if line.partition(b":")[0].lower() in names:
            spans.append((at, end))
        at = end
    return spans


def named_fields(options: list[bytes]) -> list[bytes]:
    """The fields that Connection names (RFC 9110 §7.6.1), without those that stay, or end here anyway."""
    return [each for each in options if each not in _NEVER_DROPPED and not each.startswith(_OUR_PREFIX)]
