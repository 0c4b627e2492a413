"""Keeps the captures of one `devroute up` for the next, in a file of the user's own (`inspector_history`).

The file has a line for each completed capture, as the store has it, that is redacted. Owns the file's format
and bounds; nothing of it runs on the path of a request. What cannot be read or written is reported, and never
keeps `devroute up` from running.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final

from devroute import private_files
from devroute.errors import HarInvalid
from devroute.inspector import har_reader, har_writer
from devroute.inspector.capture import Capture
from devroute.inspector.inspection import Inspection
from devroute.inspector.state import InspectorState
from devroute.inspector.store import CaptureStore
from devroute.tasks import TaskOwner, is_set_within

#: The first line.
HEADER: Final = b'{"devroute-history": 1}\n'

#: Seconds between two writes, and captures of one.
WRITE_SECONDS: Final = 1.0
BATCH: Final = 500

#: Beyond every number of captures; JavaScript's numbers are exact up to here.
MAX_ID: Final = 2**53


#: Redacts what the store has not redacted itself: messages of gRPC.
Redact = Callable[[Capture], Awaitable[None]]

#: The id at the start of each line.
_ID: Final = re.compile(rb'\{"id": ([1-9][0-9]{0,15}),')


class HistoryFile:
    """The file. `limit`: bytes, beyond which it is rewritten with the newest captures, for half of them. All
    methods block, and raise OSError."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._lock: BinaryIO | None = None

    def open(self) -> bool:
        """False if another process has it."""
        self._lock = private_files.hold(self._path.with_suffix(".lock"))
        if self._lock is not None and self._path.exists():
            self._path.chmod(0o600)
        return self._lock is not None

    def close(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def read(self) -> list[bytes]:
        """The lines of the newest captures in it. Raises HarInvalid if it is no history of this version."""
        if not self._path.exists():
            self.rewrite(())
        with self._path.open("rb") as stream:
            if stream.readline(len(HEADER)) != HEADER:
                raise HarInvalid("it is no history of this version of devroute")
            size = self._path.stat().st_size
            if size > 2 * self._limit:  # written with a larger limit: its end has the newest
                stream.seek(size - 2 * self._limit)
                stream.readline()
            return stream.readlines()

    def add(self, captures: Iterable[Capture]) -> bool:
        """Append these; whether the file has become too large."""
        private_files.append(self._path, b"".join(map(_line, captures)))
        return self._path.stat().st_size > self._limit

    def rewrite(self, newest_first: Iterable[Capture]) -> None:
        """Replace everything by these, as far as half of the limit reaches."""
        lines: list[bytes] = []
        room = self._limit // 2
        for capture in newest_first:
            lines.append(_line(capture))
            room -= len(lines[-1])
            if room < 0:
                lines.pop()
                break
        private_files.replace(self._path, HEADER + b"".join(reversed(lines)))

    def put_aside(self) -> Path:
        """Rename a file that cannot be read; returns its new name."""
        aside = self._path.with_suffix(".unreadable")
        self._path.replace(aside)
        return aside


def _line(capture: Capture) -> bytes:
    document = {"id": capture.id, "comparison": capture.comparison, "entry": har_writer.entry(capture)}
    return json.dumps(document).encode() + b"\n"


def _read(line: bytes, number: int) -> Capture:
    """Raises HarInvalid, ValueError, RecursionError."""
    document = json.loads(line)
    if not isinstance(document, dict):
        raise HarInvalid("no object")
    capture = har_reader.read_entry(document.get("entry"), number)
    if isinstance(capture, har_reader.Unreadable):
        raise HarInvalid(capture.reason)
    known = document.get("id")
    if not isinstance(known, int) or not 0 < known < MAX_ID:
        raise HarInvalid("no id")
    capture.id = known
    capture.comparison = _comparison(document.get("comparison"))
    return capture


def _comparison(found: Any) -> list[dict[str, Any]] | None:
    """The differences, None unless they have the form of inspector/compare.py."""
    if not isinstance(found, list):
        return None
    names = {"where", "left", "right"}
    good = all(isinstance(each, dict) and each.keys() == names for each in found) and all(
        text is None or isinstance(text, str) for each in found for text in each.values()
    )
    return found if good else None


class History:
    """Loads what was read of the file into the store, and then writes what the store completes to the file, a
    moment later and in a thread."""

    def __init__(
        self,
        store: CaptureStore,
        file: HistoryFile,
        lines: list[bytes],
        report: Callable[[str], None],
        redact: Redact,
    ) -> None:
        self._store = store
        self._redact = redact
        self._file = file
        self._lines = lines
        self._report = report
        self._waiting: dict[int, Capture] = {}
        self._cleared = False
        self._due = asyncio.Event()
        self._ending = asyncio.Event()
        #: Whether the store has what the file has, so that it may be rewritten.
        self._complete = False

    def changed(self, event: str, capture: Capture | None, details: dict[str, Any]) -> None:
        """A subscriber of the store."""
        if capture is None:
            self._waiting.clear()
            self._cleared = True
        elif event == "done":
            self._waiting[capture.id] = capture
        else:
            return
        self._due.set()

    def end(self) -> None:
        """Have `run` write what is waiting, and return."""
        self._ending.set()
        self._due.set()

    async def run(self) -> None:
        """Write, until `end` is called or the file cannot be written."""
        try:
            await self._load()
            ending = False
            while not ending:
                await self._due.wait()
                ending = await is_set_within(self._ending, WRITE_SECONDS)
                self._due.clear()
                while self._cleared or self._waiting:
                    await self._write_batch()
        except OSError as error:
            self._report(f"the inspector's history is not written any more: {error.strerror}")

    async def _load(self) -> None:
        """Restore the earlier captures, in turns that leave the event loop to the requests."""
        found: dict[int, tuple[Capture, int]] = {}
        skipped = 0
        lines, self._lines = self._lines, []
        for number, line in enumerate(lines, 1):
            try:
                capture = _read(line, number)
                size = self._store.redacted(capture)
            except (HarInvalid, ValueError, RecursionError):
                skipped += 1
            else:  # a later line of the same capture replaces it
                found[capture.id] = capture, size
            await asyncio.sleep(0)
            if self._cleared or self._ending.is_set():
                return
        self._store.restore([found[number] for number in sorted(found)])
        self._complete = True
        if skipped:
            total = skipped + len(found)
            self._report(f"{skipped} of {total} requests in the inspector's history could not be read")
            await self._rewrite()  # also ends a last line that was cut

    async def _rewrite(self) -> None:
        completed = [each for each in self._store.newest_first() if each.state != "open"]
        for capture in completed:
            await self._redact(capture)
        await asyncio.to_thread(self._file.rewrite, completed)

    async def _write_batch(self) -> None:
        if self._cleared:
            self._cleared = False
            self._complete = True
            await asyncio.to_thread(self._file.rewrite, ())
        batch = list(self._waiting.values())[:BATCH]
        for capture in batch:
            del self._waiting[capture.id]
        kept = [capture for capture in batch if capture.stored]
        for capture in kept:
            await self._redact(capture)
        if await asyncio.to_thread(self._file.add, kept) and self._complete:
            await self._rewrite()


@asynccontextmanager
async def keeping(
    store: CaptureStore, path: Path, report: Callable[[str], None], redact: Redact
) -> AsyncIterator[None]:
    """Load the earlier captures into the store, and keep those to come. `report` gets a line for the user
    where something is in the way."""
    file = HistoryFile(path, store.max_total)
    try:
        lines = await _opened(file, report)
        if lines is None:
            yield
            return
        store.reserve(max((int(found[1]) for found in map(_ID.match, lines) if found), default=0))
        history = History(store, file, lines, report, redact)
        del lines
        unsubscribe = store.subscribe(history.changed)
        writing = TaskOwner().start(history.run())
        try:
            yield
        finally:
            unsubscribe()
            history.end()
            await writing
    finally:
        file.close()


async def _opened(file: HistoryFile, report: Callable[[str], None]) -> list[bytes] | None:
    """The lines of the file, None if no history can be kept."""
    try:
        if not await asyncio.to_thread(file.open):
            report("another devroute up has the inspector's history of these services: this one keeps none")
            return None
        try:
            return await asyncio.to_thread(file.read)
        except HarInvalid as error:
            aside = await asyncio.to_thread(file.put_aside)
            report(f"the inspector's history could not be read: {error.message}; it is now {aside}")
            return await asyncio.to_thread(file.read)
    except OSError as error:
        report(f"the inspector keeps no history: {error.strerror}")
        return None


@asynccontextmanager
async def keep_if_possible(
    inspection: Inspection, state: InspectorState, report: Callable[[str], None]
) -> AsyncIterator[None]:
    """`keeping`, if there is a place for it."""
    path = None
    try:
        path = state.history
    except OSError as error:
        report(f"the inspector keeps no history: {error.strerror}")
    async with AsyncExitStack() as stack:
        if path is not None:
            await stack.enter_async_context(keeping(inspection.store, path, report, inspection.redact))
        yield
