"""The laptop's token: what a real command prints, how long it is kept, and how a tunnel outlives it."""

import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from devroute.agent.child_process import environment
from devroute.agent.registration import RETRY_SECONDS, keep_renewed
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import (
    LATEST,
    LEAST_PAUSE,
    UNKNOWN_LIFETIME,
    TokenSource,
    expiry,
    renewal_delay,
    run_command,
    with_fetched_token,
)
from devroute.auth.identity import Identity, PeerCertificate
from devroute.auth.tokens import bearer_token
from devroute.errors import ConfigInvalid, DevrouteError, TokenCommandFailed
from devroute.mesh import testbed
from devroute.tasks import TaskOwner
from devroute.tunnel.protocol import handshake
from tests.support.eventually import PATIENCE_S
from tests.support.issuer import AUDIENCE, issuing
from tests.support.loopback import connect, site

pytestmark = pytest.mark.asyncio


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


# --- the command --------------------------------------------------------------------------------------


async def test_the_output_of_the_command_is_the_token_and_no_shell_runs_it() -> None:
    assert await run_command(("echo", "  a.b.c  ")) == "a.b.c"
    assert await run_command(("echo", "$HOME;`id`|x")) == "$HOME;`id`|x"


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        (("no-such-command",), "there is no such command"),
        (("false",), "failed with exit code 1"),
        (
            ("sh", "-c", "echo one >&2; echo 'log in \033[31mfirst' >&2; exit 3"),
            "exit code 3: log in  [31mfirst",
        ),
        (("true",), "did not print a token"),
        (("echo", "two words"), "did not print a token"),
        (("printf", "a\\nb"), "did not print a token"),
        (("echo", "\N{LATIN SMALL LETTER E WITH ACUTE}"), "did not print a token"),
        (("sleep", "60"), "no token within 0.2 s"),
    ],
)
async def test_a_command_that_prints_no_token_is_an_error_with_its_reason(
    command: tuple[str, ...], problem: str
) -> None:
    with pytest.raises((ConfigInvalid, TokenCommandFailed)) as caught:
        await run_command(command, 0.2 if command[0] == "sleep" else PATIENCE_S)
    assert problem in caught.value.message


async def test_a_command_that_prints_without_end_is_killed(tmp_path: Path) -> None:
    with pytest.raises(TokenCommandFailed, match=r"within 0\.3 s"):
        await run_command(("yes",), 0.3)


# --- keeping it ---------------------------------------------------------------------------------------


def counting(tmp_path: Path, token: str) -> tuple[ClientSettings, Callable[[], int]]:
    ran = tmp_path / "ran"
    ran.touch()
    command = ("sh", "-c", 'echo x >> "$0"; echo "$1"', str(ran), token)
    return ClientSettings(token_command=command), lambda: len(ran.read_text().split())


async def test_the_command_runs_again_only_when_the_token_is_about_to_expire(tmp_path: Path) -> None:
    now = 1000.0
    settings, ran = counting(tmp_path, jwt(exp=2000))
    source = TokenSource(settings, lambda: now)
    first = await source.get()
    assert source.fresh
    assert await source.get() == first
    assert (source.fresh, ran()) == (False, 1)
    now = 1000 + renewal_delay(1000)
    await source.get()
    assert ran() == 2
    source.forget()
    await source.get()
    assert ran() == 3


async def test_a_token_of_unknown_expiry_is_cached_for_a_fixed_time(tmp_path: Path) -> None:
    settings, ran = counting(tmp_path, "opaque")
    times = [0.0, renewal_delay(UNKNOWN_LIFETIME) - 1, renewal_delay(UNKNOWN_LIFETIME), 2000.0]
    source = TokenSource(settings, lambda: times.pop(0))
    assert [await source.get(), await source.get()] == ["opaque", "opaque"]
    assert ran() == 1
    await source.get()
    assert ran() == 2


async def test_several_requests_of_one_command_run_it_once(tmp_path: Path) -> None:
    settings, ran = counting(tmp_path, "opaque")
    once = await with_fetched_token(settings)
    for _ in range(3):
        assert await TokenSource(once).get() == "opaque"
    assert ran() == 1
    given = ClientSettings(token=SecretStr("given"))
    assert await with_fetched_token(given) is given


async def test_only_a_valid_expiry_of_a_jwt_is_read() -> None:
    assert expiry(jwt(exp=2000)) == 2000
    for claims in ({}, {"exp": "soon"}, {"exp": True}, {"exp": -1}, {"exp": 10**400}):
        assert expiry(jwt(**claims)) is None
    for token in ("", "opaque", "a.b.c", "..", f"a.{'[' * 3000}.c"):
        assert expiry(token) is None


@given(st.floats(min_value=0, max_value=1e9))
async def test_a_token_is_renewed_before_it_expires_and_not_at_once(lifetime: float) -> None:
    pause = renewal_delay(lifetime)
    assert LEAST_PAUSE <= pause <= max(LEAST_PAUSE, lifetime)
    assert lifetime - pause <= LATEST


# --- renewal ------------------------------------------------------------------------------------------


class Pauses:
    """Stands for asyncio.sleep: each pause ends when the test ends it."""

    def __init__(self) -> None:
        self._begun: asyncio.Queue[float] = asyncio.Queue()
        self._ended = asyncio.Semaphore(0)

    async def sleep(self, seconds: float) -> None:
        self._begun.put_nowait(seconds)
        await self._ended.acquire()

    async def begun(self) -> float:
        """The length of the next pause, in seconds."""
        async with asyncio.timeout(PATIENCE_S):
            return await self._begun.get()

    async def end(self) -> float:
        """End this pause; returns the length of the next one."""
        self._ended.release()
        return await self.begun()


async def test_a_tunnel_outlives_its_tokens_without_an_interruption(tmp_path: Path) -> None:
    file = tmp_path / "token"
    source = TokenSource(ClientSettings(token_command=("cat", str(file))))
    failures: list[DevrouteError] = []
    pauses = Pauses()

    async def authenticate(authorization: str, certificate: PeerCertificate | None) -> Identity:
        number = int(bearer_token(authorization).removeprefix("token-"))
        return Identity("alice", expires=time.time() + 1000 * number, token_id=f"token-{number}")

    async with site(authenticate=authenticate) as where:
        link = await connect(where, {"foo": object()}, token="token-1")  # type: ignore[dict-item]  # never opened
        welcome = handshake.decode(handshake.Welcome, await link.welcome)
        owner = TaskOwner()
        owner.start(keep_renewed(link, source, welcome.expires_in, failures.append, pauses.sleep))
        assert await pauses.begun() == pytest.approx(renewal_delay(1000), abs=PATIENCE_S)
        (member,) = where.tunnels.links.values()
        for number in (2, 3):
            file.write_text(f"token-{number}")
            assert await pauses.end() == pytest.approx(renewal_delay(1000 * number), abs=PATIENCE_S)
            assert member.identity.token_id == f"token-{number}"
        file.write_text("")
        assert await pauses.end() <= RETRY_SECONDS
        assert [type(each) for each in failures] == [TokenCommandFailed]
        file.write_text("token-4")
        assert await pauses.end() > RETRY_SECONDS
        assert (member.identity.token_id, link.close_error) == ("token-4", None)
        await owner.close()


async def test_a_token_that_one_link_has_fetched_is_new_enough_for_the_other(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    script = f"echo >> {runs}; echo token-$(wc -l < {runs})"
    source = TokenSource(ClientSettings(token_command=("sh", "-c", script)))
    first, second = await asyncio.gather(source.get(), source.get())
    assert first == second == "token-1"
    assert await source.newer(first) == "token-2"
    assert await source.newer(second) == "token-2"
    assert await source.newer("token-2") == "token-3"


async def test_the_app_does_not_see_the_token(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DEVROUTE_TOKEN", "dvr_secret")
    monkeypatch.setenv("OTHER", "kept")
    assert "DEVROUTE_TOKEN" not in environment()
    assert environment()["OTHER"] == "kept"
    async with issuing() as issuer:
        settings = {"DEVROUTE_OIDC_ISSUER": issuer.url, "DEVROUTE_OIDC_AUDIENCE": AUDIENCE}
        async with testbed.proxy(tmp_path, [], environment=settings) as proxy:
            token = issuer.token()
            laptop = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": token}
            show = "import os, json; json.dump(dict(os.environ), open('seen.json', 'w'))"
            line = ("up", "foo=8001", "--", sys.executable, "-c", show)
            async with testbed.command(tmp_path, "up", line, laptop) as up:
                async with asyncio.timeout(PATIENCE_S):
                    assert await up.process.wait() == 0, up.log.read_text()
    variables = json.loads((tmp_path / "seen.json").read_text())
    assert "DEVROUTE_SERVER" in variables
    assert token not in json.dumps(variables)
