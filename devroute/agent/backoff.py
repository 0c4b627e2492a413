"""How long the agent waits before it dials again. Pure."""

from typing import Final

#: The longest delay before the first attempt, in seconds.
FIRST_DELAY: Final = 0.2
#: Doublings after which a ceiling has reached any bound that is in use.
_MAX_DOUBLINGS: Final = 10


def jittered_delay(failures: int, draw: float, longest: float) -> float:
    """Seconds to wait after so many failures in a row. Full jitter: `draw`, from 0 to 1, of a ceiling that
    doubles with each failure, up to `longest`."""
    return draw * min(longest, FIRST_DELAY * 2.0 ** min(failures, _MAX_DOUBLINGS))
