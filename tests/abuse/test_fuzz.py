"""That the fuzzer works, and finds nothing in a moment; `make fuzz` takes its time."""

from random import Random

import pytest

from fuzz.mutate import Mutator
from fuzz.seeds import TOKENS, seeds
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_is_found_near_the_seeds(name: str) -> None:
    target = TARGETS[name]
    start = seeds(name)
    mutator = Mutator(start, TOKENS, Random(name))
    for seed in start[:40]:
        mutator.learn(seed, target(seed))
    assert mutator.kinds > 1, "a target that tells nothing apart leads nowhere"
    for _ in range(150):
        data = mutator.next()
        mutator.learn(data, target(data))
