"""The page of `devroute up`: its lines, and the command itself on a pseudo terminal."""

import asyncio
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from devroute.agent.invitation import Invitation
from devroute.agent.ui.layout import Line, Row, View, lines, sender_of, way_of
from devroute.agent.ui.page import PageReporter
from devroute.contract.service_spec import ServiceSpec
from devroute.inspector.access import AccessControl
from devroute.tunnel import proxy_link
from devroute.tunnel.served_stream import Finished
from tests.support.eventually import PATIENCE_S, eventually
from tests.support.loopback import Client, Site, get, response_to, site

# --- a terminal ---------------------------------------------------------------------------------------------


class Terminal:
    """Interprets a program's output: text, cursor movement and clearing, without colours."""

    def __init__(self, width: int, height: int) -> None:
        self.resize(width, height)
        self.alternate = False
        self.cursor_shown = True
        self.before = ""  # what stands on the ordinary screen
        self.written = 0
        self._rest = ""

    def resize(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.cells = [[" "] * width for _ in range(height)]
        self.x = self.y = 0

    def feed(self, data: bytes) -> None:
        self.written += len(data)
        text = self._rest + data.decode("utf-8", "replace")
        self._rest = ""
        while text:
            if found := re.match(r"\x1b\[(\?)?([\d;]*)([A-Za-z])", text):
                self.control(bool(found[1]), found[2], found[3])
                text = text[found.end() :]
            elif text[0] == "\x1b":
                self._rest = text  # the sequence is not complete
                return
            else:
                self._character(text[0])
                text = text[1:]

    def control(self, private: bool, parameters: str, final: str) -> None:
        if private and parameters == "1049":
            self.alternate = final == "h"
        elif private and parameters == "25":
            self.cursor_shown = final == "h"
        elif final == "H":
            row, _, column = parameters.partition(";")
            self.y, self.x = int(row or 1) - 1, int(column or 1) - 1
        elif final == "J":
            self.cells = [[" "] * self.width for _ in range(self.height)]
        else:
            assert final == "m", (parameters, final)

    def _character(self, character: str) -> None:
        if not self.alternate:
            self.before += character
        elif character == "\n":
            raise AssertionError("a line feed would scroll the page")
        elif character != "\r":
            assert self.x < self.width, "a line is wider than the screen"
            assert self.y < self.height
            self.cells[self.y][self.x] = character
            self.x += 1

    @property
    def text(self) -> str:
        return "\n".join("".join(row).rstrip() for row in self.cells)


class Running:
    """`devroute up` on a terminal of its own."""

    def __init__(self, process: asyncio.subprocess.Process, master: int, terminal: Terminal) -> None:
        self.process, self.master, self.terminal = process, master, terminal
        self._loop = asyncio.get_running_loop()
        os.set_blocking(master, False)
        self._changed = asyncio.Event()
        self._loop.add_reader(master, self._read)

    def _read(self) -> None:
        try:
            self.terminal.feed(os.read(self.master, 65536))
        except OSError:  # EIO: the program has ended
            self._loop.remove_reader(self.master)
        self._changed.set()

    async def until(self, seen: Callable[[Terminal], bool]) -> None:
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not seen(self.terminal):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(self.terminal.text + self.terminal.before) from None

    def resize(self, width: int, height: int) -> None:
        self.terminal.resize(width, height)
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())


@asynccontextmanager
async def up(
    where: Site,
    folder: Path,
    *arguments: str,
    size: tuple[int, int] = (80, 24),
    term: str = "xterm",
    **env: str,
) -> AsyncIterator[Running]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "up", *arguments),
        env={
            "HOME": str(folder),
            "TERM": term,
            "LANG": "C.UTF-8",
            "DEVROUTE_SERVER": where.url,
            "DEVROUTE_TOKEN": "alice-token",
            **env,
        },
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=own_terminal,
    )
    os.close(slave)
    running = Running(process, master, Terminal(*size))
    try:
        yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        asyncio.get_running_loop().remove_reader(master)
        os.close(master)


@asynccontextmanager
async def app() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the agent connects to see whether the app listens
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def ask(where: Site, path: bytes, service: str = "foo") -> Client:
    return await response_to(where.upstream("alice", service), get(path))


async def test_the_page_shows_the_laptop_and_its_requests_and_restores_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "devroute.yaml").write_text("rules: [{path: /ruled, respond: {status: 418}}]")
    async with (
        site() as where,
        app() as port,
        up(where, tmp_path, f"foo=127.0.0.1:{port}", "bar=9") as running,
    ):
        terminal = running.terminal
        await running.until(lambda t: "alice is online" in t.text and "Ctrl-C ends" in t.text)
        assert terminal.alternate
        assert not terminal.cursor_shown
        await ask(where, b"/first?q=1")
        await ask(where, b"/broken", "bar")
        await running.until(lambda t: "/first" in t.text and "refused the connection" in t.text)
        assert """X-devroute: {"foo": "alice", "bar": "alice"}""" in terminal.text
        assert f"foo  http://127.0.0.1:{port}" in terminal.text
        assert "does not listen: start the app" in terminal.text
        assert "2 requests, 1 failed" in terminal.text
        (row,) = [line for line in terminal.text.splitlines() if "/first" in line]
        assert row.split()[1:5] == ["foo", "GET", "/first?q=1", "200"]
        assert "rules on: /ruled (o: on/off)" in terminal.text.splitlines()[-1]
        assert (await ask(where, b"/ruled")).heads[0].status == 418
        await running.until(lambda t: "rule '/ruled' responded" in t.text)
        running.type("o")
        await running.until(lambda t: "rules off: /ruled" in t.text)
        assert (await ask(where, b"/ruled")).heads[0].status == 200
        running.type("typed by mistake\r")
        for size in ((60, 20), (200, 50), (80, 12), (20, 4)):
            running.resize(*size)
            await running.until(lambda t: "Ctrl-C ends" in t.text.splitlines()[-1])
        assert "mistake" not in terminal.text
        running.type("\x03")
        await running.until(lambda t: not t.alternate and "was online for" in t.before)
        assert await asyncio.wait_for(running.process.wait(), 20) == 130
        assert terminal.cursor_shown
        assert terminal.before.strip() == "alice was online for 0 min: 4 requests, 1 failed"


async def test_the_mode_an_app_that_is_missing_and_a_request_at_a_breakpoint_are_shown(
    tmp_path: Path, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxy_link, "pong_seconds", lambda usual, queued: 60.0)
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # a connection that only looks
            await reader.readuntil(b"\r\n\r\n")
            reached.set()
            await go_on.wait()
            writer.write(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        writer.close()

    service = f"foo=127.0.0.1:{unused_tcp_port}"
    async with site() as where, up(where, tmp_path, service, "--only-path", "/api/") as running:
        await running.until(lambda t: "does not listen: start the app" in t.text)
        assert "only /api/: the service answers requests for other paths" in running.terminal.text
        async with await asyncio.start_server(serve, "127.0.0.1", unused_tcp_port):
            await running.until(lambda t: "does not listen" not in t.text)
            asked = asyncio.ensure_future(ask(where, b"/api/pay"))
            await reached.wait()
            await running.until(lambda t: "0 requests, 1 open for a while" in t.text)
            (row,) = [line for line in running.terminal.text.splitlines() if "/api/pay" in line]
            assert re.fullmatch(r"\d\d:\d\d:\d\d  GET     /api/pay +\.\.\. +\d s", row.strip())
            go_on.set()
            await asked
            await running.until(lambda t: "1 request, 1 failed" in t.text and "open" not in t.text)


async def test_a_lost_tunnel_is_shown_with_its_reason(tmp_path: Path) -> None:
    async with site() as where, up(where, tmp_path, "foo=9") as running:
        await running.until(lambda t: "alice is online" in t.text)
        await where.stop()
        await running.until(lambda t: "alice is offline" in t.text and "dialling again" in t.text)


@pytest.mark.parametrize(
    ("arguments", "term"),
    [
        (["--output", "text"], "xterm"),
        ([], "dumb"),
        (["--", sys.executable, "-c", "print('from the app'); import time; input()"], "xterm"),
    ],
)
async def test_lines_are_printed_where_a_page_is_not_wanted(
    arguments: list[str], term: str, tmp_path: Path
) -> None:
    async with site() as where, up(where, tmp_path, "foo=9", *arguments, term=term) as running:
        await running.until(lambda t: "alice is online at" in t.before)
        if "--" in arguments:
            await running.until(lambda t: "from the app\r\n" in t.before)
        assert not running.terminal.alternate


async def test_no_color_is_honoured(tmp_path: Path) -> None:
    async with site() as where, up(where, tmp_path, "foo=9", NO_COLOR="1") as running:
        colours: list[str] = []
        running.terminal.control = (  # type: ignore[method-assign]
            lambda private, parameters, final, go=running.terminal.control: (  # type: ignore[misc]
                colours.append(parameters) if final == "m" else go(private, parameters, final)
            )
        )
        await running.until(lambda t: "alice is online" in t.text and "Ctrl-C ends" in t.text)
        assert colours
        assert not [each for each in colours if re.search(r"(^|;)3\d", each)]


async def test_a_blocked_terminal_does_not_block_the_page() -> None:
    """Nothing reads the terminal: neither requests nor the shutdown wait for it."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
    reporter = PageReporter(os.fdopen(slave, "w"))
    invited = Invitation('{"foo": "alice"}', "curl URL")
    reporter.online("alice", "http://server", [ServiceSpec("foo", "localhost", 1)], invited)
    longest = 0.0
    for number in range(3000):
        started = time.thread_time()
        reporter.request(Finished("foo", "GET", f"/{number}" + "x" * 150, 200, 0.0, 0.001, 5, "", "", b""))
        reporter.flush()
        longest = max(longest, time.thread_time() - started)
        await asyncio.sleep(0)
    assert longest < 1  # what blocks would not return
    reporter.close()
    os.set_blocking(master, False)

    def screen_has_ended() -> bool:
        with suppress(BlockingIOError):
            os.read(master, 1 << 20)
        return not any(thread.name == "devroute-screen" for thread in threading.enumerate())

    await eventually(screen_has_ended)
    os.close(master)


# --- the lines ----------------------------------------------------------------------------------------------


def texts(page: list[Line]) -> list[str]:
    return ["".join(text for text, _ in line) for line in page]


VIEWS = st.builds(
    View,
    name=st.text("ab-", max_size=70),
    server=st.text("ab:/.", max_size=300),
    services=st.lists(st.tuples(st.text("ab", max_size=70), st.text("ab:/", max_size=100)), max_size=64),
    contract=st.text(max_size=9000).filter(str.isprintable) | st.just('{"a": "b"}' * 900),
    trouble=st.none() | st.text("words 界", max_size=300),
    round_trip_ms=st.none() | st.floats(0, 1e5),
    minutes=st.integers(0, 100_000),
    requests=st.integers(0, 10**9),
    failed=st.integers(0, 10**9),
    mode=st.lists(st.text("words ", max_size=200), max_size=3),
    open=st.lists(st.just(Row("12:34:56", "a", "GET", "/x" * 99, -1, "61 min 5 s", "", "", "")), max_size=9),
    rows=st.lists(
        st.builds(
            Row,
            clock=st.just("12:34:56"),
            service=st.text("ab界", max_size=70),
            method=st.sampled_from(["GET", "PROPFIND-AND-MORE"]),
            path=st.text("/a界%20", max_size=300),
            status=st.integers(0, 599),
            duration=st.sampled_from(["0.1 ms", "12345.6 s"]),
            size=st.sampled_from(["5 B", "123.4 GB"]),
            caller=st.text("ab/界", max_size=80),
            problem=st.text("words ", max_size=300),
        ),
        max_size=60,
    ),
)


@given(VIEWS, st.integers(1, 220), st.integers(1, 70))
def test_a_page_fills_any_screen_and_never_more(view: View, width: int, height: int) -> None:
    page = texts(lines(view, width, height))
    assert len(page) == height
    assert all(cell_len(line) <= width for line in page)


@pytest.mark.parametrize("width", [40, 61, 62, 80])
def test_both_links_are_whole_at_any_width(width: int) -> None:
    """Also at 80 columns with a port of five digits."""
    link = AccessControl(49152, print).url
    join = "https://a.qa.example/?devroute=%7B%22foo%22%3A%22alice%22%7D"
    page = lines(View(name="a", inspector=link, link=join), width, 24)
    shown = "\n".join("".join(text for text, _ in line) for line in page)
    assert link in shown.replace("\n", "")
    assert join in shown.replace("\n", "")
    if width == 80:
        assert f"Inspector: {link}" in shown


def test_columns_are_left_out_on_narrow_terminals() -> None:
    row = Row("12:34:56", "foo", "GET", "/a", 200, "12 ms", "1.2 kB", "shop/web", "")
    view = View(name="alice", services=[("foo", "http://localhost:1")], rows=[row])
    wide, medium, narrow = (
        next(line for line in texts(lines(view, width, 24)) if "/a" in line) for width in (100, 70, 50)
    )
    assert wide.split() == ["12:34:56", "GET", "/a", "200", "12", "ms", "1.2", "kB", "shop/web"]
    assert ("shop/web" in medium, "1.2 kB" in medium) == (False, True)
    assert ("1.2 kB" in narrow, "200" in narrow) == (False, True)


@pytest.mark.parametrize(
    ("fields", "caller"),
    [
        (b"", ""),
        (b"User-Agent: curl/8.5\r\n", "curl"),
        (b"x-devroute-caller: spiffe://cluster.local/ns/shop/sa/web\r\nuser-agent: x\r\n", "shop/web"),
        (
            b"x-forwarded-client-cert: By=spiffe://c/ns/a/sa/foo;Hash=12;URI=spiffe://c/ns/shop/sa/web\r\n",
            "shop/web",
        ),
        (b"x-devroute-caller: spiffe://elsewhere/web\r\n", "spiffe://elsewhere/web"),
        (
            b"x-forwarded-client-cert: URI=spiffe://c/ns/a/sa/b\r\n"
            b"x-devroute-caller: spiffe://c/ns/shop/sa/web\r\n",
            "shop/web",
        ),
        (b"X-Forwarded-Client-Cert: Hash=1;URI=spiffe://c/ns/shop/sa/web\r\n", "shop/web"),
        (b"x-devroute-caller: \r\nuser-agent: curl\r\n", "curl"),
        (b"user-agent: \x1b[2J\r\n", ""),
    ],
)
def test_the_sender_is_the_mesh_identity_or_else_the_program(fields: bytes, caller: str) -> None:
    assert sender_of(b"GET / HTTP/1.1\r\nhost: foo\r\n" + fields + b"\r\n") == caller


@pytest.mark.parametrize(
    ("fields", "way"),
    [
        (b"x-devroute-via: c\r\nuser-agent: curl\r\n", "curl"),
        (b"x-devroute-via: b, c\r\nx-devroute-caller: spiffe://c/ns/shop/sa/b\r\n", "shop/b via b"),
        (b"x-devroute-via: b, c\r\n", "via b"),
        (b"x-devroute-via: a, b.shop, c, d, e\r\nuser-agent: curl\r\n", "curl via …, b.shop, c, d"),
        (b"x-devroute-via: \x1b[2J, c\r\n", "via '\\x1b[2J'"),
        (b"x-devroute-via: \r\n", ""),
    ],
)
def test_a_request_shows_which_services_have_detoured_it_before(fields: bytes, way: str) -> None:
    assert way_of(b"GET / HTTP/1.1\r\nhost: foo\r\n" + fields + b"\r\n") == way
