"""`devroute contract save`, `list`, `show` and `delete` with a server in this process."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from devroute.auth.authenticator import Authenticator
from devroute.auth.tokens import Tokens, new_token
from devroute.cli.main import run
from devroute.contract.target import Address
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import create_runner
from devroute.routing.registry import Registry

TOKENS = {name: new_token(name) for name in ("alice", "bob")}
TEXT = '{"b": "alice", "c": "version:v2"}'

#: Runs a command as a subject; returns exit code, standard output and standard error.
Devroute = Callable[..., Awaitable[tuple[int, str, str]]]


async def permit(address: Address, service: str) -> None:
    return None


@pytest.fixture
async def devroute(capsys: pytest.CaptureFixture[str]) -> AsyncIterator[Devroute]:
    records = tuple(record for _, record in TOKENS.values())
    authenticate = Authenticator(lambda: Tokens(records)).authenticate
    runner = create_runner(create_app(Control(Registry([]), Policy, authenticate, permit, 1.0)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{runner.addresses[0][1]}"

    async def devroute(*line: str, who: str = "alice") -> tuple[int, str, str]:
        environment = {"DEVROUTE_SERVER": server, "DEVROUTE_TOKEN": TOKENS[who][0]}
        code = await asyncio.to_thread(run, line, environment)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield devroute
    await runner.cleanup()


async def test_a_contract_is_saved_listed_shown_and_deleted(devroute: Devroute) -> None:
    code, out, _ = await devroute("contract", "save", "checkout", TEXT, "--ttl", "8h")
    assert code == 0
    assert out.splitlines() == [
        "saved @checkout, for 8 hours",
        "  all requests for b go to the laptop alice; if that fails, the real service responds",
        "  all requests for c go to version v2 of the service; if that fails, the real service responds",
        "send it: -H 'X-devroute: @checkout', or devroute curl --contract @checkout",
    ]
    assert (await devroute("contract", "save", "@checkout", TEXT))[1].startswith("replaced @checkout")
    listed = (await devroute("contract", "list", who="bob"))[1]
    (row,) = listed.splitlines()[1:]
    assert re.fullmatch(r"@checkout  alice  b=alice, c=version:v2  (8 hours|7 hours 59 minutes) +no", row)
    shown = (await devroute("contract", "show", "checkout", who="bob"))[1].splitlines()
    assert re.fullmatch("@checkout, saved by alice; expires in (8 hours|7 hours 59 minutes)", shown[0])
    assert shown[1] == TEXT
    document = json.loads((await devroute("contract", "show", "checkout", "--output", "json"))[1])
    assert (document["contract"], document["owner"]) == (TEXT, "alice")
    code, _, error = await devroute("contract", "delete", "checkout", who="bob")
    assert code != 0
    assert "is alice's" in error
    assert "bob-checkout" in error
    assert (await devroute("contract", "delete", "checkout"))[1].startswith("deleted @checkout of alice")
    assert json.loads((await devroute("contract", "list", "--output", "json"))[1]) == {"contracts": []}
    assert "no contract is saved" in (await devroute("contract", "list"))[1]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (("save", "Check out", TEXT), "write check-out"),
        (("save", "checkout", "{'b': 'alice'}"), 'send X-devroute: {"b": "alice"}'),
        (("save", "checkout", TEXT, "--ttl", "8"), "is not a time"),
        (("save", "checkout", TEXT, "--ttl", "31d"), "'31d' is too long: at most 30d"),
        (("show", "chekcout"), "no contract is saved as '@chekcout'"),
        (("check", "@checkout"), "devroute contract show"),
    ],
)
async def test_a_mistake_says_what_to_do(devroute: Devroute, line: tuple[str, ...], part: str) -> None:
    code, _, error = await devroute("contract", *line)
    assert code != 0
    assert part in error
