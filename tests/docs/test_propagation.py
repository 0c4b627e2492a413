"""Each service in docs/propagation.md passes a contract on. One whose runtime is absent is skipped."""

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs import pages
from tests.support.eventually import eventually
from tests.support.paths import ROOT
from tests.tracers.middles import MIDDLES

PAGE = ROOT / "docs" / "propagation.md"
CONTRACT = '{"c": "bob"}'
BAGGAGE = "devroute=%7B%22c%22%3A%22bob%22%7D,team=qa"

#: The language of the page's block, the file's name, and the command that runs it.
SERVICES = {
    "python": ("app.py", [sys.executable, "app.py"]),
    "js": ("app.mjs", ["node", "app.mjs"]),
    "go": ("main.go", ["go", "run", "main.go"]),
    "java": ("App.java", ["java", "App.java"]),
    "ruby": ("app.rb", ["ruby", "app.rb"]),
    "php": ("app.php", ["php", "-S", "127.0.0.1:{port}", "app.php"]),
}
#: A compiler that starts with empty caches takes a while.
SLOW = {"go", "java"}
#: Debian has no .NET, so that no machine of ours can run it.
NOT_RUN = {"csharp"}


async def answers(port: int) -> bool:
    with suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        return True
    return False


@pytest.mark.parametrize(
    "language", [pytest.param(each, marks=pytest.mark.slow) if each in SLOW else each for each in SERVICES]
)
async def test_a_service_passes_the_contract_on(language: str, tmp_path: Path, unused_tcp_port: int) -> None:
    name, command = SERVICES[language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    (text,) = pages.code(PAGE, language)
    assert name in "".join(text.splitlines()[:2])
    (tmp_path / name).write_text(text, encoding="utf-8")
    heads: list[str] = []

    async def downstream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\nc")
        writer.close()

    async with await asyncio.start_server(downstream, "127.0.0.1", 0) as server:
        process = await asyncio.create_subprocess_exec(
            *(word.format(port=unused_tcp_port) for word in command),
            cwd=tmp_path,
            env=os.environ
            | {
                "PORT": str(unused_tcp_port),
                "DOWNSTREAM": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/",
            },
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            await eventually(lambda: answers(unused_tcp_port), f"{name} listens", within=120)
            reader, writer = await asyncio.open_connection("127.0.0.1", unused_tcp_port)
            request = f"GET / HTTP/1.1\r\nHost: b\r\nX-devroute: {CONTRACT}\r\nbaggage: {BAGGAGE}\r\n"
            writer.write(f"{request}Connection: close\r\n\r\n".encode())
            response = await asyncio.wait_for(reader.read(), 20)
            writer.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    assert b"200" in response.partition(b"\r\n")[0]
    (head,) = heads
    fields = dict(line.split(": ", 1) for line in head.splitlines()[1:] if line)
    found = {key.lower(): value for key, value in fields.items()}
    assert (found["x-devroute"], found["baggage"]) == (CONTRACT, BAGGAGE)


def test_every_service_of_the_page_is_run_or_known_not_to_be() -> None:
    assert {*SERVICES, *NOT_RUN} == set(pages.languages(PAGE))


def test_the_pages_table_of_tracers_is_the_one_that_is_tested() -> None:
    _, _, section = PAGE.read_text(encoding="utf-8").partition("## What survives\n")
    lines = [line for line in section.partition("\n##")[0].splitlines() if line.startswith("| ")]
    rows = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]
    assert [row[:-1] for row in rows[2:]] == [middle.row for middle in MIDDLES]
