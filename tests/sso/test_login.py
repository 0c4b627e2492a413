"""`devroute login` at a real OIDC provider: the proxy, the command and the person's browser are processes and
sockets (make test-sso)."""

import asyncio
import base64
import json
import re
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.sso import packages
from tests.sso.person import Person
from tests.support.eventually import eventually

pytestmark = [pytest.mark.sso, pytest.mark.asyncio]

WITHIN_S = 150.0
#: Seconds for which ID tokens are valid in the tests of renewal: a fifth of it is left when they are renewed.
SHORT = 20


@pytest.fixture(autouse=True)
def provider_is_installed() -> None:
    if (reason := packages.missing()) is not None:
        pytest.skip(reason)


@dataclass
class Run:
    """A process, and all that it has printed."""

    process: asyncio.subprocess.Process
    output: str = ""
    reading: asyncio.Future[None] | None = field(default=None, repr=False)

    async def read(self) -> None:
        assert self.process.stdout is not None
        while piece := await self.process.stdout.read(4096):
            self.output += piece.decode()

    async def until(self, pattern: str) -> re.Match[str]:
        def found() -> re.Match[str] | None:
            assert self.process.returncode is None or re.search(pattern, self.output), self.output
            return re.search(pattern, self.output)

        try:
            return await eventually(found, pattern, within=WITHIN_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from error

    async def ended(self) -> int:
        async with asyncio.timeout(WITHIN_S):
            code = await self.process.wait()
            assert self.reading is not None
            await self.reading
        return code


@dataclass
class Place:
    """A provider and a proxy that accepts its tokens; commands run with the home folder of one laptop."""

    issuer: str
    server: str
    home: Path
    group: asyncio.TaskGroup
    runs: list[Run]

    async def start(self, *arguments: str, **environment: str) -> Run:
        return await self.start_program([sys.executable, "-m", "devroute", *arguments], environment)

    async def start_program(self, command: list[str], environment: dict[str, str]) -> Run:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self.home,
            env={"HOME": str(self.home), "PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1", **environment},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        run = Run(process)
        run.reading = self.group.create_task(run.read())
        self.runs.append(run)
        return run

    async def devroute(self, *arguments: str) -> tuple[int, str]:
        run = await self.start(*arguments)
        return await run.ended(), run.output

    async def login(self, person: str = "alice", *, agrees: bool = True) -> tuple[int, str]:
        """`devroute login`, and the person who reads what it prints."""
        run = await self.start("login", "--server", self.server)
        page = await run.until(r"open   (\S+)")
        code = await run.until(r"enter  (\S+)")
        await Person(person).enters(code[1], page[1], agrees=agrees)
        return await run.ended(), run.output

    @property
    def files(self) -> list[Path]:
        return list((self.home / ".local/state/devroute/logins").glob("*.json"))

    @property
    def saved(self) -> dict[str, Any]:
        (file,) = self.files
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        return json.loads(file.read_text())


@asynccontextmanager
async def place(
    tmp_path: Path, settings: dict[str, str] | None = None, **provider: str
) -> AsyncIterator[Place]:
    async with asyncio.TaskGroup() as group:
        here = Place("", "", tmp_path, group, [])
        try:
            command = ["node", str(packages.PROVIDER / "server.mjs"), str(packages.folder())]
            started = await here.start_program(command, provider)
            here.issuer = (await started.until(r"(?m)^(http://\S+)$"))[1]
            proxy = await here.start(
                *(
                    "proxy",
                    "--host",
                    "127.0.0.1",
                    "--data-port",
                    "0",
                    "--control-port",
                    "0",
                    "--admin-port",
                    "0",
                ),
                **{
                    "DEVROUTE_OIDC_ISSUER": here.issuer,
                    "DEVROUTE_OIDC_AUDIENCE": "devroute,with-secret,no-device",
                    "DEVROUTE_OIDC_CLIENT_ID": "devroute",
                    "DEVROUTE_OIDC_SUBJECT_CLAIM": "email",
                    "DEVROUTE_OIDC_EMAIL_DOMAIN": "corp.example",
                    **(settings or {}),
                },
            )
            ready = await proxy.until(r'.*"proxy.ready".*')
            here.server = f"http://127.0.0.1:{json.loads(ready[0])['control_port']}"
            yield here
        finally:
            for run in here.runs:
                if run.process.returncode is None:
                    run.process.terminate()
                    await run.ended()


def expiry(token: str) -> float:
    payload = token.split(".")[1]
    return float(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"])


async def test_a_login_is_used_by_every_command_until_logout_ends_it_everywhere(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        code, output = await here.devroute("ls", "--server", here.server)
        assert (code, "devroute login" in output) == (20, True), output
        code, output = await here.login()
        assert code == 0, output
        assert f"you are alice at {here.server}" in output
        assert here.saved["refresh_token"]
        for secret in (here.saved["token"], here.saved["refresh_token"]):
            assert secret not in output
        # No server and no token is given from here on.
        code, output = await here.devroute("status", "--output", "json")
        assert (code, json.loads(output)["you"]) == (0, "alice")
        up = await here.start("up", "b=1", "--inspector", "off")
        await up.until("alice")
        code, output = await here.devroute("ls")
        assert (code, "alice" in output) == (0, True), output
        before = here.saved
        code, output = await here.devroute("logout")
        assert (code, output) == (0, f"logged out of {here.server}\n")
        code, output = await here.devroute("ls")
        assert (code, "devroute login" in output) == (20, True), output
        async with aiohttp.ClientSession() as client:
            form = {
                "grant_type": "refresh_token",
                "client_id": "devroute",
                "refresh_token": before["refresh_token"],
            }
            async with client.post(f"{here.issuer}/token", data=form) as response:
                assert (response.status, (await response.json())["error"]) == (400, "invalid_grant")
        assert await here.devroute("logout") == (0, f"there is no login for {here.server}\n")


async def test_tokens_are_renewed_by_one_process_for_all_and_a_tunnel_outlives_them(tmp_path: Path) -> None:
    """The provider gives each refresh token one use, and ends the login at a second."""
    async with place(tmp_path, ID_TOKEN_SECONDS=str(SHORT)) as here:
        assert (await here.login())[0] == 0
        first = here.saved
        ups = [
            await here.start("up", f"{name}=1", "--name", f"alice--{name}", "--inspector", "off")
            for name in ("b", "c")
        ]
        for up in ups:
            await up.until("alice--")
        await eventually(
            lambda: time.time() > expiry(first["token"]) + 6, "the first token has expired", within=WITHIN_S
        )
        assert here.saved["token"] != first["token"]
        code, output = await here.devroute("ls")
        assert (code, "alice--b" in output, "alice--c" in output) == (0, True, True), output
        for up in ups:
            assert up.process.returncode is None, up.output
            assert "offline" not in up.output


async def test_a_person_who_refuses_gets_no_login(tmp_path: Path) -> None:
    async with place(tmp_path) as here:
        code, output = await here.login(agrees=False)
        assert (code, "refused" in output, "devroute login" in output) == (30, True, True), output
        assert here.files == []


async def test_a_code_that_is_not_entered_expires(tmp_path: Path) -> None:
    async with place(tmp_path, CODE_SECONDS="6") as here:
        code, output = await here.devroute("login", "--server", here.server)
        assert (code, "expired before it was entered" in output) == (30, True), output


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"DEVROUTE_OIDC_CLIENT_ID": "no-device"}, "device_code is not allowed for this client"),
        ({"DEVROUTE_OIDC_CLIENT_ID": "with-secret"}, "does not accept the client 'with-secret'"),
        (
            {"DEVROUTE_OIDC_CLIENT_ID": "unknown", "DEVROUTE_OIDC_AUDIENCE": "unknown"},
            "does not accept the client 'unknown'",
        ),
    ],
)
async def test_a_client_that_the_provider_refuses_is_explained(
    settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    async with place(tmp_path, settings) as here:
        code, output = await here.devroute("login", "--server", here.server)
        assert (code, message in output, "platform team" in output) == (30, True, True), output


async def test_a_client_with_a_published_secret_logs_in(tmp_path: Path) -> None:
    settings = {"DEVROUTE_OIDC_CLIENT_ID": "with-secret", "DEVROUTE_OIDC_CLIENT_SECRET": "published"}
    async with place(tmp_path, settings) as here:
        code, output = await here.login("bob")
        assert (code, "you are bob" in output) == (0, True), output


async def test_a_server_without_a_client_offers_no_login(tmp_path: Path) -> None:
    async with place(tmp_path, {"DEVROUTE_OIDC_CLIENT_ID": ""}) as here:
        code, output = await here.devroute("login", "--server", here.server)
        assert (code, "offers no login" in output) == (30, True), output
