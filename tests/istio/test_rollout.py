"""A new version of the filter, and its removal, under load: no request fails and no connection is cut."""

import asyncio
import copy
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.istio.changes import drained, live
from tests.istio.client import ask_in, session
from tests.istio.kubernetes import Document
from tests.istio.rig import Rig, documents
from tests.support.eventually import eventually

pytestmark = pytest.mark.istio

BEHIND = ("b1", "b2")
#: By status, result and reason.
Outcomes = Counter[tuple[int, str | None, str | None]]


@asynccontextmanager
async def load(mesh: Rig, contract: object) -> AsyncIterator[Outcomes]:
    """Requests from a to b, one after another on kept connections, as long as the block; their outcomes."""
    outcomes: Outcomes = Counter()
    ended = asyncio.Event()

    async def run() -> None:
        async with session(mesh.pods["a"], reuse=True) as opened:
            while not ended.is_set():
                response = await ask_in(opened, "http://b/x", contract)
                outcomes[response.status, response.result, response.reason] += 1

    async with asyncio.TaskGroup() as group:
        group.create_task(run())
        yield outcomes
        ended.set()


def filters(mesh: Rig) -> list[Document]:
    return documents(mesh.installed / "base" / "envoyfilter.yaml")


def with_new_lua(found: list[Document], mark: str) -> list[Document]:
    """The same filters whose code has a comment more."""
    changed = copy.deepcopy(found)
    for each in changed:
        for patch in each["spec"]["configPatches"]:
            if patch["applyTo"] == "EXTENSION_CONFIG":
                code = patch["patch"]["value"]["typed_config"]["default_source_code"]
                code["inline_string"] += f"\n-- {mark}\n"
    assert changed != found
    return changed


async def test_a_new_version_of_the_lua_cuts_no_connection(mesh: Rig) -> None:
    await drained(mesh, BEHIND)
    async with session(mesh.pods["a"]) as opened, opened.ws_connect("http://b/ws") as socket:
        await socket.send_str("before")
        assert (await socket.receive_str(timeout=10)).endswith("before")
        async with asyncio.TaskGroup() as group:
            slow = group.create_task(mesh.ask("a", "http://b/slow/20"))
            try:
                await mesh.kubernetes.apply(with_new_lua(filters(mesh), "version two"))
                await live(mesh, BEHIND, "version two")
                await drained(mesh, BEHIND)
                await socket.send_str("after")
                assert (await socket.receive_str(timeout=10)).endswith("after")
            finally:
                await mesh.kubernetes.apply(filters(mesh))
        assert slow.result().status == 200
    await live(mesh, BEHIND, "version two", gone=True)


@pytest.mark.parametrize("contract", [None, {"a": "alice"}, {"b": "alice"}], ids=["none", "others", "laptop"])
async def test_upgrade_and_removal_under_load_fail_no_request(mesh: Rig, contract: object) -> None:
    try:
        async with load(mesh, contract) as outcomes:
            await mesh.kubernetes.apply(with_new_lua(filters(mesh), "version three"))
            await live(mesh, BEHIND, "version three")
            await mesh.kubernetes.delete(filters(mesh))
            await live(mesh, BEHIND, "devroute-detour", gone=True)
            await mesh.kubernetes.apply(filters(mesh))
            await live(mesh, BEHIND, "devroute-detour")
            await drained(mesh, BEHIND)
            before = outcomes.total()
            await eventually(lambda: outcomes.total() > before + 20, "load after the change")
    finally:
        await mesh.kubernetes.apply(filters(mesh))
    assert outcomes.total() > 100
    assert {status for status, *_ in outcomes} == {200}, outcomes
