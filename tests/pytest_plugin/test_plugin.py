"""The options of pytest, in a pytest of its own, and what is refused."""

import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from devroute.pytest_plugin.sender import MAX_LINES, Host, Sender, create
from tests.pytest_plugin.test_clients import CONTRACT, Site
from tests.support.paths import ROOT

#: A project's tests.
TESTS = """
import urllib3

def test_one():
    assert urllib3.request("GET", URL).status == 200

def test_two():
    assert urllib3.request("GET", URL).status == 200
"""


def run(folder: Path, *flags: str, **environment: str) -> tuple[int, str]:
    """pytest over TESTS; exit code and output. Other plugins are not loaded, so that it starts at once."""
    known = {"PATH": os.environ["PATH"], "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-p", "devroute.pytest_plugin", *flags]
    done = subprocess.run(
        command, cwd=folder, env=known | environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def project(tmp_path: Path, site: Site) -> Path:
    (tmp_path / "test_it.py").write_text(f"URL = '{site.named}/'\n{TESTS}")
    return tmp_path


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as made:
        yield made


def test_the_tests_requests_have_the_contract_and_the_summary_says_who_answered(
    project: Path, site: Site
) -> None:
    code, shown = run(project, "--devroute", CONTRACT, "--devroute-host", site.named)
    assert (code, [contract for _, _, contract in site.seen]) == (0, [CONTRACT] * 2)
    assert f"devroute: {CONTRACT} to localhost:{site.port}" in shown
    assert "     2  localhost  laptop: laptop: alice" in shown
    assert "behind the first service is not known: no server is configured" in shown


@pytest.mark.slow
def test_workers_report_to_the_process_that_started_them(project: Path, site: Site) -> None:
    (project / "pytest.ini").write_text(f"[pytest]\ndevroute_hosts = {site.named}\n")
    code, shown = run(project, "-p", "xdist", "-n", "1", DEVROUTE_CONTRACT=CONTRACT)
    assert (code, [contract for _, _, contract in site.seen]) == (0, [CONTRACT] * 2)
    assert "     2  localhost  laptop: laptop: alice" in shown


def test_without_a_contract_it_does_nothing_and_imports_nothing(project: Path, site: Site) -> None:
    code, shown = run(project, DEVROUTE_HOSTS=site.named)
    assert (code, [contract for _, _, contract in site.seen]) == (0, [None] * 2)
    assert "devroute" not in shown
    # For `devroute curl`: a contract alone says of no host that it gets it.
    assert run(project, DEVROUTE_CONTRACT=CONTRACT)[0] == 0
    assert site.seen[-1][2] is None
    script = "import pytest, sys; old = {*sys.modules}; import MODULE; print(*{*sys.modules} - old)"
    command = [sys.executable, "-c", script.replace("MODULE", "devroute.pytest_plugin")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(done.stdout.split()) == {"devroute", "devroute.pytest_plugin"}


def test_a_contract_without_a_host_or_with_a_mistake_ends_the_run_with_a_sentence(project: Path) -> None:
    code, shown = run(project, "--devroute", CONTRACT)
    assert (code, "name them: --devroute-host HOST" in shown, "Traceback" in shown) == (4, True, False)


@pytest.mark.parametrize(
    ("contract", "host", "problem"),
    [
        ("{'b': 'alice'}", "a.qa.example", "--devroute: "),
        ('{"b": "alice"', "a.qa.example", "--devroute: "),
        ("@no name", "a.qa.example", "--devroute: "),
        ("eyJ.a.b", "a.qa.example", "--devroute: "),
        (CONTRACT, "*.qa.example", "neither HOST, HOST:PORT nor a URL"),
        (CONTRACT, "a.qa.example/path", "neither HOST, HOST:PORT nor a URL"),
        (CONTRACT, "me@a.qa.example", "neither HOST, HOST:PORT nor a URL"),
        (CONTRACT, "a:b", "neither HOST, HOST:PORT nor a URL"),
        (CONTRACT, "", "neither HOST, HOST:PORT nor a URL"),
    ],
)
def test_errors_are_reported_before_any_test_runs(contract: str, host: str, problem: str) -> None:
    with pytest.raises(pytest.UsageError, match=problem):
        create(contract, [host])


@pytest.mark.parametrize(
    ("listed", "url", "applies"),
    [
        ("a.qa.example", "http://A.QA.example./x", True),
        ("a.qa.example", "https://a.qa.example:8443/", True),
        ("a.qa.example", "http://b.a.qa.example/", False),
        ("a.qa.example", "http://a.qa.example.evil.example/", False),
        ("a.qa.example", "http://evil.example/http://a.qa.example/", False),
        ("a.qa.example", "http://a.qa.example@evil.example/", False),
        ("a.qa.example:8080", "http://a.qa.example/", False),
        ("a.qa.example:80", "http://a.qa.example/", True),
        ("https://a.qa.example/shop", "https://a.qa.example/other", True),
        ("https://a.qa.example", "http://a.qa.example/", False),
        ("[::1]:80", "http://[::1]/", True),
        ("a.qa.example", "http://a.qa.example:x/", False),
        ("a.qa.example", "data:,a.qa.example", False),
    ],
)
def test_a_host_is_itself_and_nothing_else(listed: str, url: str, applies: bool) -> None:
    assert Sender(CONTRACT, [Host.parse(listed)]).applies_to(url) is applies


def test_the_report_is_bounded_and_shows_no_control_character() -> None:
    sender = Sender(CONTRACT, [Host.parse("a.qa.example")])
    for number in range(MAX_LINES + 5):
        sender.count("a", {"x-devroute-result": "fallback", "x-devroute-reason": f"\x1b[2J{number}"})
    sender.count("a", {})
    report = sender.report()
    assert report[-1] == "and 6 other outcomes"
    assert all(line.isprintable() for line in report)


def test_the_package_names_it_to_pytest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["pytest11"] == {"devroute": "devroute.pytest_plugin"}
    assert project["optional-dependencies"]["pytest"] == ["pytest>=8"]
