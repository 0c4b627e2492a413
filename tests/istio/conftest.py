"""The rig is shared by all tests of a run: it takes a minute to start. Each test leaves it as it found it.

`make test-istio` runs them; `make test` leaves out what has the marker `istio`.
"""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.istio.control_plane import missing_programs
from tests.istio.rig import Rig, rig, with_laptops


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests on the rig run on its event loop."""
    for item in items:
        function = getattr(item, "function", None)
        if item.get_closest_marker("istio") and asyncio.iscoroutinefunction(function):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def mesh(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    """alice serves all services, bob b. `--envoy PATH` takes another Envoy."""
    if os.geteuid() != 0:
        pytest.skip("makes network namespaces: run it as root")
    if missing := missing_programs():
        pytest.skip(f"not installed: {', '.join(missing)}; .ci/run has the packages")
    # What a task entered, the same task has to leave; a fixture is left by another task than entered it.
    started, ended = asyncio.get_running_loop().create_future(), asyncio.Event()

    async def keep() -> None:
        async with rig(request.config.getoption("--envoy")) as found, with_laptops(found):
            started.set_result(found)
            await ended.wait()

    task = asyncio.ensure_future(keep())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if started.done():
            yield started.result()
    finally:
        ended.set()
        await task
