"""`devroute env`, run in this process or as one of its own, on the documented example."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from devroute.cli.main import run
from tests.docs.pages import files
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "environment.md"
SECRET = '---\nkind: Secret\nmetadata: {name: db}\nstringData: {password: "hunter2\'s $5"}\n'
Output = pytest.CaptureFixture[str]


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    file = tmp_path / "deployment.yaml"
    file.write_text(files(PAGE)["deployment.yaml"], encoding="utf-8")
    return file


def devroute(*arguments: str) -> int:
    return run(["env", *arguments], {})


def test_the_documented_example_gives_the_documented_output(manifest: Path, capsys: Output) -> None:
    assert devroute("b", "--from", str(manifest)) == 0
    seen = capsys.readouterr()
    assert f"```text\n{seen.out}```" in PAGE.read_text(encoding="utf-8")
    assert seen.err.splitlines() == [
        "devroute: POD_IP: status.podIP is 127.0.0.1 here",
        "devroute: missing: DB_PASSWORD: Secret 'db' is not in the input (key 'password')",
        "  hint: kubectl get deploy,configmap,secret -o yaml prints them along",
    ]


def test_more_input_is_advised_where_it_would_help(manifest: Path, capsys: Output) -> None:
    manifest.write_text(manifest.read_text().replace("http://$(SHOP_C)", "$(NOT_SET)") + SECRET)
    assert devroute("b", "--from", str(manifest)) == 0
    seen = capsys.readouterr()
    assert "missing: C_URL: refers to $(NOT_SET)" in seen.err
    assert "hint" not in seen.err


def test_strict_fails_and_prints_nothing_where_something_is_missing(manifest: Path, capsys: Output) -> None:
    assert devroute("b", "--from", str(manifest), "--strict") == 1
    assert capsys.readouterr().out == ""
    manifest.write_text(manifest.read_text() + SECRET)
    assert devroute("b", "--from", str(manifest), "--strict", "--output", "json") == 0
    seen = capsys.readouterr()
    assert json.loads(seen.out)["DB_PASSWORD"] == "hunter2's $5"
    assert "hunter2" not in seen.err


def test_it_reads_standard_input_and_leaves_variables_out(
    manifest: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(manifest.read_bytes())))
    assert devroute("b", "--except", "POD_IP", "--except", "C_URL", "--output", "shell") == 0
    assert capsys.readouterr().out == "export SHOP_C=c.shop:80\nexport SHOP_CURRENCY=EUR\n"


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("x", "--from", "{}"), "there is no workload 'x'; it has Deployment b in shop"),
        (("b", "--from", "{}", "--container", "y"), "has no container 'y'; it has b"),
        (("b", "--from", "/nowhere.yaml"), "/nowhere.yaml: there is no such file"),
        (("b", "--from", "{}", "--output", "toml"), "'toml' is not one of dotenv, shell, json"),
        (("b", "--from", "{}", "--", "no-such-command"), "cannot run 'no-such-command'"),
    ],
)
def test_a_mistake_is_named(manifest: Path, capsys: Output, arguments: tuple[str, ...], problem: str) -> None:
    assert devroute(*(each.replace("{}", str(manifest)) for each in arguments)) != 0
    assert problem in capsys.readouterr().err


def test_without_a_standard_input_there_is_nothing_to_read(
    monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # `<&-`
    assert devroute("b") == 20
    assert "there is nothing to read" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [("b=8001",), ("--", "./app")])
def test_up_needs_a_service_and_an_app_for_it(
    manifest: Path, capsys: Output, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(manifest.parent)
    own = {"DEVROUTE_SERVER": "http://127.0.0.1:1", "DEVROUTE_TOKEN": "t", "DEVROUTE_REACH": "c.shop:80"}
    assert run(["up", "--env-from", str(manifest), *arguments], own) == 20
    assert "--env-from needs a service and an app" in capsys.readouterr().err


def test_a_command_gets_the_environment_beside_the_laptop_s_own_and_its_exit_code_counts(
    manifest: Path,
) -> None:
    text = manifest.read_text().replace("env:\n", "env:\n                - {name: HOME, value: /app}\n")
    manifest.write_text(text + SECRET)
    script = 'echo "$C_URL $DB_PASSWORD ${OWN} ${DEVROUTE_TOKEN:-none}"; exit 7'
    command = [
        sys.executable,
        "-m",
        "devroute",
        "env",
        "b",
        "--from",
        str(manifest),
        "--",
        "sh",
        "-c",
        script,
    ]
    own = {"PATH": "/usr/bin:/bin", "OWN": "mine", "DEVROUTE_TOKEN": "secret", "C_URL": "replaced"}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (7, "http://c.shop:80/prices hunter2's $5 mine none\n"), (
        done.stderr
    )
    assert (
        "HOME: the workload's replaces this laptop's; devroute env --except HOME leaves it out" in done.stderr
    )
