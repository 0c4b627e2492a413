"""`devroute curl`, `completion` and `version` against a real proxy."""

import asyncio
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from devroute.auth.tokens import new_token
from devroute.cli.commands import SECTIONS
from devroute.cli.completion import SHELLS, VARIABLE
from devroute.cli.curl import responder_in
from devroute.cli.help import first_sentence
from devroute.cli.main import app, run
from devroute.mesh import testbed
from tests.support.shell import devroute, listening

SECRET, RECORD = new_token("alice")
Captured = pytest.CaptureFixture[str]


# --- curl ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
async def test_curl_sends_a_contract_and_reports_whose_code_answered(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    answer = b"HTTP/1.1 200 OK\r\nx-devroute-result: laptop\r\nx-devroute-reason: alice\r\n"
    answer += b"content-length: 2\r\n\r\nhi"
    async with testbed.proxy(tmp_path / "site", [RECORD]) as proxy, listening(answer) as port:
        known = {"DEVROUTE_SERVER": proxy.server, "DEVROUTE_TOKEN": SECRET}
        url = f"http://127.0.0.1:{port}/"
        code, _, err = await devroute(tmp_path, "curl", url, **known)
        assert (code, "laptop 'alice' is not online" in err, "devroute up" in err) == (50, True, True)
        async with testbed.laptop(tmp_path, "alice", proxy.server, SECRET, f"foo=127.0.0.1:{port}", "bar=9"):
            both, one, none, given = await asyncio.gather(
                devroute(tmp_path, "curl", "-sv", url, **known),
                devroute(tmp_path, "curl", "--service", "foo", "-sv", url, **known),
                devroute(tmp_path, "curl", "--service", "baz", url, **known),
                devroute(tmp_path, "curl", "-sv", url, DEVROUTE_CONTRACT="eyJ.a.b"),
            )
    assert both[:2] == (0, "hi")
    assert """> X-devroute: {"foo": "alice", "bar": "alice"}""" in both[2]
    assert both[2].splitlines()[-1] == "devroute: a laptop answered at the first service (laptop: alice)"
    assert """> X-devroute: {"foo": "alice"}""" in one[2]
    assert (none[0], "not 'baz'" in none[2]) == (50, True)
    assert (given[0], "> X-devroute: eyJ.a.b" in given[2]) == (0, True)
    assert (await devroute(tmp_path, "curl", "-s", url, DEVROUTE_CONTRACT="x"))[0] == 7  # curl's own


@pytest.mark.parametrize(
    ("heads", "said"),
    [
        ("HTTP/1.1 200 OK\r\n\r\n", "no sidecar"),
        ("HTTP/1.1 302 Found\r\nx-devroute-result: laptop\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "no sidecar"),
        (
            "HTTP/2 200\r\nX-Devroute-Result: fallback\r\nx-devroute-reason: a: b\r\n\r\n",
            "at the first service (fallback: a: b)",
        ),
        ("HTTP/1.1 502 x\r\nx-devroute-result: error\r\n\r\n", "an error at the first service (error)"),
    ],
)
def test_the_last_response_counts(heads: str, said: str) -> None:
    assert said in responder_in(heads)


# --- help, completion, version ------------------------------------------------------------------------------


def commands(command: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    below = getattr(command, "commands", {})
    own = [(path, command)] if path and (not below or command.invoke_without_command) else []
    return own + [found for name, each in below.items() for found in commands(each, (*path, name))]


COMMANDS = commands(typer.main.get_command(app))


def test_there_are_commands() -> None:
    assert {("up",), ("contract", "check"), ("manifests", "install"), ("doctor",)} <= {p for p, _ in COMMANDS}


def test_the_help_lists_every_command_whole_under_who_needs_it(capsys: Captured) -> None:
    assert run(["--help"], {}) == 0
    shown = capsys.readouterr().out
    on_a_laptop, _, for_the_platform = shown.partition("For the platform:")
    listed = re.findall(r"^  ([a-z][a-z-]*)  ", on_a_laptop.partition("On a laptop:")[2], re.MULTILINE)
    assert listed[:2] == ["init", "up"]
    listed += re.findall(r"^  ([a-z][a-z-]*)  ", for_the_platform, re.MULTILINE)
    assert sorted(listed) == sorted({path[0] for path, _ in COMMANDS})
    assert "..." not in shown.partition("On a laptop:")[2]


def test_the_list_says_what_each_command_s_own_help_says() -> None:
    loaded = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    listed = {name: lazy.summary for section in SECTIONS.values() for name, lazy in section.items()}
    assert listed == {name: first_sentence(command.help) for name, command in loaded.items()}


#: What takes long to import.
HEAVY = {"aiohttp", "asyncio", "cryptography", "h2", "importlib.metadata", "jwt", "prometheus_client"}
HEAVY |= {"pydantic", "pygments", "rich.console", "ssl", "structlog", "yaml", "devroute.proxy.settings"}
#: By what runs: those that it may import. `up` as far as it goes without a server.
IMPORTS: dict[str, set[str]] = {
    "run(['--help'], {})": set(),
    "run(['version'], {})": set(),
    """run(['contract', 'check', '{"b": "alice"}'], {})""": set(),
    "run(['down'], {})": set(),
    "from devroute.log import import_structlog; import_structlog(); import devroute.proxy.app": (
        HEAVY - {"cryptography", "jwt", "pygments", "rich.console"}
    ),
    "import devroute.cli.up, devroute.agent.app, devroute.log": (
        {"asyncio", "h2", "importlib.metadata", "pydantic", "ssl", "yaml"}
    ),
}


@pytest.mark.parametrize("what", IMPORTS)
def test_a_command_imports_no_more_than_it_needs(what: str, tmp_path: Path) -> None:
    """`--help` ran 4 times as long as Python with asyncio, and `contract check` as long; half of the start of
    `up` was aiohttp, structlog and rich."""
    script = f"import sys\nfrom devroute.cli.main import run\n{what}\nprint('\\n', *sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    imported = set(out.splitlines()[-1].split())
    assert {"typer", "devroute.cli.help"} <= imported
    assert HEAVY & imported <= IMPORTS[what]


def test_values_are_converted_as_typer_does() -> None:
    code = (
        "from devroute.cli.main import run\nimport sys\nsys.exit(run(['down', '--timeout', sys.argv[1]], {}))"
    )
    for value, expected in (("2.5", 0), ("x", 2), ("0", 2)):
        done = subprocess.run([sys.executable, "-c", code, value], capture_output=True, text=True)
        assert (done.returncode, "Traceback" in done.stderr) == (expected, False)


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
        (["comp"], ["completion"]),
        (["contract", "ch"], ["check"]),
        (["up", "--out"], ["--output"]),
        (["up", "--output", "j"], ["json"]),
        (["up", "foo=1", "--", "x"], []),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["--vers"], ["--version"]),
        (["nonsense", "--wh"], []),
        (["up", "--server", "x"], []),
    ],
)
def test_words_are_completed(
    words: list[str], found: list[str], capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "complete_bash")
    monkeypatch.setenv("COMP_WORDS", shlex.join(["devroute", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    assert run([], {}) == 0
    assert capsys.readouterr().out.split() == found


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_takes_its_script(shell: str, capsys: Captured) -> None:
    assert run(["completion", shell], {}) == 0
    script = capsys.readouterr().out
    assert VARIABLE in script
    if (program := shutil.which(shell)) is not None:
        done = subprocess.run([program, "-n"], input=script, text=True, check=False, timeout=20)
        assert done.returncode == 0
    assert run(["completion", "tcsh"], {}) == 2


def test_bash_itself_completes_a_command(tmp_path: Path) -> None:
    stub = tmp_path / "devroute"
    stub.write_text(f'#!/bin/sh\nexec {sys.executable} -m devroute "$@"\n')
    stub.chmod(0o755)
    words = "COMP_WORDS=(devroute contract ch); COMP_CWORD=2"
    called = "_devroute_completion devroute"
    script = f'eval "$(devroute completion bash)"; {words}; {called}; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["bash", "-c", script],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert done.stdout == "check\n"


async def test_version_shows_the_server_s_if_it_can_be_reached(tmp_path: Path) -> None:
    code, out, _ = await devroute(tmp_path, "version")
    assert (code, len(out.splitlines())) == (0, 1)
    known = {"DEVROUTE_SERVER": "http://127.0.0.1:1", "DEVROUTE_TOKEN": SECRET}
    code, out, _ = await devroute(tmp_path, "version", **known)
    assert (code, "server   unknown: http://127.0.0.1:1 cannot be reached" in out) == (0, True)
