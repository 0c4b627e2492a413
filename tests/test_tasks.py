"""A wait with a limit."""

import asyncio

from devroute.tasks import is_set_within


async def test_an_event_that_is_set_as_the_time_ends_counts_as_set() -> None:
    event = asyncio.Event()
    waiting = asyncio.ensure_future(is_set_within(event, 0))
    await asyncio.sleep(0)
    event.set()
    assert await waiting
    event.clear()
    assert not await is_set_within(event, 0)
