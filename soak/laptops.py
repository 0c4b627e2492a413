"""People whose laptops come and go: `devroute up`, killed, ended and put to sleep at random."""

import asyncio
import contextlib
import random
import signal
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from devroute.mesh import testbed

from .ledger import Ledger

#: Between a laptop's coming and its going, in seconds.
ONLINE_S = (3.0, 15.0)
#: Between its going and its coming back.
AWAY_S = (0.0, 2.0)
#: How long a laptop sleeps: less than it takes to be thought dead (15 s), so that it loses nothing.
ASLEEP_S = (0.5, 4.0)


async def live(
    ledger: Ledger,
    start: Callable[[], AbstractAsyncContextManager[testbed.Command]],
    name: str,
    online: asyncio.Event,
) -> None:
    """One laptop for as long as the soak runs. `start` brings it online; `online` is set once it was."""
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
