"""python -m soak [SECONDS]: exits with 0 if no response reached a wrong client, all failures are explained,
and memory and file descriptors did not grow."""

import argparse
import asyncio
import logging
import sys
import tempfile
import time
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.istio.sidecar import INBOUND, Sidecar

from . import good, laptops, mallory
from .apps import honest, poisonous
from .hostile import Attacks
from .ledger import MACHINE, Ledger
from .watch import LONG_S, Watched, beat, sample

#: Well-behaved clients at the same time.
CALLERS = 16
LAPTOPS = ("laptop-0", "laptop-1", "laptop-2")


class _Over(Exception):
    """The time is up."""


async def soak(seconds: float, folder: Path) -> int:
    ledger = Ledger()
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        tokens = {name: new_token(name) for name in (*LAPTOPS, good.POISONER, mallory.NAME)}
        secrets = {name: secret for name, (secret, _) in tokens.items()}
        proxy = await enter(testbed.proxy(folder, [record for _, record in tokens.values()]))
        described = Sidecar("foo", await enter(honest(good.SERVICE)))
        envoy = await enter(testbed.sidecar(folder, described, proxy))
        entry = envoy.listeners[INBOUND]
        direct = await enter(honest(good.DIRECT))
        poisoner = await enter(poisonous(good.POISONER))
        poisoned = f"foo={poisoner.port}"
        await enter(testbed.laptop(folder, good.POISONER, proxy.server, secrets[good.POISONER], poisoned))
        session = await enter(aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=200)))
        way = good.Way(entry, LAPTOPS, {good.DIRECT: f"{direct.host}:{direct.port}"})
        processes = [Watched("proxy", proxy.command.process.pid), Watched("Envoy", envoy.process.pid)]
        online = [asyncio.Event() for _ in LAPTOPS]
        arrivals: list[Coroutine[Any, Any, None]] = []
        for name, event in zip(LAPTOPS, online, strict=True):
            port = (await enter(honest(name))).port
            start = partial(testbed.laptop, folder, name, proxy.server, secrets[name], f"foo={port}")
            arrivals.append(laptops.live(ledger, start, name, event))
        work: list[Coroutine[Any, Any, None]] = [sample(processes), beat(ledger, processes)]
        work += [good.ask_for_ever(ledger, session, way) for _ in range(CALLERS)]
        work += [mallory.live(ledger, proxy.server, secrets[mallory.NAME])]
        work += [mallory.call(ledger, session, entry) for _ in range(2)]
        work += Attacks(ledger, entry, proxy.data, proxy.control).all(session)
        began = time.monotonic()
        try:
            async with asyncio.TaskGroup() as group:
                for each in arrivals:
                    group.create_task(each)
                for event in online:
                    await event.wait()
                for each in work:
                    group.create_task(each)
                await asyncio.sleep(seconds)
                raise _Over
        except* _Over:
            pass
        alive = [process.returncode is None for process in (proxy.command.process, envoy.process)]
    return report(ledger, processes, time.monotonic() - began, all(alive))


def report(ledger: Ledger, processes: list[Watched], seconds: float, alive: bool) -> int:
    print("\n".join(ledger.report()))
    requests = sum(count for what, count in ledger.outcomes.items() if not what.startswith("("))
    print(f"\n{requests:,} requests and attacks in {seconds:.0f} s")
    print(f"delivered to a wrong requester: {len(ledger.wrong)}")
    print(f"unexplained errors: {len(ledger.unexplained)}")
    print(f"this machine stood still {ledger.outages.count(MACHINE)} times")
    flat = True
    for process in processes:
        if process.samples:
            print(process.line())
            flat = flat and (process.flat or seconds < LONG_S)
    verdict = ledger.good and flat and alive
    print(
        "PASSED"
        if verdict
        else f"FAILED{'' if flat else ': memory or descriptors grow'}{'' if alive else ': a process died'}"
    )
    return 0 if verdict else 1


def main() -> int:
    parser = argparse.ArgumentParser(prog="soak", description=__doc__)
    parser.add_argument("seconds", type=float, nargs="?", default=600.0)
    options = parser.parse_args()
    logging.getLogger("aiohttp").setLevel(logging.CRITICAL)  # the apps' view of clients that go away
    with tempfile.TemporaryDirectory(prefix="devroute-soak-") as folder:
        return asyncio.run(soak(options.seconds, Path(folder)))


if __name__ == "__main__":
    sys.exit(main())
