"""The rule of checks/tasks.py: what starts a task without an owner, and what does not."""

from pathlib import Path

import pytest

from checks import tasks


@pytest.mark.parametrize(
    "line",
    [
        "loop.create_task(work())",
        "self._loop.create_task(work())",
        "asyncio.get_running_loop().create_task(work())",
        "asyncio.create_task(work())",
        "asyncio.ensure_future(work())",
        "create_task(work())",
        "self.group.create_task(work())",
    ],
)
def test_a_task_that_no_group_holds_is_found(line: str) -> None:
    assert tasks.loose_tasks(f"async def f():\n    {line}\n") == [2]


@pytest.mark.parametrize(
    "head",
    [
        "async with asyncio.TaskGroup() as group:",
        "async with TaskGroup() as group:",
        "async with dial() as link, asyncio.TaskGroup() as group:",
    ],
)
def test_a_task_of_a_group_has_an_owner(head: str) -> None:
    assert tasks.loose_tasks(f"async def f():\n    {head}\n        group.create_task(work())\n") == []


def test_a_name_that_other_context_managers_bind_is_no_group() -> None:
    assert tasks.loose_tasks(
        "async def f():\n    async with dial() as group:\n        group.create_task(w())\n"
    ) == [3]


def test_one_module_may_start_tasks_for_others(tmp_path: Path) -> None:
    (tmp_path / "devroute").mkdir()
    for name in ("tasks", "other"):
        (tmp_path / "devroute" / f"{name}.py").write_text("\nloop.create_task(work())\n")
    (found,) = tasks.problems(tmp_path, [tmp_path])
    assert found == f"devroute/other.py:2: {tasks.ADVICE}"
