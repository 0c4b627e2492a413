"""Commands that show what a server sends, with one that sends what terminals obey."""

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from devroute.cli.main import run

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
    "laptops": [ROW | {"services": [{"service": EVIL, "scheme": EVIL, "via": EVIL, "terms": {EVIL: EVIL}}]}],
    "blocks": [ROW],
    "contracts": [ROW | {"services": {EVIL: EVIL}}],
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def url() -> AsyncIterator[str]:
    async def respond(_: web.Request) -> web.Response:
        return web.json_response(DOCUMENT)

    app = web.Application()
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
