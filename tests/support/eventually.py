"""Wait for a condition that no event announces. Tests wait in no other way: never for an amount of time."""

import asyncio
import inspect
import itertools
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

from devroute.mesh.testbed import Command

T = TypeVar("T")

#: For a process that starts on a machine whose cores are all in use.
PATIENCE_S = 40.0
_LONGEST_PAUSE_S = 0.02


async def eventually(
    condition: Callable[[], T | Awaitable[T]],
    what: str = "the condition",
    *,
    within: float = PATIENCE_S,
    process: Command | None = None,
    task: "asyncio.Task[Any] | None" = None,
) -> T:
    """The first true value of `condition`, a function or a coroutine function.

    Fails after `within` seconds, and at once if `process` or `task`, which is to bring it about, has ended.
    """
    turns = itertools.repeat(0.0, 20)
    pauses = (min(0.001 * 2 ** min(n, 10), _LONGEST_PAUSE_S) for n in itertools.count())
    try:
        async with asyncio.timeout(within) as limit:
            for pause in itertools.chain(turns, pauses):
                found = condition()
                value = await found if inspect.isawaitable(found) else found
                if value:
                    return value
                if process is not None:
                    assert process.process.returncode is None, process.log.read_text()
                if task is not None:
                    assert not task.done(), f"{what}: {task.exception() or task.result()}"
                await asyncio.sleep(pause)
    except TimeoutError:
        if not limit.expired():
            raise
    log = "" if process is None else f"\n{process.log.read_text()}"
    raise AssertionError("\n".join((f"not within {within} s: {what}{log}", *waiting_tasks())))


def waiting_tasks() -> list[str]:
    """Where each of the other tasks of this loop waits: its coroutines, the outermost first."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    return sorted(f"  {' > '.join(_await_chain(each.get_coro()))}" for each in tasks)


def _await_chain(coroutine: Any) -> Iterator[str]:
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        yield f"{coroutine.__qualname__}:{frame.f_lineno}"
        coroutine = coroutine.cr_await


async def quiet(progress: Callable[[], object], turns: int = 200) -> None:
    """Until `progress` has returned the same value in so many turns of the loop: nothing goes on in it that
    could change the value, as each turn takes from loopback all that was sent."""
    async with asyncio.timeout(PATIENCE_S):
        value, same = progress(), 0
        while same < turns:
            await asyncio.sleep(0)
            same = same + 1 if value == (value := progress()) else 0
