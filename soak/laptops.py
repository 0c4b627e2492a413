"""Laptops that come and go: `devroute up`, killed, ended and suspended at random."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from devroute.mesh import testbed

from .ledger import Ledger

#: Seconds for which a laptop is online.
ONLINE_S = (3.0, 15.0)
#: Seconds until it is started again.
AWAY_S = (0.0, 2.0)
#: Seconds for which it is suspended: fewer than the 15 s after which its tunnel counts as dead.
ASLEEP_S = (0.5, 4.0)


async def live(
    ledger: Ledger,
    start: Callable[[], AbstractAsyncContextManager[testbed.Command]],
    name: str,
    online: asyncio.Event,
) -> None:
    """One laptop, until the soak ends. `start` brings it online; `online` is set when it is so first."""
    outages = ledger.outages
    while True:
        async with start() as started:
            outages.up(name)
            online.set()
            while True:
                await asyncio.sleep(random.uniform(*ONLINE_S))
                if random.random() >= 0.3:
                    break
                outages.down(f"{name} asleep")
                await _sleep_for_a_while(started.process)
                outages.up(f"{name} asleep")
                ledger.fine(f"(laptops put to sleep for up to {ASLEEP_S[1]:g} s)")
            how = random.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
            outages.down(name)
            started.process.send_signal(how)
            await started.process.wait()
        ledger.fine(f"(laptops ended by {how.name})")
        await asyncio.sleep(random.uniform(*AWAY_S))


async def _sleep_for_a_while(process: asyncio.subprocess.Process) -> None:
    process.send_signal(signal.SIGSTOP)
    try:
        await asyncio.sleep(random.uniform(*ASLEEP_S))
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGCONT)
