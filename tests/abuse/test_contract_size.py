"""The limit of contracts, as set: in /resolve and at the data port, signed or not."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from devroute.cli.config.sources import Source, proxy_settings
from devroute.contract.grammar import MAX_CONFIGURABLE_ENTRIES, WIDEST_LIMITS, parse
from devroute.contract.signer import SigningKey, sign
from devroute.errors import ConfigInvalid
from devroute.proxy.app import Proxy
from devroute.proxy.settings import ProxySettings
from tests.support.eventually import PATIENCE_S

KEY = SigningKey.new("alice")


@asynccontextmanager
async def proxy(folder: Path, **settings: int) -> AsyncIterator[Proxy]:
    keys = folder / "keys.json"
    keys.write_text(json.dumps({"keys": [KEY.as_public_jwk()]}))
    local = {f"{listener}_host": "127.0.0.1" for listener in ("data", "control", "admin")}
    ports = {f"{listener}_port": 0 for listener in ("data", "control", "admin")}
    running = Proxy(ProxySettings.model_validate({**local, **ports, **settings, "contract_keys": str(keys)}))
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def asked(port: int, path: str, contract: str) -> str:
    """The whole response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    fields = f"host: foo\r\nx-devroute: {contract}\r\nx-devroute-matched: s0\r\nx-devroute-candidates: s0"
    writer.write(f"GET {path} HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n".encode())
    async with asyncio.timeout(PATIENCE_S):
        answer = await reader.read()
    writer.close()
    return answer.decode()


async def problems(running: Proxy, contract: str) -> list[str | None]:
    """The errors of /resolve and of the data port about the contract's size; the laptop is offline."""
    answers = [
        await asked(running.control_port, "/resolve", contract),
        await asked(running.data_port, "/", contract),
    ]
    found: list[str | None] = []
    for answer in answers:
        if '"code":"contract-invalid"' in answer.replace(": ", ":"):
            found.append("are allowed" if "are allowed" in answer else answer)
        else:
            assert "laptop 'alice' is not online" in answer
            found.append(None)
    return found


def named(count: int) -> str:
    return json.dumps({f"s{number}": "alice" for number in range(count)})


def sized(size: int) -> str:
    return named(1).replace("}", "").ljust(size - 1) + "}"


def signed(contract: str) -> str:
    return sign(parse(contract, WIDEST_LIMITS), KEY, "alice", time.time(), 600)


FINE, TOO_LARGE = [None, None], ["are allowed"] * 2


async def test_a_contract_is_refused_from_the_size_that_the_settings_say(tmp_path: Path) -> None:
    jws = signed(named(3))
    for size in (300, len(jws), 8000):
        async with proxy(tmp_path, max_contract_bytes=size) as running:
            assert await problems(running, sized(size)) == FINE
            assert await problems(running, sized(size + 1)) == TOO_LARGE
            assert await problems(running, jws) == (FINE if len(jws) <= size else TOO_LARGE)
    async with proxy(tmp_path, max_contract_bytes=len(jws) - 1) as running:
        assert await problems(running, jws) == TOO_LARGE


async def test_more_services_than_the_settings_say_are_refused(tmp_path: Path) -> None:
    for count in (2, 100):  # below the default, and above it
        async with proxy(tmp_path, max_contract_entries=count) as running:
            for form in (str, signed):
                assert await problems(running, form(named(count))) == FINE
                assert await problems(running, form(named(count + 1))) == TOO_LARGE


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_contract_bytes", "8193"),  # the sidecars' filter would refuse it
        ("max_contract_bytes", "255"),
        ("max_contract_entries", "0"),
        ("max_contract_entries", str(MAX_CONFIGURABLE_ENTRIES + 1)),
    ],
)
def test_sizes_that_are_out_of_all_bounds_are_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigInvalid, match=f"the environment: DEVROUTE_{name.upper()}"):
        proxy_settings([Source("the environment", {name: value})])
