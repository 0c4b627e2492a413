"""`devroute replay`: real requests to a real app, whose responses are compared with the recorded ones."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from devroute.cli import main
from devroute.inspector.capture import Capture, CapturedHead
from devroute.inspector.har_writer import write

pytestmark = pytest.mark.asyncio


#: In clear in files of other tools.
TOKEN = "n0t-to-be-shown"
PAGE = f'<script>f({{"csrfToken": "{TOKEN}"}})</script>\n<p>%d</p>\n'


class Shop:
    """An app whose responses may differ from the recorded ones."""

    def __init__(self) -> None:
        self.price = 10
        self.seen: list[tuple[str, str, str]] = []
        self.at_once = 0
        self.most = 0
        self.coding = ""
        self.ending = asyncio.Event()
        self.several = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.at_once > 1:
            self.several.set()
        if request.path.startswith("/items/"):
            await asyncio.wait_for(self.several.wait(), 20)
        try:
            return await self._answer(request)
        finally:
            self.at_once -= 1

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.text()
        self.seen.append((request.method, request.path_qs, body))
        await asyncio.sleep(0)
        if request.path == "/slow":
            await self.ending.wait()
        if request.path == "/broken":
            assert request.transport is not None
            request.transport.close()
        if request.path == "/page":
            return web.Response(text=PAGE % self.price, content_type="text/html")
        if request.path == "/coded":
            self.coding = request.headers["accept-encoding"]
            document = {"price": 10, "timestamp": 1, "path": "/coded"}
            answer = web.json_response(document)
            answer.enable_compression(web.ContentCoding.gzip)
            return answer
        if "authorization" not in request.headers and request.path == "/mine":
            return web.json_response({}, status=401)
        return web.json_response({"price": self.price, "timestamp": len(self.seen), "path": request.path_qs})


@asynccontextmanager
async def shop() -> AsyncIterator[tuple[Shop, int]]:
    it = Shop()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", it.answer)
    async with TestServer(app) as server:
        assert server.port is not None
        try:
            yield it, server.port
        finally:
            it.ending.set()


def recorded(
    target: str, method: str = "GET", status: int = 200, body: bytes = b"", **fields: str
) -> Capture:
    made = Capture("shop", method, target, 1e9, 0)
    made.request_head = CapturedHead.of([("host", "shop"), *fields.items()])
    made.request_body.data += body
    made.request_body.size = len(body)
    made.status, made.sent, made.responded, made.ended, made.state = status, 0, 0, 1, "done"
    made.response_head = CapturedHead.of(
        [("content-type", "application/json; charset=utf-8"), ("date", "then")]
    )
    made.response_body.data += json.dumps({"price": 10, "timestamp": 0, "path": target}).encode()
    made.request_body.complete = made.response_body.complete = True
    made.response_body.size = len(made.response_body.data)
    return made


class Run:
    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys

    async def __call__(self, entries: list[Capture] | str, *arguments: str) -> tuple[int, str, str]:
        file = self.folder / "shop.har"
        file.write_text(entries if isinstance(entries, str) else "".join(write(entries, "1")))
        environment = {"HOME": str(self.folder)}
        code = await asyncio.to_thread(main.run, ["replay", str(file), *arguments], environment)
        seen = self._capsys.readouterr()
        return code, seen.out, seen.err


@pytest.fixture
def play(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return Run(tmp_path, capsys)


async def test_equal_responses_exit_with_0(play: Run) -> None:
    async with shop() as (it, port):
        entries = [recorded(f"/items/{n}?x=%20") for n in range(20)]
        code, out, _ = await play(entries, "--to", str(port), "--ignore", "$.timestamp")
    assert code == 0, out
    assert out.splitlines()[-1] == "20 same"
    assert [line.split()[2] for line in out.splitlines()[:-1]] == [entry.target for entry in entries]
    assert 1 < it.most <= 4


async def test_a_difference_is_named_and_exits_with_1(play: Run) -> None:
    async with shop() as (it, port):
        it.price = 12
        code, out, _ = await play(
            [recorded("/a")], "--to", f"http://127.0.0.1:{port}", "--ignore", "$.timestamp"
        )
    assert code == 1
    assert out.splitlines()[0].startswith("different  GET /a  200  ")
    assert out.splitlines()[1].strip() == "body $.price: 10 -> 12"
    assert out.splitlines()[-1] == "1 different"


async def test_json_has_every_entry(play: Run) -> None:
    async with shop() as (_, port):
        code, out, _ = await play(
            [recorded("/a"), recorded("/b", status=404), recorded("/c", "POST", body=b"{}")],
            *("--to", f"shop={port}", "--ignore", "$.timestamp", "--output", "json"),
        )
    document = json.loads(out)
    assert code == 1
    assert [document[name] for name in ("same", "different", "failed", "skipped")] == [1, 1, 0, 1]
    assert [entry["outcome"] for entry in document["entries"]] == ["same", "different", "skipped"]
    assert document["entries"][1]["differences"] == [{"where": "status", "left": "404", "right": "200"}]


async def test_entries_that_cannot_be_read_are_skipped_with_their_reason_and_counted(play: Run) -> None:
    document = json.loads(
        "".join(write([recorded("/a"), recorded("/b"), recorded("/c"), recorded("/d")], "1"))
    )
    entries = document["log"]["entries"]
    entries[1]["request"]["url"] = "data:image/png;base64,AAAA"
    entries[1]["request"]["method"] = "GET"
    del entries[2]["response"]
    del entries[2]["_devroute"]["error"]
    async with shop() as (it, port):
        arguments = ("--to", str(port), "--ignore", "$.timestamp")
        code, out, _ = await play(json.dumps(document), *arguments)
        assert code == 0
        assert sorted(path for _, path, _ in it.seen) == ["/a", "/d"]
    assert "2 same, 2 skipped" in out
    assert "(entry 2: request: 'data:image/png;base64,AAAA' is not an http URL)" in out
    assert "(no response was recorded)" in out


async def test_outgoing_requests_are_skipped_since_no_app_received_them(play: Run) -> None:
    out = recorded("/out")
    out.direction, out.service = "out", "c.shop:80"
    async with shop() as (it, port):
        code, text, _ = await play([recorded("/in"), out], "--to", str(port), "--ignore", "$.timestamp")
        assert (code, [path for _, path, _ in it.seen]) == (0, ["/in"])
    assert "(it is an outgoing request, which no app on this laptop received)" in text


async def test_a_dry_run_shows_what_would_be_sent_and_sends_nothing(play: Run) -> None:
    entries = [recorded("/a"), recorded("/b", "POST"), recorded("/c", authorization="[redacted]")]
    async with shop() as (it, port):
        code, out, _ = await play(entries, "--to", str(port), "--dry-run")
        assert (code, it.seen) == (0, [])
        assert [line.split()[0] for line in out.splitlines()[:3]] == ["ready", "skipped", "ready"]
        assert "1 skipped, 2 ready" in out
        assert "authorization" in out
        code, out, _ = await play(entries, "--to", str(port), "--dry-run", "--output", "json")
        document = json.loads(out)
        assert (code, document["dry_run"], document["ready"], it.seen) == (0, True, 2, [])


async def test_unsafe_methods_are_replayed_only_if_named_and_in_order(play: Run) -> None:
    async with shop() as (it, port):
        entries = [recorded(f"/{n}", "POST", body=b"%d" % n) for n in range(5)] + [recorded("/last")]
        code, out, _ = await play(
            entries, "--to", str(port), "--ignore", "$.timestamp", "--methods", "get,post"
        )
        assert code == 0, out
        assert [body for _, _, body in it.seen] == ["0", "1", "2", "3", "4", ""]
        assert it.most == 1
        it.seen.clear()
        await play(entries, "--to", str(port))
        assert [path for _, path, _ in it.seen] == ["/last"]


async def test_a_redacted_header_is_replaced_by_the_given_one_or_left_out(play: Run) -> None:
    async with shop() as (_, port):
        entries = [recorded("/mine", authorization="[redacted]")]
        where = ("--to", str(port), "--ignore", "$.timestamp")
        code, out, _ = await play(entries, *where)
        assert code == 1
        assert "sent without authorization" in out
        code, out, _ = await play(entries, *where, "-H", "Authorization: Bearer mine")
        assert code == 0, out


async def test_secrets_of_a_recording_that_is_not_redacted_are_no_difference_and_not_shown(play: Run) -> None:
    entry = recorded("/page")
    entry.response_head = CapturedHead.of(
        [("content-type", "text/html; charset=utf-8"), ("x-api-key", TOKEN)]
    )
    entry.response_body.data[:] = (PAGE % 10).encode()
    async with shop() as (it, port):
        code, out, _ = await play([entry], "--to", str(port), "--ignore", "x-api-key")
        assert code == 0, out
        it.price = 12
        for output in ("text", "json"):
            code, out, err = await play([entry], "--to", str(port), "--output", output)
            assert code == 1
            assert "<p>12</p>" in out
            assert TOKEN not in out + err


async def test_replays_accept_only_encodings_that_can_be_decoded(play: Run) -> None:
    async with shop() as (it, port):
        entry = recorded("/coded", **{"accept-encoding": "gzip, br, zstd"})
        code, out, _ = await play([entry], "--to", str(port), "--ignore", "$.timestamp")
        assert code == 0, out
        assert it.coding == "gzip, deflate"
        entry.response_head = CapturedHead.of([*entry.response_headers, ("content-encoding", "br")])
        entry.response_body.data[:] = b"\x1b\x0f not known here"
        code, out, _ = await play([entry], "--to", str(port))
        assert code == 0, out


async def test_an_app_that_fails_or_hangs_is_reported_with_the_reason(
    play: Run, unused_tcp_port: int
) -> None:
    async with shop() as (_, port):
        code, out, _ = await play([recorded("/slow")], "--to", str(port), "--timeout", "0.2")
        assert code == 1
        assert "no complete response within 0.2 s" in out
        code, out, _ = await play(
            [recorded("/broken"), recorded("/a")], "--to", str(port), "--ignore", "$.timestamp"
        )
    assert code == 1
    assert "upstream-reset" in out
    assert out.splitlines()[-1] == "1 same, 1 failed"
    code, out, _ = await play([recorded("/a")], "--to", str(unused_tcp_port))
    assert code == 1
    assert "app-unreachable" in out


async def test_the_app_may_be_set_in_the_project_file(play: Run) -> None:
    async with shop() as (_, port):
        (play.folder / "devroute.yaml").write_text(f"services: [shop={port}]\n")
        code, out, _ = await play([recorded("/a")], "--ignore", "$..timestamp")
    assert code == 0, out


@pytest.mark.parametrize(
    ("entries", "arguments", "words"),
    [
        ("{", ["--to", "1"], "not JSON"),
        ('{"log": {"entries": []}}', ["--to", "1"], "none of its requests was replayed"),
        ([recorded("/a", "POST")], ["--to", "1"], "none of its requests was replayed"),
        ([recorded("/a")], ["--to", "bar=1"], "no app is given for the service 'shop'"),
        ([recorded("/a")], [], "no app is given"),
        ([recorded("/a")], ["--to", "x"], "--to"),
        ([recorded("/a")], ["--to", "ftp://x:1"], "--to"),
        ([recorded("/a")], ["--to", "1", "--to", "2"], "a second app"),
        ([recorded("/a")], ["--to", "1", "--ignore", "$."], "is not a path"),
        ([recorded("/a")], ["--to", "1", "--methods", "4"], "--methods"),
        ([recorded("/a")], ["--to", "1", "-H", "x"], "--header"),
    ],
)
async def test_a_file_that_cannot_be_replayed_exits_with_20(
    play: Run, entries: Any, arguments: list[str], words: str
) -> None:
    code, out, err = await play(entries, *arguments)
    assert code == 20, out
    assert words in err


async def test_a_missing_file_exits_with_20(play: Run, capsys: pytest.CaptureFixture[str]) -> None:
    environment = {"HOME": str(play.folder)}
    assert await asyncio.to_thread(main.run, ["replay", "nowhere.har", "--to", "1"], environment) == 20
    assert "nowhere.har: cannot be read" in capsys.readouterr().err
