"""W3C baggage: one member read, or set. Pure. The twin of lua/parts/baggage.lua, with the same vectors.

Members are separated by commas; a member is a key, "=", a value, and properties behind ";". Space and tab
around each of them do not count. Keys are compared byte for byte; of members with the same key the last
counts, as in OpenTelemetry.
"""

from typing import Final

#: Bytes that are read: twice what W3C Baggage §3.3.2 asks for. Longer baggage is passed on as it is.
MAX_READ_BYTES: Final = 16384
#: Bytes and members that are written (W3C Baggage §3.3.2).
MAX_BYTES: Final = 8192
MAX_MEMBERS: Final = 64

_SPACE: Final = b" \t"


def member_value(baggage: bytes, key: bytes) -> bytes | None:
    """A member's value as it is written, without its properties; None if there is none."""
    if len(baggage) > MAX_READ_BYTES:
        return None
    value = None
    for member in baggage.split(b","):
        if _is_of(member, key):
            value = member.partition(b";")[0].partition(b"=")[2].strip(_SPACE)
    return value


def with_member(baggage: bytes, key: bytes, value: bytes) -> bytes:
    """Baggage with one member set, in place of the first of that key. Others stay byte for byte. Where the
    member does not fit, the earlier ones go nevertheless, since they would be believed."""
    if len(baggage) > MAX_READ_BYTES:
        return baggage
    members = baggage.split(b",") if baggage else []
    place = next((index for index, each in enumerate(members) if _is_of(each, key)), len(members))
    kept = [each for each in members if not _is_of(each, key)]
    joined = b",".join([*kept[:place], b"%b=%b" % (key, value), *kept[place:]])
    return joined if len(kept) < MAX_MEMBERS and len(joined) <= MAX_BYTES else b",".join(kept)


def _is_of(member: bytes, key: bytes) -> bool:
    name, equals, _ = member.partition(b";")[0].partition(b"=")
    return equals == b"=" and name.strip(_SPACE) == key
