"""A short run of the fuzzer, so that it works when it is needed; `make fuzz` runs longer."""

from random import Random

import pytest

from fuzz.mutate import Mutator
from fuzz.seeds import TOKENS, seeds
from fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_run_of_each_target_finds_nothing(name: str) -> None:
    target = TARGETS[name]
    start = seeds(name)
    mutator = Mutator(start, TOKENS, Random(name))
    for seed in start[:40]:
        mutator.learn(seed, target(seed))
    assert mutator.kinds > 1, "a target that returns one value for all inputs guides no mutation"
    for _ in range(150):
        data = mutator.next()
        mutator.learn(data, target(data))
