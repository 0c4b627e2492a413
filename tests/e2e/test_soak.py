"""A short run of the soak, so that it works when it is needed; the soak itself decides whether it passed."""

import asyncio
import sys

import pytest

from soak.ledger import HUNG, LATE
from tests.support.paths import ROOT

pytest.importorskip("envoy")


@pytest.mark.mesh
@pytest.mark.slow
async def test_some_seconds_of_the_soak_pass() -> None:
    soak = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "soak", "3"),
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await soak.communicate()
    output = out.decode()
    assert soak.returncode == 0, output
    assert "delivered to a wrong requester: 0\nunexplained errors: 0\n" in output
    assert "answered by a laptop, as asked" in output


def test_the_soak_knows_what_the_product_says_when_the_machine_is_overloaded() -> None:
    files = [*(ROOT / "lua").rglob("*.lua"), *(ROOT / "devroute").rglob("*.py")]
    sources = [path.read_text() for path in files]
    assert [words for words in LATE if words != HUNG and not any(words in text for text in sources)] == []
