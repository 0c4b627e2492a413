"""docs/errors.md lists every error code with its status, and no others."""

import re

import pytest

from devroute.errors import BY_CODE
from tests.support.paths import ROOT

TEXT = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
ROWS = dict(re.findall(r"^\| `([a-z-]+)` \| (\d+|the contract's) \| \S", TEXT, re.MULTILINE))


def test_every_code_is_on_the_page() -> None:
    assert set(ROWS) == set(BY_CODE)


@pytest.mark.parametrize("code", sorted(set(BY_CODE) - {"fault-injected"}))
def test_a_code_has_the_status_that_the_page_states(code: str) -> None:
    assert int(ROWS[code]) == BY_CODE[code].status
