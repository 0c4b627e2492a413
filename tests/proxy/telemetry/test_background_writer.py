"""Lines whose reader stalls or is gone, or whose disk is full: none of it blocks, and it is counted."""

import asyncio
import contextlib
import json
import os
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import pytest

from devroute.proxy.telemetry.background_writer import STALLED, BackgroundWriter, LineFile
from tests.support.eventually import eventually

LINE = b"a line of some length\n"


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for each in ends:
        os.close(each)


async def read_until_quiet(descriptor: int, writer: BackgroundWriter) -> bytes:
    """What a reader gets that has begun to read again."""
    os.set_blocking(descriptor, False)
    read = bytearray()

    def everything() -> bool:
        is_last = writer.waiting == 0  # asked before the pipe is emptied, which may be filled meanwhile
        with contextlib.suppress(BlockingIOError):
            while True:
                read.extend(os.read(descriptor, 65536))
        return is_last

    await eventually(everything)
    return bytes(read)


def test_without_a_thread_lines_are_lost_until_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    written: list[bytes] = []
    writer = BackgroundWriter(written.append)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        writer.write(LINE * 2)
    assert (writer.lost, writer.waiting, writer.problem) == (2, 0, "can't start new thread")
    assert writer.close()
    writer.write(LINE)
    assert writer.close()
    assert (written, writer.lost, writer.problem) == ([LINE], 2, None)


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_reader_that_stalls_costs_lines_and_nothing_else(
    pipe: tuple[int, int], blocking: bool
) -> None:
    limit = 256 * 1024
    os.set_blocking(pipe[1], blocking)
    writer = BackgroundWriter(LineFile(pipe[1]).write, limit)
    batch = LINE * 100
    batches = 10 * limit // len(batch)
    for _ in range(batches):
        writer.write(batch)
    assert writer.waiting <= limit
    assert (writer.lost > 0, writer.problem) == (True, STALLED)
    read = await read_until_quiet(pipe[0], writer)
    assert (read.count(LINE) + writer.lost, len(read)) == (batches * 100, read.count(LINE) * len(LINE))
    assert writer.problem is None
    writer.write(b"later\n")
    assert await read_until_quiet(pipe[0], writer) == b"later\n"
    assert writer.close()


async def test_a_line_that_still_fits_is_no_sign_of_a_reader() -> None:
    reads = threading.Event()
    writer = BackgroundWriter(lambda _: reads.wait() and None, limit=10)
    for line in (b"waiting\n", b"lost\n", b"\n"):
        writer.write(line)
    assert (writer.waiting, writer.lost, writer.problem) == (9, 1, STALLED)
    reads.set()
    await eventually(lambda: writer.waiting == 0)
    assert writer.problem is None
    assert writer.close()


async def test_a_reader_that_has_gone_is_counted(pipe: tuple[int, int]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    writer = BackgroundWriter(LineFile(writing).write)
    writer.write(LINE * 3)
    assert writer.close()
    assert (writer.lost, writer.problem) == (3, "Broken pipe")
    os.close(writing)


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """No file of this process may become larger; what exceeds that is cut off, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", [0, 1, len(LINE) - 1, len(LINE), len(LINE) + 1, 2 * len(LINE) - 1])
async def test_a_disk_that_was_full_damages_no_later_line(tmp_path: Path, room: int) -> None:
    file = tmp_path / "lines"
    with file.open("ab", buffering=0) as opened:
        writer = BackgroundWriter(LineFile(opened.fileno()).write)

        async def write(lines: bytes) -> None:
            writer.write(lines)
            await eventually(lambda: writer.waiting == 0)

        with room_for(room):
            await write(LINE * 2)
            await write(LINE)
        written = room // len(LINE)
        assert (writer.lost, writer.problem) == (3 - written, "File too large")
        await write(LINE * 2)
        assert writer.problem is None
        assert writer.close()
    cut = room % len(LINE)
    parts = [LINE * written, LINE[:cut] + b"\n" if cut else b"", LINE * 2]
    assert file.read_bytes() == b"".join(parts)


async def test_a_proxy_whose_output_is_not_read_goes_on(tmp_path: Path) -> None:
    """Its log and its trail fill their pipes and then its memory's share; later both say what is missing."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "proxy", "--host", "127.0.0.1", "--audit", "-"),
        *("--data-port", "0", "--control-port", "0", "--admin-port", "0"),
        cwd=tmp_path,
        env={"HOME": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        limit=4096,  # so much the streams read ahead
    )
    assert process.stdout is not None
    assert process.stderr is not None
    ready: dict[str, object] = {}
    while ready.get("event") != "proxy.ready":
        ready = json.loads(await process.stderr.readline())
    request = b"GET /%b HTTP/1.1\r\nhost: foo\r\nx-request-id: %b\r\n" % (b"a" * 500, b"b" * 64)
    request += b'x-devroute: {"foo": "alice"}\r\nx-devroute-matched: foo\r\n\r\n'
    admin = f"http://127.0.0.1:{ready['admin_port']}"
    reader, client = await asyncio.open_connection("127.0.0.1", int(str(ready["data_port"])))

    async def send(count: int) -> None:
        client.write(request * count)
        for _ in range(count):
            head = await reader.readuntil(b"\r\n\r\n")
            length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))

    async def get(path: str) -> str:
        async with aiohttp.ClientSession() as session, session.get(admin + path) as response:
            assert response.status == 200
            return await response.text()

    async def lost() -> float:
        name = "devroute_log_dropped_total "
        return float(
            next(line for line in (await get("/metrics")).splitlines() if line.startswith(name))[len(name) :]
        )

    async with asyncio.timeout(60):
        while not await lost():
            await send(200)
        assert json.loads(await get("/readyz"))["log_problem"] == STALLED
        reading = asyncio.ensure_future(process.stdout.read())
        told = 0
        while told == 0:
            event = json.loads(await process.stderr.readline())
            if event["event"] == "log.lost":
                told = event["lines"]
        assert told > 0
        assert json.loads(await get("/readyz"))["log_problem"] is None
        client.close()
        process.terminate()
        rest, trail = await asyncio.gather(process.stderr.read(), reading)
    assert [json.loads(line) for line in rest.splitlines()][-1]["event"] == "proxy.stopped"
    assert all(json.loads(line) for line in trail.splitlines())
    await process.wait()
