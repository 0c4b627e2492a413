"""Tasks that outlive the call that starts them, kept by the object that they belong to; waits with a limit,
for what such tasks wait for; and imports while others go on."""

import asyncio
import importlib
import sys
from collections.abc import Coroutine
from types import ModuleType
from typing import Any, TypeVar

from devroute.platforms import without_collections

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


async def ends_within(work: Coroutine[Any, Any, object], seconds: float) -> bool:
    """Whether `work` ends within this time; else it is cancelled, and not waited for. Raises what `work`
    raises. For what a task does once it has been cancelled: there, asyncio.timeout of Python 3.11.2 raises
    CancelledError."""
    task = asyncio.get_running_loop().create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            task.result()
        return task.done()
    finally:
        task.cancel()


async def import_in_thread(name: str) -> ModuleType:
    """The module of this name. Where it is not imported yet, the loop goes on meanwhile. Raises what its
    import raises."""
    return await asyncio.to_thread(_import, name)


def _import(name: str) -> ModuleType:
    if name in sys.modules:  # another thread may be importing it, for which this waits
        return importlib.import_module(name)
    with without_collections():  # one would stop the loop
        return importlib.import_module(name)
