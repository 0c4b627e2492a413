"""Differences between Linux, macOS and Windows: no other module asks which system this is.

Owns the folders of the configuration and of the state, locks, sockets, signals, child processes and the
keyboard. Windows lacks fcntl, termios, SIGTERM from other processes and signal handlers of the loop. Modules
that one system lacks are imported inside functions, and so is asyncio, which `devroute --help` does not need.
"""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from devroute.quoting import Shell

if TYPE_CHECKING:
    import asyncio
    import socket

WINDOWS: Final = sys.platform == "win32"


def config_folder(environment: Mapping[str, str], *, windows: bool = WINDOWS) -> Path | None:
    """The folder of the user's own settings: ~/.config/devroute, or %APPDATA%\\devroute on Windows. None
    without a home, as in a container."""
    return _own_folder(environment, "APPDATA" if windows else "XDG_CONFIG_HOME", ".config", windows)


def state_folder(environment: Mapping[str, str], *, windows: bool = WINDOWS) -> Path | None:
    """The folder of what the user need not keep: ~/.local/state/devroute, or %LOCALAPPDATA%\\devroute on
    Windows. None without a home."""
    return _own_folder(environment, "LOCALAPPDATA" if windows else "XDG_STATE_HOME", ".local/state", windows)


def _own_folder(environment: Mapping[str, str], variable: str, in_home: str, windows: bool) -> Path | None:
    base = environment.get(variable)
    home = environment.get("USERPROFILE" if windows else "HOME")
    # The XDG base directory specification: relative paths are ignored.
    if base and (windows or base.startswith("/")):
        return Path(base, "devroute")
    return Path(home, in_home, "devroute") if home else None


def shell_in_use() -> Shell:
    """The shell that started this process, as far as its parents show it."""
    import shellingham

    try:
        name, _ = shellingham.detect_shell()
    except (OSError, RuntimeError, subprocess.SubprocessError):
        return "cmd" if WINDOWS else "posix"
    return "powershell" if name in ("powershell", "pwsh") else "cmd" if name == "cmd" else "posix"


def lock(descriptor: int, *, windows: bool = WINDOWS) -> bool:
    """Lock an open file until it is closed. False if another process has locked it."""
    try:
        if windows:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]  # Windows only
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def has_unix_sockets() -> bool:
    """Whether a socket may be a file that only its owner can open."""
    import socket

    return not WINDOWS and hasattr(socket, "AF_UNIX")


def is_to_own_process(connection: "socket.socket") -> bool:
    """Whether the process at the other end of a Unix socket is of the same user. True where the system does
    not say."""
    import socket
    import struct

    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return True
    ids = connection.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("iII"))
    user: int = struct.unpack("iII", ids)[1]
    return user == os.getuid()


def listen(host: str, port: int) -> "socket.socket":
    """A socket that listens at an IPv4 address, and does not block. Raises OSError where the port is in
    use."""
    import socket

    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # On Windows SO_REUSEADDR would share a port in use, with other users' programs too.
        option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        listening.setsockopt(socket.SOL_SOCKET, option, 1)
        listening.bind((host, port))
        listening.listen()  # Linux lets several sockets bind while none listens
        listening.setblocking(False)
    except OSError:
        listening.close()
        raise
    return listening


async def stop_listening(server: "asyncio.Server") -> None:
    """Close it, and have the connections that it has accepted served. One that asyncio accepts in the turn in
    which the server is closed is never served, and stays open until it is collected as garbage."""
    import asyncio

    loop = server.get_loop()
    for each in server.sockets:
        with contextlib.suppress(NotImplementedError):  # Windows
            loop.remove_reader(each.fileno())
    try:
        await asyncio.sleep(0)  # each has a transport then
    finally:
        server.close()


@contextlib.contextmanager
def without_collections() -> Iterator[None]:
    """For imports: they make little garbage, and the collections that they cause are a tenth of a start. The
    next one would look through all that they have made, so that is excluded."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def freeze_heap() -> None:
    """Once a process has started, exclude all existing objects from garbage collection, which would delay
    every request by 30 ms each time."""
    gc.collect()
    gc.freeze()


def loop_factory() -> "Callable[[], asyncio.AbstractEventLoop]":
    """uvloop where it is installed: a fifth less work for each request. It is optional."""
    try:
        import uvloop
    except ImportError:
        import asyncio

        return asyncio.new_event_loop
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


#: Windows' exit code of a process that Ctrl-C ended: STATUS_CONTROL_C_EXIT.
_CONTROL_C_EXIT: Final = 0xC000013A
INTERRUPTED: Final = 130


@contextlib.contextmanager
def handle_signals(
    loop: "asyncio.AbstractEventLoop",
    handle: Callable[[int], object],
    *,
    hangup: bool = False,
    windows: bool = WINDOWS,
) -> Iterator[None]:
    """Call `handle` on the loop with the number of each signal that asks the process to end. `hangup`: also
    when its terminal is closed."""
    with contextlib.ExitStack() as restored:
        if windows:
            # Loops have no handlers on Windows; Python runs these between two callbacks.
            for each in signal.Signals:
                if each.name in ("SIGINT", "SIGBREAK"):  # Ctrl-C and Ctrl-Break
                    before = signal.signal(
                        each, lambda *_: loop.call_soon_threadsafe(handle, int(signal.SIGINT))
                    )
                    restored.callback(signal.signal, each, before)
        else:
            # nohup has it ignored.
            hangup = hangup and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
            for number in (signal.SIGINT, signal.SIGTERM, *((signal.SIGHUP,) if hangup else ())):
                loop.add_signal_handler(number, handle, number)
                restored.callback(loop.remove_signal_handler, number)
        yield


class Ended(BaseException):
    """SIGTERM or SIGHUP."""


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """Where no loop runs: SIGTERM and SIGHUP raise Ended, as SIGINT raises KeyboardInterrupt."""

    def end(number: int, frame: object) -> None:
        raise Ended

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    before = {number: signal.signal(number, end) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def runnable(command: Sequence[str], *, windows: bool = WINDOWS) -> tuple[str, ...]:
    """A command that can be started. Windows finds only programs that end in .exe; many, such as npm, are
    .cmd files."""
    if windows and (found := shutil.which(command[0])) is not None:
        return (found, *command[1:])
    return tuple(command)


def exit_code(returned: int, *, windows: bool = WINDOWS) -> int:
    """The exit code of a child as in a shell: 128 + N if signal N ended it."""
    if windows:
        return INTERRUPTED if returned & 0xFFFFFFFF == _CONTROL_C_EXIT else returned
    return returned if returned >= 0 else 128 - returned


@contextlib.contextmanager
def keyboard_unbuffered(stream: TextIO, *, windows: bool = WINDOWS) -> Iterator[None]:
    """Typed characters are not shown, which would damage the page, and can be read one by one. Ctrl-C still
    works; what was not read is discarded at the end."""
    if windows or not stream.isatty():
        yield
        return
    import termios

    before = termios.tcgetattr(stream)
    quiet = list(before)
    quiet[3] &= ~(termios.ECHO | termios.ICANON)
    termios.tcsetattr(stream, termios.TCSANOW, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSAFLUSH, before)


#: Seconds between two looks for typed keys on Windows, whose consoles no loop can wait for.
_KEY_SECONDS: Final = 0.1


@contextlib.contextmanager
def typed_keys(
    stream: TextIO | None, handle: Callable[[str], object], *, wanted: bool = True, windows: bool = WINDOWS
) -> Iterator[None]:
    """Call `handle` on the running loop with what is typed in this terminal while it is unbuffered. `stream`
    is None where standard input is closed."""
    if not wanted or stream is None or not stream.isatty():
        yield
        return
    import asyncio

    loop = asyncio.get_running_loop()
    if windows:
        with _polled_keys(loop, handle):
            yield
        return
    descriptor = _reopened_terminal(stream.fileno())

    def read() -> None:
        if os.tcgetpgrp(descriptor) != os.getpgrp():
            return  # in the background: reading would stop the process
        try:
            data = os.read(descriptor, 64)
        except BlockingIOError:  # another reader of the terminal was first
            return
        if data:
            handle(data.decode("utf-8", "replace"))
        else:
            loop.remove_reader(descriptor)

    loop.add_reader(descriptor, read)
    try:
        yield
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _reopened_terminal(descriptor: int) -> int:
    """A descriptor of the same terminal that shares no flags with others: uvloop makes what it reads
    non-blocking, and standard input, standard output and those of the shell are one open file."""
    flags = os.O_RDONLY | os.O_NOCTTY
    try:
        return os.open(os.ttyname(descriptor), flags)
    except OSError:  # another user's, after `su`; or of outside, in a container
        return os.open(os.ctermid(), flags)


@contextlib.contextmanager
def _polled_keys(loop: "asyncio.AbstractEventLoop", handle: Callable[[str], object]) -> Iterator[None]:
    import msvcrt

    timer: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal timer
        while msvcrt.kbhit():  # type: ignore[attr-defined]
            handle(msvcrt.getwch())  # type: ignore[attr-defined]
        timer = loop.call_later(_KEY_SECONDS, look)

    look()
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
