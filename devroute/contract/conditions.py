"""Conditions on requests: methods, path prefixes and callers. Owns their grammar, which contracts, offers and
policy share. Pure.
"""

import re
from collections.abc import Mapping, Sized
from typing import Final

from devroute.contract.mesh_identity import URI_PATTERN
from devroute.contract.path import read_prefix
from devroute.contract.target import Malformed
from devroute.quoting import quote

#: Values in one list. The sidecar tests them one after the other.
MAX_LIST: Final = 16
#: Characters of a path prefix or of a caller's identity. A SPIFFE ID may have 2048; meshes use far fewer.
MAX_TEXT: Final = 1024

_METHOD: Final = re.compile(r"[A-Z][A-Z_-]{0,31}")
_LOWER_CASE_METHOD: Final = re.compile(r"[A-Za-z_-]{1,32}")
_VISIBLE: Final = re.compile(r"[!-~]+")
_CALLER: Final = re.compile(rf"{URI_PATTERN}|[-a-z0-9]+/[-.a-z0-9]+")


def check_length(values: Sized) -> None:
    """Raises Malformed for an empty list and for more than MAX_LIST values."""
    if not 0 < len(values) <= MAX_LIST:
        raise Malformed(f"the list has {len(values)} values; write 1 to {MAX_LIST}")


def read_method(value: object) -> str:
    """An HTTP method in capitals, such as GET. Raises Malformed."""
    if isinstance(value, str) and _METHOD.fullmatch(value):
        return value
    is_word = isinstance(value, str) and _LOWER_CASE_METHOD.fullmatch(value)
    advice = f"; write {str(value).upper()}" if is_word else ", such as GET"
    raise Malformed(f"{_shown(value)} is not a method in capitals{advice}")


def read_path(value: object) -> str:
    """A path prefix, such as /api/. Raises Malformed."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise Malformed(f"{_shown(value)} is not a path: it starts with a slash, such as /api/")
    if len(value) > MAX_TEXT or not _VISIBLE.fullmatch(value) or "?" in value or "#" in value:
        raise Malformed(f"{quote(value)} is not a path (no spaces, no query, at most {MAX_TEXT} characters)")
    read_prefix(value)
    return value


def read_caller(value: object) -> str:
    """A mesh identity: `spiffe://…`, or `namespace/serviceaccount` in any trust domain. Raises Malformed."""
    if not isinstance(value, str) or len(value) > MAX_TEXT or not _CALLER.fullmatch(value):
        raise Malformed(
            f"{_shown(value)} is not a mesh identity; write namespace/serviceaccount"
            " or spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT"
        )
    return value


def _shown(value: object) -> str:
    """A value for an error message. Lists and objects are only named: one that a contract nests deeply has no
    `str` (RecursionError)."""
    return "a list or an object" if isinstance(value, list | tuple | Mapping) else quote(str(value))
