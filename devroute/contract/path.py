"""A request's path, as conditions compare it: percent-decoded once, without the query. Pure. The twin of
lua/parts/path.lua, with the same vectors.

Envoy resolves dot segments before; apps behind it may decode again, take a backslash for a slash, or cut
";parameters" off a segment. A path that one server may read otherwise than the next is under no prefix: the
service gets the request.
"""

import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import unquote_to_bytes

from devroute.contract.target import Malformed
from devroute.quoting import quote

#: Bytes; longer paths are under no prefix.
MAX_PATH: Final = 8192

#: Most paths: no %, no #, no backslash, no parameters.
_PLAIN: Final = re.compile(rb"[!\"$&-:<-\[\]-~]*")
_ESCAPE: Final = re.compile(rb"%[0-9A-Fa-f]{2}")
_NOT_ESCAPED: Final = re.compile(rb"%2[Ff]|%(?![0-9A-Fa-f]{2})")
#: Control characters, backslashes, and UTF-8 that is longer than needed (RFC 3629 §10).
_UNCLEAR: Final = re.compile(rb"[\x00-\x1f\x7f\\\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
_PARAMETERS: Final = re.compile(rb";[^/]*")
_DOT_SEGMENT: Final = re.compile(rb"/\.\.?/")


def read_target(target: bytes) -> bytes | None:
    """The decoded path of a request's target; None if servers may read it in several ways."""
    path = target.partition(b"?")[0]
    if len(path) > MAX_PATH or not path.startswith(b"/"):
        return None
    if _PLAIN.fullmatch(path) and b"/." not in path:
        return path
    if b"#" in path or _NOT_ESCAPED.search(path):
        return None
    path = unquote_to_bytes(path)
    if _ESCAPE.search(path) or _UNCLEAR.search(path):
        return None
    return None if _DOT_SEGMENT.search(_PARAMETERS.sub(b"", path) + b"/") else path


def is_under(target: bytes, prefixes: Sequence[bytes]) -> bool:
    """Whether the path of a request's target begins with a prefix that `read_prefix` returned."""
    path = read_target(target)
    return path is not None and path.startswith(tuple(prefixes))


def read_prefix(text: str) -> bytes:
    """A path prefix, in ASCII, as `read_target` reads paths. Raises Malformed for one under which none is."""
    path = read_target(text.encode("ascii"))
    if path is None or b";" in path or b"//" in path:
        raise Malformed(
            f"{quote(text)} is a path that servers read in different ways; write it without empty or dot"
            " segments, parameters (;), backslashes, %2F, and escapes that are invalid or double"
        )
    return path
