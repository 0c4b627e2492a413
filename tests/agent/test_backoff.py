"""Delays between attempts to dial again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent import link_keeper, second_link
from devroute.agent.backoff import FIRST_DELAY, jittered_delay

LONGEST = (
    link_keeper.EAGER_DELAY,
    link_keeper.LAST_DELAY,
    second_link.LAST_DELAY,
    second_link.MOVING_DELAY,
)


@given(st.integers(0, 10_000), st.floats(0, 1), st.sampled_from(LONGEST))
def test_the_delay_has_full_jitter_between_bounds(failures: int, draw: float, longest: float) -> None:
    assert 0 <= jittered_delay(failures, draw, longest) <= longest
    assert jittered_delay(failures, draw, longest) == draw * jittered_delay(failures, 1.0, longest)
    assert jittered_delay(failures + 1, 1.0, longest) >= jittered_delay(failures, 1.0, longest)


def test_the_ceiling_doubles_up_to_its_bound() -> None:
    assert [jittered_delay(failures, 1.0, 2.0) for failures in range(6)] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


@pytest.mark.parametrize("longest", LONGEST)
def test_each_bound_is_reached(longest: float) -> None:
    assert jittered_delay(0, 1.0, longest) == FIRST_DELAY
    assert jittered_delay(10_000, 1.0, longest) == longest
