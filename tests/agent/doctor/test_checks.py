"""`devroute doctor` with real faults. The round trip through the mesh: tests/envoy/test_doctor.py."""

import asyncio
import email.utils
import json
import os
import re
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from devroute import __version__
from devroute.agent.doctor.checks import examine_reach
from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from tests.support.authority import Authority, Pair
from tests.support.relay import relay
from tests.support.shell import devroute, listening

SECRET, RECORD = new_token("alice")


async def examined(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    code, out, err = await devroute(folder, "doctor", "--output", "json", *arguments, **environment)
    assert not err
    return code, {found["check"]: found for found in map(json.loads, out.splitlines())}


async def read_in_part(folder: Path, service: str, **environment: str) -> str:
    """What is on standard error if the reader of the output ends while the tunnel is open."""
    until = "while read -r line; do case $line in fail*) exit; esac; done"
    line = f'"$0" -m devroute doctor --service "$1" | {until}'
    process = await asyncio.create_subprocess_exec(
        *("sh", "-c", line, sys.executable, service),
        env={**os.environ, "HOME": str(folder), "PYTHONUNBUFFERED": "1", **environment},
        cwd=folder,
        stderr=asyncio.subprocess.PIPE,
    )
    return (await process.communicate())[1].decode()


async def test_a_healthy_laptop_passes_every_check_and_a_dead_app_is_named(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    (tmp_path / "site").mkdir()
    async with testbed.proxy(tmp_path / "site", [RECORD]) as proxy, listening() as port:
        known = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": SECRET}
        (code, found), (dead_code, dead), (wrong_code, wrong), err = await asyncio.gather(
            examined(tmp_path, "--service", f"foo=127.0.0.1:{port}", **known, DEVROUTE_REACH="c.shop:80"),
            examined(tmp_path, "--service", f"foo=127.0.0.1:{unused_tcp_port}", **known),
            examined(tmp_path, **known | {"DEVROUTE_TOKEN": "dvr_wrong"}),
            read_in_part(tmp_path, f"foo=127.0.0.1:{unused_tcp_port}", **known),
        )
    assert err == ""
    assert code == 0
    order = ["configuration", "dns", "tls", "token", "version", "reach", "tunnel", "app foo", "mesh", "clock"]
    assert list(found) == order
    assert {check for check, each in found.items() if each["result"] != "ok"} == {"mesh"}
    assert found["token"]["text"] == "you are alice"

    assert (dead_code, dead["app foo"]["result"], dead["clock"]["result"]) == (1, "fail", "ok")
    assert "start the app" in dead["app foo"]["remedy"]

    assert (wrong_code, wrong["token"]["error"]) == (30, "token-invalid")
    assert wrong["version"]["result"] == "skip"
    assert "tunnel" in wrong["version"]["text"]


@pytest.mark.parametrize(
    ("rules", "said"), [(None, "it is older"), ([], "the policy lets you reach no service of the mesh")]
)
def test_a_laptop_that_may_reach_nothing_is_warned_before_its_app_is_refused(
    rules: object, said: str
) -> None:
    found = examine_reach(rules)
    assert (found.check, found.result, bool(found.remedy)) == ("reach", "warn", True)
    assert said in found.text


@pytest.mark.parametrize(
    ("server", "check", "code", "said"),
    [
        ("", "configuration", 20, "server missing"),
        ("https://no-such-host.invalid", "dns", 40, "does not resolve"),
        ("http://127.0.0.1:1", "tls", 40, "refused"),
    ],
)
async def test_each_fault_is_named_with_its_exit_code(
    server: str, check: str, code: int, said: str, tmp_path: Path
) -> None:
    ended, found = await examined(tmp_path, DEVROUTE_SERVER=server, DEVROUTE_TOKEN=SECRET)
    assert (ended, found[check]["result"]) == (code, "fail")
    assert said in found[check]["text"]
    assert found[check]["remedy"]


# --- TLS ----------------------------------------------------------------------------------------------------


async def test_a_server_that_speaks_no_tls_is_named(tmp_path: Path) -> None:
    async with listening(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        server = f"https://localhost:{port}"
        code, found = await examined(tmp_path, DEVROUTE_SERVER=server, DEVROUTE_TOKEN=SECRET)
    assert (code, found["tls"]["result"]) == (40, "fail")
    assert "https or http" in found["tls"]["remedy"]


@asynccontextmanager
async def certified(folder: Path, pair: Pair) -> AsyncIterator[str]:
    """A proxy with this certificate; its URL."""
    files = {"DEVROUTE_TLS_CERT": str(pair.certificate), "DEVROUTE_TLS_KEY": str(pair.key)}
    async with testbed.proxy(folder, [RECORD], environment={**files, "DEVROUTE_TLS_PORT": "0"}) as proxy:
        (ready,) = (event for event in proxy.command.events() if event.get("event") == "proxy.ready")
        yield f"https://localhost:{ready['tls_port']}"


async def test_a_certificate_that_is_not_trusted_or_expires_soon_is_reported(tmp_path: Path) -> None:
    """The server works, so that all other checks succeed."""
    authority = Authority(tmp_path)
    async with certified(tmp_path, authority.server(seconds=9 * 86_400 + 60)) as server:
        known = {"DEVROUTE_SERVER": server, "DEVROUTE_TOKEN": SECRET}
        (code, untrusted), (soon_code, soon) = await asyncio.gather(
            examined(tmp_path, **known), examined(tmp_path, "--ca-file", str(authority.file), **known)
        )
    assert (code, untrusted["tls"]["result"]) == (40, "fail")
    assert "is not trusted" in untrusted["tls"]["text"]
    assert "--ca-file" in untrusted["tls"]["remedy"]
    assert untrusted["token"]["result"] == "skip"

    assert (soon_code, soon["tls"]["result"]) == (0, "warn")
    assert "expires in 9 days" in soon["tls"]["text"]
    assert "platform team" in soon["tls"]["remedy"]
    assert {check for check, each in soon.items() if each["result"] != "ok"} == {"tls", "mesh"}


@pytest.mark.parametrize(("name", "said"), [("expired", "has expired"), ("other", "for another name")])
async def test_a_certificate_that_has_expired_or_is_for_another_name_has_its_own_remedy(
    name: str, said: str, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    made = {
        "expired": lambda: authority.server(seconds=-10),
        "other": lambda: authority.issue("other", dns=("other.example",)),
    }
    async with certified(tmp_path, made[name]()) as server:
        known = {"DEVROUTE_SERVER": server, "DEVROUTE_TOKEN": SECRET}
        code, found = await examined(tmp_path, "--ca-file", str(authority.file), **known)
    assert (code, found["tls"]["result"]) == (40, "fail")
    assert said in found["tls"]["remedy"]
    assert "--ca-file" not in found["tls"]["remedy"]


# --- a server with another time and version
# -------------------------------------------------------------------


@asynccontextmanager
async def in_front_of(
    server: testbed.RunningProxy, version: str, seconds: float, more: bytes = b""
) -> AsyncIterator[str]:
    """A relay behind which the server has another version and another time, and `more` in its status."""
    date = f"Date: {email.utils.formatdate(time.time() + seconds, usegmt=True)}".encode()
    ours, theirs = f'"version": "{__version__}"'.encode(), f'"version": "{version}"'.encode()
    assert len(ours) == len(theirs)  # content-length stays true

    async def change(data: bytes) -> bytes:
        if b"200 OK" in data and ours in data:
            length = re.search(rb"(?i)\bcontent-length: (\d+)", data)
            assert length is not None
            data = data.replace(length[0], b"Content-Length: %d" % (int(length[1]) + len(more)))
            data = data.replace(ours, more + ours)
        return re.sub(rb"(?i)\bdate: [^\r]+", date, data.replace(ours, theirs))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await relay(reader, writer, (server.control.host, server.control.port), change)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as front:
        yield f"http://127.0.0.1:{front.sockets[0].getsockname()[1]}"


async def test_a_clock_that_differs_an_older_devroute_and_a_lost_registry_are_warnings(
    tmp_path: Path,
) -> None:
    (tmp_path / "site").mkdir()
    other = re.sub(r"^\d", "9", __version__)
    token = {"DEVROUTE_TOKEN": SECRET}
    async with (
        testbed.proxy(tmp_path / "site", [RECORD]) as proxy,
        in_front_of(proxy, other, 300) as later,
        in_front_of(proxy, __version__, -300, b'"registry": "unavailable", ') as earlier,
    ):
        (code, found), (_, behind) = await asyncio.gather(
            examined(tmp_path, DEVROUTE_SERVER=later, **token),
            examined(tmp_path, DEVROUTE_SERVER=earlier, **token),
        )
    assert (code, found["version"]["result"], found["clock"]["result"]) == (0, "warn", "warn")
    assert found["version"]["text"] == f"devroute {__version__} here, but {other} at the server"
    assert other in found["version"]["remedy"]
    assert re.search(
        r"clock is (2[5-9]\d|30\d) s behind", found["clock"]["text"]
    )  # the test itself takes time
    assert re.search(r"clock is 3\d\d s ahead of", behind["clock"]["text"])
    assert behind["version"]["result"] == "ok"
    assert ("registry" in found, behind["registry"]["result"]) == (False, "warn")
    assert "known to its own replica alone" in behind["registry"]["text"]
