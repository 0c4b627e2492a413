"""`devroute token`, run in this process against real files."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from devroute.auth.tokens import Tokens
from devroute.cli.main import run

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens.yaml"


def new(file: Path, capsys: Captured, name: str, *more: str) -> str:
    assert run(["token", "new", name, "--file", str(file), *more], {}) == 0
    return capsys.readouterr().out.strip()


def test_the_list_shows_subjects_and_lifetimes_and_no_secrets(file: Path, capsys: Captured) -> None:
    secrets = [new(file, capsys, "alice"), new(file, capsys, "bob", "--ttl", "30d")]
    assert run(["token", "list", "--file", str(file)], {}) == 0
    header, *rows = capsys.readouterr().out.splitlines()
    assert header.split() == ["SUBJECT", "ID", "CREATED", "EXPIRES", "STATE"]
    assert [row.split()[0] for row in rows] == ["alice", "bob"]
    assert not any(secret[4:] in "".join(rows) for secret in secrets)
    assert run(["token", "list", "--file", str(file), "--output", "json"], {}) == 0
    alice, bob = json.loads(capsys.readouterr().out)["tokens"]
    assert alice["expires"] is None
    days = (datetime.fromisoformat(bob["expires"]) - datetime.now(UTC)).total_seconds() / 86_400
    assert days == pytest.approx(30, abs=0.01)
    assert bob["state"] == "in force"


def test_a_token_that_has_expired_is_listed_as_such(file: Path, capsys: Captured) -> None:
    new(file, capsys, "alice", "--ttl", "1m")
    expires = Tokens.parse(file.read_text()).records[0].expires
    file.write_text(file.read_text().replace(str(expires), "2020-01-01T00:00:00Z"))
    assert run(["token", "list", "--file", str(file), "--output", "json"], {}) == 0
    assert json.loads(capsys.readouterr().out)["tokens"][0]["state"] == "expired"


def test_revoke_takes_one_token_by_its_id_or_all_of_a_person(file: Path, capsys: Captured) -> None:
    file.write_text("# the team\n")
    first, second, other = (new(file, capsys, name) for name in ("alice", "alice", "bob"))
    one = Tokens.parse(file.read_text()).identity_of(first, 0)
    assert run(["token", "revoke", one.token_id, "--file", str(file)], {}) == 0
    assert capsys.readouterr().err == f"revoked {one.token_id} of alice\n"
    tokens = Tokens.parse(file.read_text())
    assert tokens.record_of(one) is None
    assert tokens.identity_of(second, 0).subject == "alice"
    assert run(["token", "revoke", "alice", "--file", str(file)], {}) == 0
    assert [record.subject for record in Tokens.parse(file.read_text()).records] == ["bob"]
    assert Tokens.parse(file.read_text()).identity_of(other, 0).subject == "bob"
    assert file.read_text().startswith("# the team\n")
    assert file.stat().st_mode & 0o777 == 0o600


def test_wrong_use_has_an_exit_code_and_a_reason(file: Path, capsys: Captured) -> None:
    assert run(["token", "list", "--file", str(file)], {}) == 20
    assert "there is no such file" in capsys.readouterr().err
    new(file, capsys, "alice")
    assert run(["token", "revoke", "bob", "--file", str(file)], {}) == 50
    assert "no token belongs to 'bob'" in capsys.readouterr().err
    for ttl in ("30", "0d", "1y", "-1d", "999999d"):
        assert run(["token", "new", "bob", "--ttl", ttl, "--file", str(file)], {}) == 20
        assert "write it like 30d, 12h or 90m" in capsys.readouterr().err
    assert len(Tokens.parse(file.read_text()).records) == 1
    assert run(["token", "list", "--file", str(file), "--output", "xml"], {}) == 20
