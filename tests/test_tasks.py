"""Waits with a limit."""

import asyncio

import pytest

from devroute.tasks import ends_within, is_set_within


async def test_an_event_that_is_set_as_the_time_ends_counts_as_set() -> None:
    event = asyncio.Event()
    waiting = asyncio.ensure_future(is_set_within(event, 0))
    await asyncio.sleep(0)
    event.set()
    assert await waiting
    event.clear()
    assert not await is_set_within(event, 0)


async def test_work_that_ends_in_time_has_ended_and_other_work_is_cancelled() -> None:
    event, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            await event.wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    assert not await ends_within(work(), 0)
    await asyncio.sleep(0)
    assert cancelled.is_set()
    event.set()
    assert await ends_within(work(), 20)

    async def failing() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        await ends_within(failing(), 20)


async def test_a_task_that_was_cancelled_goes_on_after_the_limit() -> None:
    outcomes: list[bool] = []

    async def stopping() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            outcomes.append(await ends_within(asyncio.Event().wait(), 0.01))
            outcomes.append(await ends_within(asyncio.sleep(0), 20))

    task = asyncio.ensure_future(stopping())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert outcomes == [False, True]
