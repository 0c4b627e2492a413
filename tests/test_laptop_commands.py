"""`devroute doctor`, `curl`, `completion` and `version` against a real proxy, each thing broken for real."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer

from devroute import stage
from devroute.auth import new_token
from devroute.cli import app, run
from devroute.cli_curl import whose

SECRET, RECORD = new_token("alice")
Captured = pytest.CaptureFixture[str]


@asynccontextmanager
async def listening(answer: bytes = b"") -> AsyncIterator[int]:
    """An app, or whatever answers so."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(65536) and answer:
            writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def devroute(folder: Path, *arguments: str, **environment: str) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "devroute", *arguments),
        env={"HOME": str(folder), "PATH": os.environ["PATH"], **environment},
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode is not None
    assert b"Traceback" not in err
    return process.returncode, out.decode(), err.decode()


async def examined(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, Any]]:
    code, out, err = await devroute(folder, "doctor", "--output", "json", *arguments, **environment)
    assert not err
    return code, {found["check"]: found for found in map(json.loads, out.splitlines())}


# --- doctor -------------------------------------------------------------------------------------------------


async def test_a_healthy_laptop_passes_every_check_and_a_dead_app_is_named(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    (tmp_path / "site").mkdir()
    async with stage.proxy(tmp_path / "site", [RECORD]) as proxy, listening() as port:
        known = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": SECRET}
        code, found = await examined(tmp_path, "--service", f"foo=127.0.0.1:{port}", **known)
        assert code == 0
        order = ["configuration", "dns", "tls", "token", "version", "tunnel", "app foo", "mesh", "clock"]
        assert list(found) == order
        assert {check for check, each in found.items() if each["result"] != "ok"} == {"mesh"}
        assert found["token"]["text"] == "you are alice"

        code, found = await examined(tmp_path, "--service", f"foo=127.0.0.1:{unused_tcp_port}", **known)
        assert (code, found["app foo"]["result"], found["clock"]["result"]) == (1, "fail", "ok")
        assert "start the app" in found["app foo"]["remedy"]

        code, found = await examined(tmp_path, **known | {"DEVROUTE_TOKEN": "dvr_wrong"})
        assert (code, found["token"]["error"], found["version"]["result"]) == (30, "token-invalid", "skip")
        assert "tunnel" in found["version"]["text"]


async def test_the_round_trip_goes_through_the_mesh_or_says_where_it_ended(tmp_path: Path) -> None:
    """What stands for the mesh is a sidecar's part: it marks the request for the proxy's data port."""
    (tmp_path / "site").mkdir()
    async with stage.proxy(tmp_path / "site", [RECORD]) as proxy:

        async def sidecar(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = await reader.readuntil(b"\r\n\r\n")
            onward_reader, onward = await asyncio.open_connection(proxy.data.host, proxy.data.port)
            onward.write(head[:-2] + b"x-devroute-matched: foo\r\nconnection: close\r\n\r\n")
            writer.write(await onward_reader.read())
            writer.close()
            onward.close()

        known = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": SECRET}
        async with await asyncio.start_server(sidecar, "127.0.0.1", 0) as mesh, listening() as port:
            url = f"http://127.0.0.1:{mesh.sockets[0].getsockname()[1]}/"
            service = ("--service", f"foo=127.0.0.1:{port}")
            code, found = await examined(tmp_path, url, *service, **known)
            assert (code, found["mesh"]["result"]) == (0, "ok"), found
            elsewhere = b"HTTP/1.1 200 OK\r\nx-devroute-result: fallback\r\nx-devroute-reason: gone\r\n\r\n"
            async with listening(elsewhere) as other:
                code, found = await examined(tmp_path, f"http://127.0.0.1:{other}/", *service, **known)
            assert (code, found["mesh"]["result"]) == (1, "fail")
            assert "fallback: gone" in found["mesh"]["text"]
            assert "devroute trace" in found["mesh"]["remedy"]


@pytest.mark.parametrize(
    ("server", "check", "code", "said"),
    [
        ("", "configuration", 20, "server missing"),
        ("https://no-such-host.invalid", "dns", 40, "does not resolve"),
        ("http://127.0.0.1:1", "tls", 40, "refused"),
    ],
)
async def test_what_is_broken_is_named_with_its_exit_code(
    server: str, check: str, code: int, said: str, tmp_path: Path
) -> None:
    ended, found = await examined(tmp_path, DEVROUTE_SERVER=server, DEVROUTE_TOKEN=SECRET)
    assert (ended, found[check]["result"]) == (code, "fail")
    assert said in found[check]["text"]
    assert found[check]["remedy"]


async def test_a_server_that_speaks_no_tls_is_named(tmp_path: Path) -> None:
    async with listening(b"HTTP/1.1 200 OK\r\n\r\n") as port:
        server = f"https://localhost:{port}"
        code, found = await examined(tmp_path, DEVROUTE_SERVER=server, DEVROUTE_TOKEN=SECRET)
    assert (code, found["tls"]["result"]) == (40, "fail")
    assert "https or http" in found["tls"]["remedy"]


# --- curl ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_sends_my_contract_and_says_whose_code_answered(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    answer = b"HTTP/1.1 200 OK\r\nx-devroute-result: laptop\r\nx-devroute-reason: alice\r\n"
    answer += b"content-length: 2\r\n\r\nhi"
    async with stage.proxy(tmp_path / "site", [RECORD]) as proxy, listening(answer) as port:
        known = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": SECRET}
        url = f"http://127.0.0.1:{port}/"
        code, _, err = await devroute(tmp_path, "curl", url, **known)
        assert (code, "laptop 'alice' is not online" in err, "devroute up" in err) == (50, True, True)
        async with stage.laptop(tmp_path, "alice", proxy.server, SECRET, f"foo=127.0.0.1:{port}", "bar=9"):
            code, out, err = await devroute(tmp_path, "curl", "-sv", url, **known)
            assert (code, out) == (0, "hi")
            assert """> X-devroute: {"foo": "alice", "bar": "alice"}""" in err
            assert err.splitlines()[-1] == "devroute: a laptop answered (laptop: alice)"
            code, out, err = await devroute(tmp_path, "curl", "--service", "foo", "-sv", url, **known)
            assert """> X-devroute: {"foo": "alice"}""" in err
            code, _, err = await devroute(tmp_path, "curl", "--service", "baz", url, **known)
            assert (code, "not 'baz'" in err) == (50, True)
        code, _, err = await devroute(tmp_path, "curl", "-sv", url, DEVROUTE_CONTRACT="eyJ.a.b")
        assert (code, "> X-devroute: eyJ.a.b" in err) == (0, True)
    assert (await devroute(tmp_path, "curl", "-s", url, DEVROUTE_CONTRACT="x"))[0] == 7  # curl's own


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ("HTTP/1.1 200 OK\r\n\r\n", "no sidecar"),
        ("HTTP/1.1 302 Found\r\nx-devroute-result: laptop\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "no sidecar"),
        ("HTTP/2 200\r\nX-Devroute-Result: fallback\r\nx-devroute-reason: a: b\r\n\r\n", "(fallback: a: b)"),
        ("HTTP/1.1 502 x\r\nx-devroute-result: error\r\n\r\n", "an error (error)"),
    ],
)
def test_the_last_answer_says_whose_it_is(heads: str, said: str) -> None:
    assert said in whose(heads)


# --- help, completion, version ------------------------------------------------------------------------------


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    own = [(path, command)] if path and (not below or command.invoke_without_command) else []
    return own + [found for name, each in below.items() for found in commands(each, (*path, name))]


COMMANDS = commands(typer.main.get_command(app))


def test_there_are_commands() -> None:
    assert {("up",), ("contract", "check"), ("manifests", "install"), ("doctor",)} <= {p for p, _ in COMMANDS}


@pytest.mark.parametrize("path", [path for path, _ in COMMANDS], ids=" ".join)
def test_every_command_has_help_with_an_example_of_itself(path: tuple[str, ...], capsys: Captured) -> None:
    assert run([*path, "--help"], {}) == 0
    shown = capsys.readouterr().out
    examples = [line for line in shown.splitlines() if line.strip().startswith("Example: ")]
    assert examples
    assert any(f"devroute {' '.join(path)}" in line for line in examples)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["contr"], ["contract"]),
        (["contract", ""], ["check"]),
        (["up", "--out"], ["--output"]),
        (["up", "--output", "j"], ["json"]),
        (["up", "foo=1", "--", "x"], []),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--vers"], ["--version"]),
        (["nonsense", "--wh"], []),
        (["up", "--server", "x"], []),
    ],
)
def test_words_are_completed(words: list[str], found: list[str], capsys: Captured) -> None:
    assert run(["complete", "--", *words], {}) == 0
    assert capsys.readouterr().out.split() == found


def test_the_hidden_command_is_not_offered(capsys: Captured) -> None:
    run(["complete", "--", "comp"], {})
    assert capsys.readouterr().out.split() == ["completion"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_takes_its_script(shell: str, capsys: Captured) -> None:
    assert run(["completion", shell], {}) == 0
    script = capsys.readouterr().out
    assert "devroute complete --" in script
    if (program := shutil.which(shell)) is not None:
        done = subprocess.run([program, "-n"], input=script, text=True, check=False, timeout=20)
        assert done.returncode == 0
    assert run(["completion", "tcsh"], {}) == 2


def test_bash_itself_completes_a_command(tmp_path: Path) -> None:
    stub = tmp_path / "devroute"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -m devroute "$@"\n')
    stub.chmod(0o755)
    words = "COMP_WORDS=(devroute contract ch); COMP_CWORD=2"
    script = f'eval "$(devroute completion bash)"; {words}; _devroute; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "check\n"


async def test_version_asks_the_server_where_it_can(tmp_path: Path) -> None:
    code, out, _ = await devroute(tmp_path, "version")
    assert (code, len(out.splitlines())) == (0, 1)
    known = {"DEVROUTE_SERVER": "http://127.0.0.1:1", "DEVROUTE_TOKEN": SECRET}
    code, out, _ = await devroute(tmp_path, "version", **known)
    assert (code, "server   unknown: http://127.0.0.1:1 cannot be reached" in out) == (0, True)
