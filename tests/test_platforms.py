"""Differences between systems, and that the agent imports nothing that one of them lacks."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from devroute.platforms import (
    Ended,
    config_folder,
    exit_code,
    handle_signals,
    runnable,
    signals_raise,
    state_folder,
    stop_listening,
    typed_keys,
)
from tests.support.authority import Authority
from tests.support.eventually import PATIENCE_S


def test_the_agent_imports_nothing_that_windows_lacks_and_no_uvloop() -> None:
    """Imports everything that `devroute up` and its page need, with these modules missing."""
    script = """
import sys
absent = "fcntl termios resource pwd grp tty pty readline uvloop envoy lupa"
for name in absent.split():
    sys.modules[name] = None
import devroute.cli.main, devroute.agent.app, devroute.agent.ui.page, devroute.agent.doctor.checks
import devroute.inspector.server, devroute.agent.api_client, devroute.agent.trace
ours = {name.partition(".")[0] for name, module in sys.modules.items() if module is not None}
print(*sorted(ours - set(sys.stdlib_module_names)))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    #: Pure Python, or with wheels for Linux, macOS and Windows. `backports` is an empty package that aiohttp
    #: meets where `make package` has been run.
    allowed = {
        *("devroute", "aiohttp", "aiohappyeyeballs", "aiosignal", "attr", "attrs", "frozenlist", "idna"),
        *("multidict", "propcache", "yarl", "h2", "hpack", "hyperframe", "httptools", "pydantic"),
        *("pydantic_core", "annotated_types", "annotated_doc", "typing_extensions", "typing_inspection"),
        *("yaml", "_yaml", "structlog", "typer", "click", "rich", "pygments", "markdown_it", "mdurl"),
        *("shellingham", "jwt", "cryptography", "_openssl", "_cffi_backend", "cffi", "colorama", "backports"),
        "sitecustomize",  # Debian's own
    }
    made_by_cython = ("_cython_", "cython_runtime", "_sysconfigdata", "__", "_distutils", "distutils")
    found = {name for name in done.stdout.split() if not name.startswith(made_by_cython)}
    assert found <= allowed


def test_the_agent_loads_no_cryptography_before_it_needs_some() -> None:
    """It costs an idle laptop 9 MiB."""
    modules = "{'jwt', 'cryptography'} & set(sys.modules)"
    script = f"import sys, devroute.cli.main, devroute.agent.app; print(*{modules})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == []


def test_the_folders_of_settings_and_state_are_the_system_s() -> None:
    unix = {"HOME": "/home/alice"}
    assert config_folder(unix, windows=False) == Path("/home/alice/.config/devroute")
    assert config_folder(unix | {"XDG_CONFIG_HOME": "/x"}, windows=False) == Path("/x/devroute")
    assert config_folder(unix | {"XDG_CONFIG_HOME": "x"}, windows=False) == Path(
        "/home/alice/.config/devroute"
    )
    assert config_folder({}, windows=False) is None
    windows = {"APPDATA": "C:/Users/alice/AppData/Roaming", "USERPROFILE": "C:/Users/alice"}
    assert config_folder(windows, windows=True) == Path("C:/Users/alice/AppData/Roaming/devroute")
    assert config_folder({"USERPROFILE": "C:/a"}, windows=True) == Path("C:/a/.config/devroute")
    assert config_folder({}, windows=True) is None
    assert state_folder(unix, windows=False) == Path("/home/alice/.local/state/devroute")
    assert state_folder(unix | {"XDG_STATE_HOME": "/x"}, windows=False) == Path("/x/devroute")
    assert state_folder({}, windows=False) is None
    local = {"LOCALAPPDATA": "C:/Users/alice/AppData/Local"}
    assert state_folder(local, windows=True) == Path("C:/Users/alice/AppData/Local/devroute")


@pytest.mark.parametrize(
    ("returned", "windows", "code"),
    [(3, False, 3), (-9, False, 137), (3, True, 3), (0xC000013A, True, 130), (-1073741510, True, 130)],
)
def test_a_child_s_exit_code_is_that_of_a_shell(returned: int, windows: bool, code: int) -> None:
    assert exit_code(returned, windows=windows) == code


def test_windows_finds_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npm = tmp_path / "npm"
    npm.write_text("")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert runnable(("npm", "start"), windows=True) == (str(npm), "start")
    assert runnable(("nothing", "x"), windows=True) == ("nothing", "x")
    assert runnable(("npm", "start"), windows=False) == ("npm", "start")


@pytest.mark.parametrize("windows", [False, True])
async def test_ctrl_c_is_handled_on_the_loop_and_restored_afterwards(windows: bool) -> None:
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()
    before = signal.getsignal(signal.SIGINT)
    with handle_signals(loop, signalled.set_result, windows=windows):
        os.kill(os.getpid(), signal.SIGINT)
        async with asyncio.timeout(20):
            assert await signalled == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) in (before, signal.default_int_handler)


@pytest.mark.skipif(sys.platform == "win32", reason="sends signals")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_signals_that_end_a_process_are_raised_and_restored_afterwards(name: str) -> None:
    number = signal.Signals[name]
    before = signal.getsignal(number)
    with pytest.raises(Ended), signals_raise():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.skipif(sys.platform == "win32", reason="opens a pseudo-terminal")
async def test_the_terminal_stays_blocking_for_those_who_print(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop makes what it reads non-blocking: a page of more than 4 KiB would be cut off."""
    loop, read = asyncio.get_running_loop(), list[int]()
    monkeypatch.setattr(loop, "add_reader", lambda descriptor, callback: read.append(descriptor))
    monkeypatch.setattr(loop, "remove_reader", lambda descriptor: None)
    master, slave = os.openpty()
    with os.fdopen(master, "rb"), os.fdopen(slave, encoding="utf-8") as terminal:
        with typed_keys(terminal, lambda keys: None):
            os.set_blocking(read[0], False)
            assert os.get_blocking(terminal.fileno())
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(read[0])


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("turns", range(4))
async def test_a_connection_is_served_or_refused_however_late_it_comes(
    tmp_path: Path, tls: bool, turns: int
) -> None:
    """In one of these turns of the loop it has been accepted, and has no transport yet."""
    authority = Authority(tmp_path)
    ours = authority.server().context() if tls else None
    theirs = ssl.create_default_context(cafile=str(authority.file)) if tls else None
    server = await asyncio.get_running_loop().create_server(Greeter, "127.0.0.1", 0, ssl=ours)
    client = socket.create_connection(server.sockets[0].getsockname())
    for _ in range(turns):
        await asyncio.sleep(0)
    await stop_listening(server)
    read = b""
    async with asyncio.timeout(PATIENCE_S):
        with contextlib.suppress(ConnectionError):
            name = "localhost" if tls else None
            reader, writer = await asyncio.open_connection(sock=client, ssl=theirs, server_hostname=name)
            read = await reader.read()
            writer.close()
    assert read in (b"hello", b"")
    assert turns < 2 or read == b"hello"
