"""How long a call takes, on a machine that has other work as well."""

import time
from collections.abc import Callable


def cpu_seconds(call: Callable[[], object], runs: int = 3) -> float:
    """CPU seconds of this thread, the least of these runs."""
    taken = []
    for _ in range(runs):
        before = time.thread_time()
        call()
        taken.append(time.thread_time() - before)
    return min(taken)
