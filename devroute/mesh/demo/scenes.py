"""The demo's own requests, one after another, and what is expected of each."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from devroute.mesh.demo.mesh import ALICE, BOB, FIRST, MESH, Mesh
from devroute.mesh.demo.services import ask
from devroute.mesh.envoy import stop

#: Until every sidecar knows that a laptop is offline: each caches a decision for a second at most.
GONE_TIMEOUT_S: Final = 5.0
POLL_S: Final = 0.05
#: Requests for each of two laptops at the same time.
CROWD: Final = 20

EVERYWHERE: Final = (MESH, MESH, MESH)


class Reply(NamedTuple):
    """Who answered at each hop, and x-devroute-result and -reason at the middle service, or at the first if
    the request went no further."""

    hops: tuple[str, ...]
    result: str
    reason: str


@dataclass(frozen=True)
class Scene:
    """A line of the table: the contract as shown, the reply, and the expected one, whose reason is a part of
    the whole reason."""

    contract: str
    seen: Reply
    expected: Reply

    @property
    def good(self) -> bool:
        expected, seen = self.expected, self.seen
        return seen[:2] == expected[:2] and expected.reason in seen.reason


async def scenes(mesh: Mesh) -> AsyncIterator[Scene]:
    """The demo's requests, one after another."""
    alice, bob = (json.dumps({mesh.service: who}) for who in (ALICE, BOB))
    address = f"{mesh.direct.host}:{mesh.direct.port}"
    direct = json.dumps({mesh.service: address})
    at_alice, at_bob = (Reply((MESH, who, MESH), "laptop", f"{who} (tunnel)") for who in (ALICE, BOB))

    yield Scene("none", await reply(mesh, None), Reply(EVERYWHERE, "", ""))
    yield Scene(direct, await reply(mesh, direct), at_alice._replace(reason=address))
    yield Scene(alice, await reply(mesh, alice), at_alice)

    async with asyncio.TaskGroup() as group:
        crowd = [(contract, group.create_task(reply(mesh, contract))) for contract in (alice, bob) * CROWD]
    for contract, expected in [(alice, at_alice), (bob, at_bob)]:
        shown = f"{contract} x{CROWD}, at once"
        every = [Scene(shown, task.result(), expected) for sent, task in crowd if sent == contract]
        yield next((scene for scene in every if not scene.good), every[0])

    broken = alice.removesuffix("}")
    yield Scene(broken, await reply(mesh, broken), Reply((), "error", "contract"))

    await stop(mesh.alice.process)
    gone = Reply(EVERYWHERE, "fallback", ALICE)
    yield Scene(f"{alice}, now offline", await fallen_back(mesh, alice), gone)
    yield Scene(bob, await reply(mesh, bob), at_bob)


async def reply(mesh: Mesh, contract: str | None) -> Reply:
    """The reply to one request from outside."""
    body = await ask(mesh.session, mesh.first, contract, FIRST)
    hops = body.get("hops", [])
    at_service = hops[1] if len(hops) > 1 else body
    return Reply(tuple(each["who"] for each in hops), at_service["result"], at_service["reason"])


async def fallen_back(mesh: Mesh, contract: str) -> Reply:
    """The first reply of the mesh's own service, or the last one within GONE_TIMEOUT_S."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while True:
        found = await reply(mesh, contract)
        if found.result == "fallback" or time.monotonic() > deadline:
            return found
        await asyncio.sleep(POLL_S)
