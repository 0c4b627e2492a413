"""`devroute init`: what it writes, and when it writes nothing. The prompts are asked on a real terminal."""

import asyncio
import os
import pty
import stat
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from aiohttp import web

from devroute.auth.authenticator import Authenticator
from devroute.auth.tokens import Tokens, new_token
from devroute.cli import init as init_command
from devroute.cli.config import sources
from devroute.cli.init import find_server
from devroute.cli.main import run
from devroute.contract.target import Address
from devroute.errors import ConfigInvalid, DevrouteError, ServerUnreachable
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.control.http import create_runner
from devroute.routing.registry import Registry
from tests.support.eventually import PATIENCE_S

SECRET, RECORD = new_token("alice")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    async def permit(address: Address, service: str) -> None:
        return None

    authenticate = Authenticator(lambda: Tokens((RECORD,))).authenticate
    runner = create_runner(create_app(Control(Registry(), Policy, authenticate, permit, 1.0)))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def init(home: Path, *arguments: str, token: str = SECRET) -> tuple[int, str]:
    """`devroute init` in a script: its exit code and output."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "init", *arguments),
        env={"HOME": str(home)},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(process.communicate(token.encode() + b"\n"), 20)
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_a_script_s_server_and_token_are_checked_and_saved_for_the_owner_only(
    tmp_path: Path, server: str
) -> None:
    code, said = await init(tmp_path, "--server", server, "--token-stdin")
    assert code == 0, said
    assert f"you are alice at {server}" in said
    assert "~/.config/devroute/config.yaml" in said
    assert SECRET not in said
    file = tmp_path / ".config" / "devroute" / "config.yaml"
    assert yaml.safe_load(file.read_text()) == {"server": server, "token": SECRET}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir(file.parent) == ["config.yaml"]


async def test_settings_that_the_server_refuses_are_not_saved(
    tmp_path: Path, server: str, unused_tcp_port: int
) -> None:
    code, said = await init(tmp_path, "--server", server, "--token-stdin", token="dvr_wrong")
    assert (code, "not known" in said, "dvr_wrong" in said) == (30, True, False)
    code, said = await init(tmp_path, "--server", f"http://127.0.0.1:{unused_tcp_port}", "--token-stdin")
    assert (code, "cannot be reached" in said) == (40, True)
    code, said = await init(tmp_path, "--server", "http://", "--token-stdin")
    assert (code, "is not a URL" in said) == (20, True)
    code, said = await init(tmp_path, "--server", server)
    assert (code, "--token-stdin" in said) == (2, True)
    code, said = await init(tmp_path, "--server", server, "--token-stdin", token="")
    assert (code, "standard input is empty" in said) == (20, True)
    assert not (tmp_path / ".config").exists()


async def test_a_token_command_is_saved_instead_of_a_token(tmp_path: Path, server: str) -> None:
    assert (await init(tmp_path, "--server", server, "--token-stdin"))[0] == 0
    code, said = await init(tmp_path, "--server", server, "--token-command", f"echo {SECRET}")
    assert code == 0, said
    file = tmp_path / ".config" / "devroute" / "config.yaml"
    assert yaml.safe_load(file.read_text()) == {"server": server, "token_command": f"echo {SECRET}"}
    code, said = await init(tmp_path, "--server", server, "--token-command", "echo dvr_wrong")
    assert (code, "dvr_wrong" in said) == (30, False)


async def test_other_settings_and_comments_stay(tmp_path: Path, server: str) -> None:
    file = tmp_path / ".config" / "devroute" / "config.yaml"
    file.parent.mkdir(parents=True)
    file.write_text("# mine\nserver: https://old  # the old one\nname: alice-2\n")
    assert (await init(tmp_path, "--server", server, "--token-stdin"))[0] == 0
    assert file.read_text() == f"# mine\nserver: {server}  # the old one\nname: alice-2\ntoken: {SECRET}\n"


async def test_a_prompt_is_repeated_after_a_refusal_and_shows_no_token(tmp_path: Path, server: str) -> None:
    master, slave = pty.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", "init"),
        env={"HOME": str(tmp_path), "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=_own_terminal,
    )
    os.close(slave)
    seen = ""

    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(master), "rb", 0)
    )

    async def until(text: str) -> None:
        nonlocal seen
        try:
            async with asyncio.timeout(PATIENCE_S):
                while text not in seen:
                    seen += (await reader.read(4096)).decode()
        except TimeoutError:
            process.kill()
            raise AssertionError(f"{text!r} is not in {seen!r}") from None
        seen = seen[seen.index(text) + len(text) :]

    await until("Server (URL):")
    os.write(master, b"http://\n")
    await until("is not a URL")
    await until("Server (URL):")
    os.write(master, server.removeprefix("http://").encode() + b"\n")
    await until("Token (not shown):")
    os.write(master, b"dvr_wrong\n")
    await until("not known")
    await until("Token (not shown):")
    os.write(master, SECRET.encode() + b"\n")
    await until("next: devroute up")
    assert await asyncio.wait_for(process.wait(), 20) == 0
    transport.close()
    os.close(master)
    assert yaml.safe_load((tmp_path / ".config/devroute/config.yaml").read_text())["token"] == SECRET


async def found(text: str) -> str | DevrouteError:
    """The server that `init` takes a text for, or its refusal."""
    try:
        return await asyncio.to_thread(find_server, text, {}, sends_token=True)
    except DevrouteError as error:
        return error


async def test_a_server_is_recognised_without_its_scheme(server: str, tmp_path: Path) -> None:
    place = server.removeprefix("http://")
    assert await found(place) == server
    assert await found(f"localhost:{place.rpartition(':')[2]}/") == server.replace("127.0.0.1", "localhost")
    wrong = await found(f"https://{place}")
    assert isinstance(wrong, ServerUnreachable)
    assert (wrong.hint, "TLS failed" in wrong.message) == (f"it responds at {server}", True)
    refused = await found("127.0.0.1:1")
    assert isinstance(refused, ServerUnreachable)
    assert refused.message == "http://127.0.0.1:1 cannot be reached: Connection refused"


async def test_a_server_elsewhere_that_speaks_plain_http_gets_no_token(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server is on loopback, and taken for one that is not."""
    place = server.removeprefix("http://")
    monkeypatch.setattr(init_command, "is_exposed", lambda url: url.startswith("http:"))
    monkeypatch.setattr(sources, "is_exposed", lambda url: url.startswith("http:"))
    refusal = await found(place)
    assert isinstance(refusal, ConfigInvalid)
    assert refusal.message.startswith(f"{server} is plain http: your token could be read")


def _own_terminal() -> None:
    """getpass reads the controlling terminal, which must not be that of the tests."""
    import fcntl
    import termios

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def test_init_adds_services_to_a_project_file(tmp_path: Path, capsys: Captured) -> None:
    assert run(["init", "--project", "foo=8001"], {}) == 0
    file = tmp_path / "devroute.yaml"
    assert file.read_text() == "services:\n  foo: 8001\n"
    file.write_text("# ours\nservices:\n  - foo=8001\nname: x\n")
    assert run(["init", "--project", "bar=grpc://localhost:9000", "--project", "foo=8002"], {}) == 0
    assert file.read_text() == "# ours\nservices:\n  foo: 8002\n  bar: grpc://localhost:9000\nname: x\n"
    assert run(["init", "--project", "foo"], {}) == 20
    assert "write SERVICE=PORT" in capsys.readouterr().err
    assert run(["init", "--project", "foo=1", "--server", "http://x"], {}) == 2
    before = file.read_text()
    assert run(["init", "--project", "db=db.internal:5432"], {}) == 20
    assert "is not on this laptop" in capsys.readouterr().err
    assert file.read_text() == before
