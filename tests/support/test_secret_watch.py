"""The plugin that searches all logs for secrets: it finds each kind of leak, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

from tests.support.paths import ROOT

LEAKING = """
import asyncio, logging, subprocess, sys
import jwt
from devroute.auth.tokens import new_token
from devroute.contract.signer import SigningKey

SECRET, RECORD = new_token("alice")
WRITES = "import sys; print(sys.argv[1]); print(sys.argv[1], file=sys.stderr)"


def test_a_child_that_writes_a_token_to_its_log_file(tmp_path):
    with (tmp_path / "child.log").open("wb") as log:
        command = [sys.executable, "-c", WRITES, f"url?token={SECRET}&x"]
        subprocess.run(command, stdout=log, stderr=log, check=True)


def test_a_child_that_writes_half_a_token_down_a_pipe():
    async def run():
        pipe = asyncio.subprocess.PIPE
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITES, SECRET[:40], stdout=pipe, stderr=pipe
        )
        await child.communicate()

    asyncio.run(run())


def test_a_logger_that_tells_a_signature():
    token = jwt.encode({"sub": "alice"}, "k" * 32, "HS256")
    logging.getLogger("app").warning("refused %s", token)


def test_standard_error_that_a_test_has_read(capsys):
    print(SigningKey.new("alice").as_jwk()["d"], file=sys.stderr)
    capsys.readouterr()


def test_a_private_key_in_a_log():
    print("-----BEGIN EC PRIVATE KEY-----", file=sys.stderr)


def test_an_audit_event_that_nobody_has_described():
    event = '{"audit": 1, "time": "2026-01-01T00:00:00.000000Z", "event": "leave", "body": "x"}'
    print(event, file=sys.stderr)
"""

CLEAN = """

def test_what_is_public_may_be_told(tmp_path):
    logging.getLogger("app").warning("the hash %s of dvr_... is no secret", RECORD.sha256)
    with (tmp_path / "child.log").open("wb") as log:
        subprocess.run([sys.executable, "-c", "print('dvr_')"], stdout=log, check=True)


def test_who_asks_for_a_token_gets_it(tmp_path):
    command = [sys.executable, "-m", "devroute", "token", "new", "bob"]
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(command, stdout=out, cwd=tmp_path, check=True)
"""


def test_every_way_to_leak_fails_the_session_naming_test_and_log(tmp_path: Path) -> None:
    """In a session of its own, whose worker has to report what it found, as in `make test`."""
    (tmp_path / "test_it.py").write_text(LEAKING + CLEAN, encoding="utf-8")
    (tmp_path / "pytest.ini").touch()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    flags = ("-p", "tests.support.secret_watch", "-p", "xdist.plugin", "-n", "1", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *flags],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "8 passed" in done.stdout, "the tests themselves see nothing of it"
    summary = done.stdout.partition("secrets in logs")[2]
    for line in (
        "test_it.py::test_a_child_that_writes_a_token_to_its_log_file: child.log: a token",
        "test_it.py::test_a_child_that_writes_half_a_token_down_a_pipe: ",
        "test_it.py::test_a_logger_that_tells_a_signature: Captured log call: a secret",
        "test_it.py::test_standard_error_that_a_test_has_read: standard error: a secret",
        "test_it.py::test_a_private_key_in_a_log: Captured stderr call: a private key",
        "test_it.py::test_an_audit_event_that_nobody_has_described: Captured stderr call: an audit event",
    ):
        assert line in summary
    assert "test_what_is_public" not in summary
    assert "test_who_asks" not in summary
    assert "dvr_" not in summary
