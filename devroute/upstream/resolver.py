"""Addresses of names, so that slow names delay no others: each look-up has a thread of its own, a name has
one look-up at a time, and their number is bounded. Names that have never had an address have a bound of their
own: invented ones cannot keep those out that work.

Answers are not kept: the system's resolver, which knows search domains, /etc/hosts and the cluster's DNS,
does not report for how long they are valid, and the cluster's DNS keeps them for that time itself.
"""

import asyncio
import contextlib
import socket
import threading
from dataclasses import dataclass
from typing import Final

from devroute.bounded_cache import BoundedCache

#: Look-ups at once of names that had an address before, and of others. Each has a thread.
MAX_KNOWN: Final = 64
MAX_UNKNOWN: Final = 32
#: Bytes of the names that had an address.
MAX_NAMES_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Resolved:
    """The addresses of a host, without repetitions, in the system's order. `name`: the one that has them, in
    lower case without a final dot: another one than the host's where that is an alias (CNAME); "" where the
    system does not report it."""

    addresses: list[str]
    name: str = ""


class Resolver:
    """For one event loop."""

    def __init__(self) -> None:
        self._known: BoundedCache[str, bool] = BoundedCache(MAX_NAMES_BYTES)
        self._running: dict[str, asyncio.Future[Resolved]] = {}
        self._unknown = 0

    async def look_up(self, host: str) -> Resolved:
        """Raises OSError."""
        running = self._running.get(host)
        if running is None:
            running = self._start(host, self._known.get(host) is not None)
        return await asyncio.shield(running)  # others may wait for it

    def _start(self, host: str, known: bool) -> "asyncio.Future[Resolved]":
        unknown = self._unknown
        busy, most = (len(self._running) - unknown, MAX_KNOWN) if known else (unknown, MAX_UNKNOWN)
        if busy >= most:
            raise OSError(None, f"{most} other names are being looked up already")
        loop = asyncio.get_running_loop()
        future = self._running[host] = loop.create_future()
        self._unknown += not known

        def ended(outcome: Resolved | OSError) -> None:
            del self._running[host]
            self._unknown -= not known
            if isinstance(outcome, OSError):
                future.set_exception(outcome)
                future.exception()  # all that waited may have given up
                return
            if not known:
                self._known.put(host, True, len(host))
            future.set_result(outcome)

        def run() -> None:
            outcome = _resolve(host)
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended, outcome)

        try:
            threading.Thread(target=run, name="look-up", daemon=True).start()
        except RuntimeError as error:  # a limit of processes or memory
            ended(OSError(None, str(error)))
        return future


def _resolve(host: str) -> Resolved | OSError:
    """Blocks."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_CANONNAME)
    except OSError as error:
        return error
    except UnicodeError:  # a label that is too long for IDNA
        return socket.gaierror(socket.EAI_NONAME, "not a name")
    name = next((entry[3] for entry in found if entry[3]), "")
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return Resolved(addresses, name.lower().removesuffix("."))
