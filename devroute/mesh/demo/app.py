"""Runs the demo: starts the mesh, plays the scenes, and leaves it running if asked to."""

import asyncio
import contextlib
import shlex
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from devroute.mesh.demo import text
from devroute.mesh.demo.journal import Journal
from devroute.mesh.demo.loopback import served
from devroute.mesh.demo.mesh import FIRST, LAST, YOU, Mesh, mesh
from devroute.mesh.demo.scenes import scenes
from devroute.mesh.demo.server import JournalPage
from devroute.mesh.envoy import envoy_binary
from devroute.platforms import INTERRUPTED, handle_signals

#: Exit codes (DESIGN 6).
OK: Final = 0
FAILED: Final = 1


async def run(keep: bool, service: str = "b") -> int:
    """Run all scenes; 0 if each reply was the expected one. With `keep`, the mesh then runs until Ctrl-C.

    The first SIGINT, SIGTERM or SIGHUP ends it in order (130); further ones are ignored. Raises DevrouteError
    if a part cannot be started.
    """
    with contextlib.suppress(AttributeError, OSError):  # a terminal without check marks still shows the table
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    envoy_binary()  # raises, before anything is printed
    console = Console(highlight=False, soft_wrap=True)
    began = time.monotonic()
    playing = asyncio.current_task()
    assert playing is not None

    def interrupt(number: int) -> None:
        if not playing.cancelling():  # a second signal would cut the cleaning up short
            playing.cancel()

    try:
        with handle_signals(asyncio.get_running_loop(), interrupt, hangup=True):
            status = await _play(console, keep, service)
    except asyncio.CancelledError:
        print("\n  Interrupted; all processes have ended.", file=sys.stderr)
        return INTERRUPTED
    print(text.ended(time.monotonic() - began, None if keep else _own_command()))
    return status


async def _play(console: Console, keep: bool, service: str) -> int:
    services = FIRST, service, LAST
    journal = Journal()
    console.print(text.title(services))
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="devroute-demo-")))
        with _progress(console) as progress:
            running = await stack.enter_async_context(mesh(folder, service, journal, progress, reach=keep))
        console.print(text.heading(services))
        good = True
        async for scene in scenes(running):
            console.print(text.row(scene, services))
            good = good and scene.good
        if not good:
            print("\n  At least one reply was not the expected one.", file=sys.stderr)
        if keep:
            await _keep(console, running, journal)
    return OK if good else FAILED


async def _keep(console: Console, running: Mesh, journal: Journal) -> None:
    service, program = running.service, _own_command()
    about = {
        "services": running.services,
        "up": text.up(program, service),
        "curl": text.curl(running.url, {service: YOU}),
    }
    async with served(JournalPage(journal, about).add_routes) as page:
        console.print(text.next_steps(running, program, page))
        with contextlib.suppress(asyncio.CancelledError):  # Ctrl-C is how this ends
            await asyncio.Event().wait()


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str], object]]:
    """On a terminal, a line with what is being started, which is gone afterwards."""
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda what: None
        return
    with console.status("") as status:
        yield lambda what: status.update(f"  starting {what}")


def _own_command() -> str:
    """What to type for this devroute in another terminal, where the virtual environment that `make demo` made
    is not in the PATH."""
    own, known = Path(sysconfig.get_path("scripts"), "devroute"), shutil.which("devroute")
    if known is not None and own.exists() and own.samefile(known):
        return "devroute"
    return shlex.quote(str(own)) if own.exists() else f"{shlex.quote(sys.executable)} -m devroute"
