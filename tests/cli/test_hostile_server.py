"""Commands that show what a server sends, with one that sends what terminals obey."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web
from pydantic import SecretStr

from devroute.agent.api_client import MAX_RESPONSE
from devroute.agent.settings import ClientSettings
from devroute.cli.main import run
from devroute.cli.watch import Followed, Row, View, page
from devroute.errors import ServerUnreachable

pytestmark = pytest.mark.asyncio(loop_scope="module")

EVIL = "\x1b]52;c;eA==\x07\x9b31m"
ROW = dict.fromkeys(
    ("name", "subject", "since", "agent", "until", "by", "reason", "owner", "expires", "laptop"), EVIL
)
DOCUMENT = ROW | {
    **dict.fromkeys(("you", "version", "path", "code", "contract", EVIL), EVIL),
    **{key: [EVIL] for key in ("groups", "explanation", "features")},
    **dict.fromkeys(("uptime_s", "token_expires_s", "expires_in_s"), math.inf),
    "services": {EVIL: EVIL},
    "entries": {EVIL: EVIL},
    "laptops": [ROW | {"services": [{"service": EVIL, "scheme": EVIL, "via": EVIL, "terms": {EVIL: EVIL}}]}],
    "blocks": [ROW],
    "contracts": [ROW | {"services": {EVIL: EVIL}}],
}


LAPTOP = {"id": "1", "kind": "laptop", "laptop": "a", "agent": "1", "round_trip_ms": 1, "services": []}
SERVICE = {"service": "b", "requests": math.inf, "failed": 0}
FALLBACK = {"id": "1", "kind": "fallback", "service": "b", "target": "a", "reason": "", "times": 1}


def rows(*changed: object, **more: object) -> str:
    document = {"changed": changed, "gone": [], "synced": True} | more
    return f"event: rows\ndata: {json.dumps(document)}\n\n"


EVENTS = {
    "none": "event: rows\ndata: {}\n\n",
    "shape": rows(1),
    "field": rows({"id": "1"}),
    "changed": rows(changed=7),
    "time": rows(LAPTOP | {"since": "long ago"}),
    "number": rows(LAPTOP | {"since": "2026-01-01T00:00:00Z", "services": [SERVICE]}),
    "text": rows(LAPTOP | {"since": "2026-01-01T00:00:00Z", "laptop": 7}),
    "order": rows(FALLBACK | {"last": "x"}, FALLBACK | {"id": "2", "last": 1}),
    "epoch": rows(FALLBACK | {"last": 1e300}),
    "line": "data: " + "x" * (2 * MAX_RESPONSE),
    "json": "event: rows\ndata: [\n\n",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async def respond(_: web.Request) -> web.Response:
        return web.json_response(DOCUMENT)

    async def stream(request: web.Request) -> web.Response:
        return web.Response(text=EVENTS[request.path.split("/")[1]], content_type="text/event-stream")

    app = web.Application()
    app.router.add_get("/{of}/dashboard/events", stream)
    app.router.add_route("*", "/{path:.*}", respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["ls"],
        ["version"],
        ["init", "--server", "URL", "--token-command", "echo devroute_x"],
        ["dashboard", "--no-open"],
        ["admin", "blocks"],
        ["admin", "block", "bob", "--for", "2h"],
        ["admin", "end", "alice"],
        ["contract", "list"],
        ["contract", "show", "checkout"],
        ["contract", "save", "checkout", '{"b": "alice"}'],
        ["contract", "delete", "checkout"],
    ],
    ids=" ".join,
)
async def test_nothing_that_a_server_sends_reaches_the_terminal_as_it_is(
    url: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    environment = {"HOME": str(tmp_path), "DEVROUTE_SERVER": url, "DEVROUTE_TOKEN": "devroute_x"}
    code = await asyncio.to_thread(run, [url if each == "URL" else each for each in command], environment)
    shown = "".join(capsys.readouterr())
    assert (code, bool(shown)) == (0, True), shown
    assert all(each.isprintable() for each in shown.splitlines()), ascii(shown)


class Drawn(View):
    """What a terminal would get."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def show(self, rows: Mapping[str, Row], changed: Iterable[Row], gone: Iterable[Row]) -> None:
        self.lines = page(rows.values(), "here", 80, 24, 1.8e9)

    def interrupted(self, problem: str) -> None: ...


@pytest.mark.parametrize("of", EVENTS)
async def test_rows_that_no_server_would_send_are_an_error(url: str, of: str) -> None:
    settings = ClientSettings(server=f"{url}/{of}", token=SecretStr("devroute_x"))
    with pytest.raises(ServerUnreachable):
        await Followed(Drawn()).connect(settings)
