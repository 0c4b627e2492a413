"""`devroute up` in the background and in a second terminal, `devroute status` and `devroute down`."""

import asyncio
import json
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from devroute import private_files
from devroute.agent.control import client
from devroute.agent.control.running import Running, all_running
from devroute.agent.log_file import MAX_LOGS, keep_small, new_log
from devroute.cli.main import run
from devroute.platforms import lock
from tests.support.eventually import eventually
from tests.support.loopback import Site, site
from tests.support.shell import devroute

Captured = pytest.CaptureFixture[str]


@pytest.fixture
async def where(tmp_path: Path) -> AsyncIterator[Site]:
    with capture_logs():  # the server's log, on the output of the commands
        async with site() as running:
            yield running
            for left in all_running(state(tmp_path)):
                await asyncio.to_thread(client.stop, left, 10.0)


def known(where: Site, folder: Path) -> dict[str, str]:
    return {
        "DEVROUTE_SERVER": where.url,
        "DEVROUTE_TOKEN": "alice-token",
        "DEVROUTE_INSPECTOR": "off",
        "XDG_STATE_HOME": str(folder),
    }


def state(folder: Path) -> Path:
    return folder / "devroute"


async def prints(capsys: Captured, environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    code = await asyncio.to_thread(run, arguments, environment)
    return code, capsys.readouterr().out


async def ask(it: Running, method: str, path: str) -> dict[str, Any]:
    return await asyncio.to_thread(client.request, it, method, path)


async def test_it_is_online_and_its_app_listens_when_the_command_returns_and_down_ends_both(
    tmp_path: Path, where: Site, capsys: Captured, unused_tcp_port: int
) -> None:
    environment = known(where, tmp_path)
    serve = (sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(unused_tcp_port))
    line = ("up", f"foo=127.0.0.1:{unused_tcp_port}", "--detach", "--wait", "--output", "json")
    line += ("--reach", "c.shop:80")
    code, out, err = await devroute(tmp_path, *line, "--", *serve, **environment)
    assert (code, err) == (0, "")
    started = json.loads(out)
    assert started["services"][0]["listening"]
    assert [each["service"] for each in started["reach"]["ports"]] == ["c.shop:80"]
    assert [each["name"] for each in where.registry.listing()] == ["alice"]
    (it,) = all_running(state(tmp_path))
    assert (it.pid, it.log) == (started["pid"], started["log"])
    assert os.getsid(it.pid) == it.pid  # no terminal's end ends it
    assert private_files.hold(Path(it.log or "")) is None

    code, out = await prints(capsys, environment, "down", "bob")
    assert (code, out) == (0, "no devroute up of bob runs\n")
    code, out = await prints(capsys, environment, "down", "alice", "--output", "json")
    assert (code, json.loads(out)["ended"]) == (
        0,
        [{"name": "alice", "pid": it.pid, "server": where.url}],
    )
    assert where.registry.listing() == []
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", unused_tcp_port)
    events = [json.loads(each) for each in Path(started["log"]).read_text().splitlines() if each[:1] == "{"]  # noqa: ASYNC240
    assert [events[0]["event"], events[-1]["event"]] == ["online", "ended"]
    assert await prints(capsys, environment, "down") == (0, "no devroute up runs\n")


@pytest.mark.parametrize(
    ("arguments", "changes", "code", "problem"),
    [
        ((), {"DEVROUTE_TOKEN": "wrong"}, 30, "the token is not known"),
        ((), {"DEVROUTE_SERVER": "http://127.0.0.1:9"}, 40, "devroute: "),
        (("--wait", "--timeout", "0.1"), {}, 60, "the app of 'foo' at http://127.0.0.1:9 did not listen"),
        (("--wait", "--timeout", "0.1", "--", "sleep", "60"), {}, 60, "Its output is in /"),
        (("--", "/no/such/command"), {}, 20, "there is no such command"),
        (("--wait", "--", "sh", "-c", "echo no port"), {}, 1, "it has ended with 0 before it was ready;"),
        (("--wait", "--", "sh", "-c", "echo no port; exit 3"), {}, 3, "\n  no port\n"),
    ],
    ids=["refused", "unreachable", "app", "started", "command", "ended", "failed"],
)
async def test_what_keeps_it_from_being_ready_is_the_command_s_error(
    tmp_path: Path,
    where: Site,
    arguments: tuple[str, ...],
    changes: dict[str, str],
    code: int,
    problem: str,
) -> None:
    environment = known(where, tmp_path) | changes
    found = await devroute(tmp_path, "up", "foo=127.0.0.1:9", "--detach", *arguments, **environment)
    assert found[:2] == (code, "")
    assert problem in found[2]
    assert all_running(state(tmp_path)) == []


async def test_a_signal_before_it_is_ready_ends_the_process_in_the_background(
    tmp_path: Path, where: Site
) -> None:
    line = ("up", "foo=127.0.0.1:9", "--detach", "--wait")
    async with terminal(tmp_path, known(where, tmp_path), *line) as command:
        (it,) = await eventually(lambda: all_running(state(tmp_path)))
        command.terminate()
        assert await command.wait() == 143
        assert where.registry.listing() == []
        with pytest.raises(ProcessLookupError):
            os.kill(it.pid, 0)


FORKED = """
import os, signal, sys
from pathlib import Path
from devroute.cli.background import run_in_background
fork = os.fork
def signalled():
    process = fork()
    if process:
        print(process, flush=True)
        os.kill(os.getpid(), signal.SIGTERM)
    return process
os.fork = signalled
print(run_in_background(lambda ready: signal.sigtimedwait({signal.SIGUSR1}, 60) or 0, Path(sys.argv[1])))
"""


async def test_a_signal_in_the_moment_of_the_fork_ends_the_process_in_the_background(tmp_path: Path) -> None:
    log = tmp_path / "up.log"
    log.touch()
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FORKED, log, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await command.communicate()
    process, result = output.decode().splitlines()
    assert (result, command.returncode) == ("({}, 143)", 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)


async def test_a_second_terminal_adds_its_services_to_the_first_and_goes_on_when_that_ends(
    tmp_path: Path, where: Site, capsys: Captured
) -> None:
    environment = known(where, tmp_path)

    def processes() -> list[list[str]]:
        return [[s["service"] for s in each["services"]] for each in where.registry.listing()]

    async with asyncio.timeout(120), terminal(tmp_path, environment, "up", "foo=9") as first:
        await eventually(lambda: all_running(state(tmp_path)))
        async with terminal(tmp_path, environment, "up", "bar=9", "--output", "json") as second:
            added = json.loads(await second.stdout.readline())
            assert (added["event"], added["service"], "text" in added) == ("added", "bar", False)
            assert processes() == [["foo", "bar"]]
            assert (await devroute(tmp_path, "up", "bar=9", **environment))[0] == 30  # it is taken
            second.send_signal(signal.SIGINT)
            assert await second.wait() == 130
            assert processes() == [["foo"]]
        async with terminal(tmp_path, environment, "up", "baz=9") as second:
            assert b"served by the devroute up of alice" in await second.stdout.readline()
            await eventually(lambda: processes() == [["foo", "baz"]])
            _, shown = await prints(capsys, environment, "status")  # this server has no such API
            assert "alice is online at" in shown
            assert "  baz -> http://localhost:9, whose app does not listen" in shown
            first.send_signal(signal.SIGINT)
            assert await first.wait() == 130
            await eventually(lambda: [each.pid for each in all_running(state(tmp_path))] == [second.pid])
            assert processes() == [["baz"]]
            assert (await prints(capsys, environment, "down"))[0] == 0
            assert await second.wait() == 0


@pytest.mark.parametrize("more", [("--separate",), ("--only-path", "/api/"), ("--", "true")])
async def test_what_differs_registers_by_itself(tmp_path: Path, where: Site, more: tuple[str, ...]) -> None:
    environment = known(where, tmp_path)
    async with terminal(tmp_path, environment, "up", "foo=9"):
        await eventually(lambda: all_running(state(tmp_path)))
        async with terminal(tmp_path, environment, "up", "bar=9", *more) as second:
            assert b"alice is online at" in await second.stdout.readline()


class terminal:
    """A command whose output is read as it comes; killed with the block."""

    def __init__(self, folder: Path, environment: dict[str, str], *arguments: str) -> None:
        self._folder, self._environment, self._arguments = folder, environment, arguments

    async def __aenter__(self) -> Any:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "devroute", *self._arguments),
            env={"HOME": str(self._folder), "PATH": os.environ["PATH"], **self._environment},
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
        )
        return self._process

    async def __aexit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self._process.terminate()
        await self._process.wait()


# --- the log ------------------------------------------------------------------------------------------------


async def test_a_log_is_bounded_and_so_is_their_number(tmp_path: Path) -> None:
    logs = [new_log(tmp_path)]
    with logs[0].open("a") as writer:
        keeping = asyncio.get_running_loop().create_task(keep_small(logs[0], 10, 0.01, writer.fileno()))
        writer.write("x" * 11)
        writer.flush()
        await eventually(lambda: not logs[0].stat().st_size)
        writer.write("y")
        writer.flush()
        keeping.cancel()
    assert logs[0].read_text() == "y"
    older = logs[0].with_suffix(".log.1")
    assert older.read_text() == "x" * 11
    assert {stat.S_IMODE(each.stat().st_mode) for each in (logs[0], older)} == {0o600}
    logs[0].unlink()
    for number in range(MAX_LOGS + 3):
        (tmp_path / f"up-{number}.log").touch()
    new_log(tmp_path)
    assert len([each for each in os.listdir(tmp_path) if each.endswith(".log")]) == MAX_LOGS


def old_log(folder: Path) -> tuple[Path, Path]:
    """Its two files, older than as many others as are kept."""
    for number in range(MAX_LOGS):
        (folder / f"up-{number}.log").touch()
    files = folder / "up-old.log", folder / "up-old.log.1"
    for each in files:
        each.touch()
        os.utime(each, (0, 0))
    return files


def test_a_log_stays_while_a_process_writes_to_it(tmp_path: Path) -> None:
    log, older = old_log(tmp_path)
    with log.open("a") as writer:
        assert lock(writer.fileno())
        new_log(tmp_path)
        assert (log.exists(), older.exists()) == (True, True)


def test_the_log_of_a_process_that_has_ended_goes_with_its_second_file(tmp_path: Path) -> None:
    log, older = old_log(tmp_path)
    new_log(tmp_path)
    assert (log.exists(), older.exists()) == (False, False)


async def test_a_log_that_someone_deletes_is_bounded_still(tmp_path: Path) -> None:
    log = new_log(tmp_path)
    with log.open("a") as writer:
        log.unlink()
        keeping = asyncio.get_running_loop().create_task(keep_small(log, 10, 0.01, writer.fileno()))
        writer.write("x" * 11)
        writer.flush()
        await eventually(lambda: not os.fstat(writer.fileno()).st_size)
        keeping.cancel()
    assert os.listdir(tmp_path) == []
