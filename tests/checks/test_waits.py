"""The rule of checks/waits.py: which sleeps are found, and that each exception is of use."""

import pytest

from checks import waits
from tests.support.paths import ROOT


@pytest.mark.parametrize("argument", ["0.1", "1", "pause", "limit.seconds + 1", "delay=1"])
def test_a_wait_for_an_amount_of_time_is_found(argument: str) -> None:
    assert waits.sleeps(f"async def f():\n    await asyncio.sleep({argument})\n") == [2]


def test_a_turn_of_the_loop_and_other_sleeps_are_none() -> None:
    assert waits.sleeps("async def f(pauses):\n    await asyncio.sleep(0)\n    await pauses.sleep(1)\n") == []


@pytest.mark.parametrize("file", waits.EXCEPTIONS)
def test_each_file_with_an_exception_still_sleeps(file: str) -> None:
    assert waits.sleeps(ROOT.joinpath(file).read_text(encoding="utf-8"))
