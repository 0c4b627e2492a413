"""Some seconds of the soak, so that it can be run when it is needed; its own judgement is what counts."""

import asyncio
import sys
from pathlib import Path

import pytest

pytest.importorskip("envoy")

ROOT = Path(__file__).parents[1]


@pytest.mark.mesh
async def test_some_seconds_of_the_soak_pass() -> None:
    soak = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "soak", "3"),
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "PATH": "/usr/bin:/bin"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        out, _ = await soak.communicate()
    said = out.decode()
    assert soak.returncode == 0, said
    assert "delivered to a wrong requester: 0\nunexplained errors: 0\n" in said
    assert "answered by a laptop, as it should be" in said
