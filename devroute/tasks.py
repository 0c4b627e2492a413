"""Tasks that outlive the call that starts them, kept by the object that they belong to; and a wait with a
limit, for what such tasks wait for."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class TaskOwner:
    """Holds its tasks until they end; `close` cancels those that have not. For a scope that is one `async
    with` use asyncio.TaskGroup instead."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    @property
    def count(self) -> int:
        """The number of tasks that have not ended yet."""
        return len(self._tasks)

    @property
    def active(self) -> bool:
        """Whether a task has not ended yet."""
        return bool(self._tasks)

    async def close(self) -> None:
        """Cancel every task, and wait until all have ended."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether the event is set, now or within this time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
    return event.is_set()  # it may have been set in the turn in which the time was over
