"""A trace's id inside a contract (`devroute trace`), so that whatever an app passes on carries both. Pure;
lua/parts/trace.lua is its twin, with the same vectors.

In JSON it is a member that older readers take for one more service, by which no one is called; in a signed
contract it stands behind the signature, outside what is signed, and behind the name of a saved one:

    {"foo": "alice","devroute-trace":"de7e0a7e…"}        eyJ….eyJ….c2ln-devroute-trace-de7e0a7e…
    @checkout-devroute-trace-de7e0a7e…

Readers remove it before anything else, so that no cache has an entry for each trace.
"""

import re
from typing import Final

from devroute.headers import BAGGAGE_TRACE

#: The member's key, and what stands between a signature and the id.
MEMBER: Final = BAGGAGE_TRACE
#: What an id begins with: sidecars know it in the header `traceparent` too. Eight of 32 hexadecimal digits.
ID_PREFIX: Final = "de7e0a7e"

_MEMBER: Final = re.compile(rf'"{MEMBER}"[ \t]*:[ \t]*"([0-9a-f]{{32}})"[ \t]*(?=[,}}])')
_SUFFIX: Final = re.compile(rf"-{MEMBER}-([0-9a-f]{{32}})[ \t]*")
_MEMBER_BYTES: Final = MEMBER.encode("ascii")
_SPACE: Final = " \t"
#: What a signed contract begins with, and the name of a saved one: the id is a suffix there.
_SUFFIXED: Final = ("ey", "@")


def split_trace(text: str) -> tuple[str, str | None]:
    """The contract without a trace's id, and the id; the text itself and None if it has none."""
    at = text.find(MEMBER)
    if at < 0:
        return text, None
    if text.startswith(_SUFFIXED):
        suffix = _SUFFIX.fullmatch(text, at - 1)
        return (text, None) if suffix is None else (text[: at - 1], suffix[1])
    member = _MEMBER.match(text, at - 1)
    if member is None:
        return text, None
    before = text[: at - 1].rstrip(_SPACE)
    end = member.end()
    if before.endswith(","):
        return before[:-1] + text[end:], member[1]
    if before.endswith("{"):
        return before + text[end + (text[end] == ",") :].lstrip(_SPACE), member[1]
    return text, None


def without_trace(raw: bytes) -> bytes:
    """The value of a header field without a trace's id: what caches are kept by."""
    return split_trace(raw.decode("latin-1"))[0].encode("latin-1") if _MEMBER_BYTES in raw else raw


def with_trace(contract: str, trace: str) -> str:
    """The contract with a trace's id, or unchanged where it is neither an object, nor signed, nor a name."""
    if contract.startswith("{") and contract.endswith("}"):
        return f'{contract[:-1]},"{MEMBER}":"{trace}"}}'
    if contract.startswith(_SUFFIXED):
        return f"{contract}-{MEMBER}-{trace}"
    return contract
