"""How property tests draw their examples: profiles of hypothesis, and `examples` for another number of them.

`steady`, the default, draws the same examples in every run, so that a run says something about the code
alone. `random` (`make fuzz`, or pytest's --hypothesis-profile=random) draws new ones, many more, and
remembers those that fail in .hypothesis/. Neither has a deadline: how long an example takes depends on what
else the machine does.
"""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings

#: How many times as many examples `random` draws.
MORE = 20
_USUAL = 100


def register_profiles() -> None:
    untimed: dict[str, Any] = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
    settings.register_profile("steady", derandomize=True, database=None, max_examples=_USUAL, **untimed)
    settings.register_profile("random", max_examples=_USUAL * MORE, print_blob=True, **untimed)
    settings.load_profile("steady")


def examples(count: int, **more: Any) -> Callable[[Any], Any]:
    """Settings of a test that draws `count` examples instead of 100; in `random` as many times more."""
    return settings(max_examples=count * settings().max_examples // _USUAL, **more)
