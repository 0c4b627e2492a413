"""`devroute demo`: one request after another through a small mesh with real Envoys, and who answered each
hop.

Owns the scenes and the table; the mesh is the product itself (testbed.py). Services A, B and C have a sidecar
each; Alice and Bob run their own B. All of it is on loopback, and ends when this returns.
"""

import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

from devroute.auth.tokens import new_token
from devroute.headers import CONTRACT, REASON, RESULT
from devroute.mesh import testbed
from devroute.mesh.envoy import stop
from devroute.mesh.istio.sidecar import INBOUND, OUTBOUND, Endpoint, Sidecar
from devroute.platforms import INTERRUPTED, handle_signals

#: For one request of the demo, which takes milliseconds.
TIMEOUT = aiohttp.ClientTimeout(total=5.0)
#: Until every sidecar knows that a laptop is offline: each caches a decision for a second at most.
GONE_TIMEOUT_S = 5.0
POLL_S = 0.05
#: Requests for each of two laptops at the same time.
CROWD = 20
#: Exit codes (DESIGN 6).
OK, FAILED = 0, 1

#: The names of the demo's apps: those in the mesh, Alice's, and Bob's.
MESH, ALICE, BOB = "mesh", "alice", "bob"
EVERYWHERE = (MESH, MESH, MESH)


class Reply(NamedTuple):
    """Who answered at each hop, and x-devroute-result and -reason at B, or at A if it went no further."""

    hops: tuple[str, ...]
    result: str
    reason: str


# --- the services ------------------------------------------------------------------------------------------


@dataclass
class DemoApp:
    """A service: returns its name and, after them, the hops of the next service, which it calls with the
    contract.

    `calls` is the next service, and `through` the sidecar's listener to which iptables would redirect the
    call.
    """

    who: str
    calls: str = ""
    through: Endpoint | None = None
    session: aiohttp.ClientSession = field(init=False, repr=False)

    async def answer(self, request: web.Request) -> web.Response:
        hops = [{"who": self.who}]
        if self.through is not None:
            contract = request.headers.get(CONTRACT)
            status, body = await ask(self.session, self.through, contract, self.calls)
            if "hops" not in body:
                return web.json_response(body, status=status)
            hops += body["hops"]
        return web.json_response({"hops": hops})

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", self.answer)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        async with aiohttp.ClientSession(timeout=TIMEOUT) as self.session:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", 0).start()
                yield Endpoint(*runner.addresses[0][:2])
            finally:
                await runner.cleanup()


async def ask(
    session: aiohttp.ClientSession, at: Endpoint, contract: str | None, host: str
) -> tuple[int, dict[str, Any]]:
    """One request: the status, and the body; the response's own result is added to its first hop."""
    headers = {"host": host} | ({} if contract is None else {CONTRACT: contract})
    async with session.get(f"http://{at.host}:{at.port}/", headers=headers) as response:
        text = await response.text()
        json_body = response.content_type == "application/json"
        body: dict[str, Any] = json.loads(text) if json_body else {"message": text}
        own = {key: response.headers.get(name, "") for key, name in (("result", RESULT), ("reason", REASON))}
        (body["hops"][0] if "hops" in body else body).update(own)
        return response.status, body


# --- the mesh ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mesh:
    """The running mesh, and where requests enter it."""

    session: aiohttp.ClientSession
    entry: Endpoint
    direct: Endpoint
    alice: testbed.Command

    async def ask(self, contract: str | None) -> Reply:
        """One request from outside."""
        _, body = await ask(self.session, self.entry, contract, "a")
        hops = body.get("hops", [])
        at_b = hops[1] if len(hops) > 1 else body
        return Reply(tuple(each["who"] for each in hops), at_b["result"], at_b["reason"])


@asynccontextmanager
async def mesh(folder: Path) -> AsyncIterator[Mesh]:
    """A → B → C, the proxy, and two laptops with a B of their own. Raises DevrouteError."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tokens = {who: new_token(who) for who in (ALICE, BOB)}
        proxy = await enter(testbed.proxy(folder, [record for _, record in tokens.values()]))

        # The last one first, since each calls the next one's sidecar.
        inbound: dict[str, Endpoint] = {}
        for service, calls in [("c", ""), ("b", "c"), ("a", "b")]:
            app = DemoApp(MESH, calls)
            next_service = {calls: inbound[calls]} if calls else {}
            described = Sidecar(service, await enter(app.serving()), "demo", services=next_service)
            envoy = await enter(testbed.sidecar(folder, described, proxy))
            inbound[service] = envoy.listeners[INBOUND]
            app.through = envoy.listeners.get(OUTBOUND)

        # A laptop reaches the mesh's C, as through a VPN.
        laptops, commands = {}, {}
        for who, (secret, _) in tokens.items():
            laptops[who] = await enter(DemoApp(who, "c", inbound["c"]).serving())
            service = f"b={laptops[who].host}:{laptops[who].port}"
            commands[who] = await enter(testbed.laptop(folder, who, proxy.server, secret, service))
        session = await enter(aiohttp.ClientSession(timeout=TIMEOUT))
        yield Mesh(session, inbound["a"], laptops[ALICE], commands[ALICE])


# --- the scenes --------------------------------------------------------------------------------------------


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
    alice, bob = (json.dumps({"b": who}) for who in (ALICE, BOB))
    address = f"{mesh.direct.host}:{mesh.direct.port}"
    direct = json.dumps({"b": address})
    at_alice, at_bob = (Reply((MESH, who, MESH), "laptop", f"{who} (tunnel)") for who in (ALICE, BOB))

    yield Scene("none", await mesh.ask(None), Reply(EVERYWHERE, "", ""))
    yield Scene(direct, await mesh.ask(direct), at_alice._replace(reason=address))
    yield Scene(alice, await mesh.ask(alice), at_alice)

    async with asyncio.TaskGroup() as group:
        crowd = [(contract, group.create_task(mesh.ask(contract))) for contract in (alice, bob) * CROWD]
    for contract, expected in [(alice, at_alice), (bob, at_bob)]:
        shown = f"{contract} x{CROWD}, at once"
        every = [Scene(shown, task.result(), expected) for sent, task in crowd if sent == contract]
        yield next((scene for scene in every if not scene.good), every[0])

    broken = alice.removesuffix("}")
    yield Scene(broken, await mesh.ask(broken), Reply((), "error", "contract"))

    await stop(mesh.alice.process)
    gone = Reply(EVERYWHERE, "fallback", ALICE)
    yield Scene(f"{alice}, now offline", await fallen_back(mesh, alice), gone)
    yield Scene(bob, await mesh.ask(bob), at_bob)


async def fallen_back(mesh: Mesh, contract: str) -> Reply:
    """The first reply of the mesh's own service, or the last one within GONE_TIMEOUT_S."""
    deadline = time.monotonic() + GONE_TIMEOUT_S
    while True:
        reply = await mesh.ask(contract)
        if reply.result == "fallback" or time.monotonic() > deadline:
            return reply
        await asyncio.sleep(POLL_S)


# --- output -------------------------------------------------------------------------------------------------

TITLE = """
  A calls B calls C, each behind an Envoy with devroute's filter. Alice and Bob run their own B.
"""
HEADING = (CONTRACT, "A", "B", "C", f"{RESULT} at B")
WIDTHS = (34, 6, 6, 6)


def line(cells: Iterable[str], mark: str = " ") -> str:
    padded = [cell.ljust(width) for cell, width in zip(cells, (*WIDTHS, 0), strict=True)]
    return f"  {mark} {'  '.join(padded).rstrip()}"


def shown(scene: Scene) -> str:
    hops = (*scene.seen.hops, "", "", "")[:3]
    result = ": ".join(filter(None, (scene.seen.result, scene.seen.reason)))
    return line((scene.contract, *hops, result), "\N{CHECK MARK}" if scene.good else "\N{BALLOT X}")


def hints(mesh: Mesh) -> str:
    url = f"http://{mesh.entry.host}:{mesh.entry.port}/"
    contracts = [f'{{"b": "{BOB}"}}', f'{{"b": "{ALICE}"}}', '{"b": "8.8.8.8:80"}', "nonsense"]
    curls = [f"curl -si {url}", *(f"curl -si {url} -H '{CONTRACT}: {each}'" for each in contracts)]
    return "\n".join(["", "  The mesh runs until Ctrl-C. Try:", *(f"    {curl}" for curl in curls)])


async def _play(keep: bool) -> int:
    with tempfile.TemporaryDirectory(prefix="devroute-demo-") as folder:
        print(TITLE)
        async with mesh(Path(folder)) as running:
            print(line(HEADING), flush=True)
            good = True
            async for scene in scenes(running):
                print(shown(scene), flush=True)
                good = good and scene.good
            if not good:
                print("\n  At least one reply was not the expected one.", file=sys.stderr)
            if keep:
                print(hints(running), flush=True)
                with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how this ends
                    await asyncio.Event().wait()
    return OK if good else FAILED


async def run(keep: bool) -> int:
    """Run all scenes; 0 if each reply was the expected one. With `keep`, the mesh then runs until Ctrl-C.

    The first SIGINT, SIGTERM or SIGHUP ends it in order (130); further ones are ignored. Raises DevrouteError
    if a part cannot be started.
    """
    with contextlib.suppress(AttributeError, OSError):  # a terminal without check marks still shows the table
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    began = time.monotonic()
    playing = asyncio.current_task()
    assert playing is not None

    def interrupt(number: int) -> None:
        if not playing.cancelling():  # a second signal would cut the cleaning up short
            playing.cancel()

    try:
        with handle_signals(asyncio.get_running_loop(), interrupt, hangup=True):
            status = await _play(keep)
    except asyncio.CancelledError:
        print("\n  Interrupted; all processes have ended.", file=sys.stderr)
        return INTERRUPTED
    print(f"\n  {time.monotonic() - began:.0f} s, and all processes have ended.")
    return status
