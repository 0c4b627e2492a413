"""Paths as conditions compare them: the vectors, and every server that may stand behind the sidecar."""

import json
import re
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from devroute.contract.conditions import read_path
from devroute.contract.path import is_under, read_prefix
from devroute.contract.target import Malformed
from tests.support.examples import examples
from tests.support.paths import VECTORS

TABLE: Final = json.loads((VECTORS / "sidecar" / "path.json").read_text())

PIECES: Final = st.sampled_from(
    [
        *(
            "/",
            "/",
            "api",
            "admin",
            "a",
            ".",
            "..",
            ";",
            ";v=1",
            "\\",
            "%2f",
            "%5C",
            "%2e",
            "%2E",
            "%25",
            "%",
        ),
        *("%61", "25", "2f", "2e", "%3b", "%3F", "?", "#", "%00", "%c0%af", "%c0%ae", "%20", "%c3%a9"),
        *("..%2f", "%2e%2e", "..;", "%252e%252e/", "..%252f", "..%c0%af", "..\\", "/../"),
    ]
)
PATHS: Final = st.builds(
    lambda start, pieces: start + "".join(pieces),
    st.sampled_from(["/api/", "/api", "/"]),
    st.lists(PIECES, max_size=6),
)


def without_dots(path: bytes) -> bytes:
    kept: list[bytes] = []
    for segment in path.split(b"/")[1:]:
        if segment == b"..":
            kept = kept[:-1]
        elif segment != b".":
            kept.append(segment)
    return b"/" + b"/".join(kept)


#: What servers do to a path, each in its own order.
STEPS: Final[tuple[Callable[[bytes], bytes], ...]] = (
    unquote_to_bytes,
    lambda path: path.replace(b"\\", b"/"),
    lambda path: re.sub(rb";[^/]*", b"", path),
    lambda path: re.sub(rb"/+", b"/", path),
    lambda path: re.split(rb"[?#]", path)[0],
    lambda path: path.replace(b"\xc0\xaf", b"/").replace(b"\xc0\xae", b"."),
    without_dots,
)


@pytest.mark.parametrize("case", TABLE["cases"], ids=lambda case: case["path"][:40])
def test_a_path_is_under_a_prefix(case: dict[str, Any]) -> None:
    assert is_under(case["path"].encode(), [read_prefix(case["prefix"])]) is case["under"]


@pytest.mark.parametrize("prefix", TABLE["refused"])
def test_prefixes_that_servers_read_in_different_ways_are_refused(prefix: str) -> None:
    with pytest.raises(Malformed, match="servers read in different ways"):
        read_path(prefix)


@examples(1000)
@example("/api/..;/admin", "/api/")
@given(PATHS, st.sampled_from(["/api/", "/api", "/a", "/api/a"]))
def test_every_server_reads_a_path_that_is_under_a_prefix_so(path: str, prefix: str) -> None:
    if not is_under(path.encode(), [read_prefix(prefix)]):
        return
    sent = path.partition("?")[0]
    but_slashes = unquote_to_bytes(re.sub("%(2f|5c)", r"%25\1", sent, flags=re.IGNORECASE))
    reads = {unquote_to_bytes(sent), but_slashes}
    for _ in range(3):
        reads = {step(read) for read in reads for step in STEPS}
    for read in reads:
        assert (read + b"/").startswith(prefix.encode()), (path, read)
