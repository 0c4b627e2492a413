"""`devroute sign`, `sign-key` and `contract check` of signed contracts, run in this process."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from devroute.cli.main import run
from devroute.contract.keys import Keys
from devroute.contract.verifier import verify

Captured = pytest.CaptureFixture[str]
CONTRACT = '{"foo": "alice"}'


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def keys(capsys: Captured) -> Keys:
    """Alice's key files, created by the command."""
    assert run(["sign-key", "new", "alice"], {}) == 0
    capsys.readouterr()
    return Keys.parse(Path("contract-keys.json").read_text())


def signed(capsys: Captured, *more: str) -> str:
    assert run(["sign", CONTRACT, *more], {}) == 0
    return capsys.readouterr().out.strip()


def test_a_new_key_signs_contracts_that_its_public_half_verifies(capsys: Captured, keys: Keys) -> None:
    assert run(["sign", CONTRACT, "--ttl", "2h"], {}) == 0
    output = capsys.readouterr()
    (line,) = output.out.splitlines()
    contract = verify(line, keys)
    assert contract.signature is not None
    assert contract.signature.subject == "alice"
    assert contract.signature.expires == pytest.approx(time.time() + 7200, abs=60)
    assert "signed by alice, until 20" in output.err
    assert "contract_max_ttl" not in output.err
    assert run(["sign", CONTRACT, "--ttl", "25h"], {}) == 0
    assert "only a proxy with a larger contract_max_ttl accepts it" in capsys.readouterr().err


def test_the_private_key_is_its_owners_only_and_never_printed(capsys: Captured, folder: Path) -> None:
    assert run(["sign-key", "new", "alice", "--key", "k.json", "--keys", "all.json"], {}) == 0
    output = capsys.readouterr()
    assert (folder / "k.json").stat().st_mode & 0o777 == 0o600
    secret = json.loads((folder / "k.json").read_text())["d"]
    assert secret not in output.out + output.err + (folder / "all.json").read_text()


def test_a_second_key_is_added_and_none_is_overwritten(capsys: Captured, keys: Keys) -> None:
    before = Path("sign-key.json").read_text()
    assert run(["sign-key", "new", "bob"], {}) == 20
    assert "exists already" in capsys.readouterr().err
    assert Path("sign-key.json").read_text() == before
    assert run(["sign-key", "new", "bob", "--key", "bob.json"], {}) == 0
    both = Keys.parse(Path("contract-keys.json").read_text())
    assert sorted(str(key.subject) for key in both.by_id.values()) == ["alice", "bob"]


def test_a_key_of_openssl_signs_once_its_signer_is_named(capsys: Captured) -> None:
    make = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "k.pem"]
    subprocess.run(make, check=True, capture_output=True)
    assert run(["sign", CONTRACT, "--key", "k.pem"], {}) == 2
    assert "names no signer" in capsys.readouterr().err
    assert run(["sign-key", "public", "k.pem", "--subject", "ci"], {}) == 0
    keys = Keys.parse(capsys.readouterr().out)
    raw = signed(capsys, "--key", "k.pem", "--subject", "ci")
    assert verify(raw, keys).signature is not None


def test_details_for_scripts(capsys: Captured, keys: Keys) -> None:
    details = json.loads(signed(capsys, "--ttl", "90s", "--output", "json"))
    assert verify(details["token"], keys).entries["foo"].key == "foo"
    assert (details["subject"], details["algorithm"], details["contract"]) == (
        "alice",
        "EdDSA",
        {"foo": "alice"},
    )
    assert details["key"] in keys.by_id
    assert details["expires"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sign", "{"], 1, "not valid JSON"),
        (["sign", CONTRACT, "--ttl", "2"], 2, "write it like 30m, 2h or 1d"),
        (["sign", CONTRACT, "--ttl", "-1h"], 2, "write it like"),
        (["sign", CONTRACT, "--key", "missing.json"], 20, "devroute sign-key new NAME"),
        (["sign", CONTRACT, "--key", "contract-keys.json"], 20, "not a private key"),
        (["sign", CONTRACT, "--subject", "bob"], 20, "for alice only, and cannot sign as bob"),
        (["sign-key", "new", "a b", "--key", "x.json"], 20, "not a short string"),
        (["sign-key", "public", "missing.json"], 20, "there is no such file"),
        (["contract", "check", "eyJ.eyJ.x", "--keys", "missing.json"], 20, "there is no such file"),
    ],
)
def test_a_refusal_to_sign_has_an_exit_code_and_a_reason(
    capsys: Captured, keys: Keys, arguments: list[str], code: int, words: str
) -> None:
    assert run(arguments, {}) == code
    output = capsys.readouterr()
    assert words in output.err
    assert "Traceback" not in output.err


def test_a_signed_contract_is_not_signed_again(capsys: Captured, keys: Keys) -> None:
    raw = signed(capsys)
    assert run(["sign", raw], {}) == 2
    assert "signed already" in capsys.readouterr().err


def test_contract_check_reads_a_signed_contract_and_reports_that_it_is_not_verified(
    capsys: Captured, keys: Keys
) -> None:
    raw = signed(capsys)
    assert run(["contract", "check", raw], {}) == 0
    shown = capsys.readouterr().out
    assert "go to the laptop alice" in shown
    assert "signed by alice, until 20" in shown
    assert "but not verified here; --keys FILE verifies it" in shown
    assert run(["contract", "check", raw, "--keys", "contract-keys.json"], {}) == 0
    assert "verified with contract-keys.json" in capsys.readouterr().out
    assert run(["contract", "check", raw, "--output", "json"], {}) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["signature"]["verified"] is False


def test_contract_check_with_keys_refuses_a_tampered_contract(capsys: Captured, keys: Keys) -> None:
    raw = signed(capsys)
    tampered = raw[:-10] + ("A" if raw[-10] != "A" else "B") + raw[-9:]
    assert run(["contract", "check", tampered], {}) == 0
    capsys.readouterr()
    assert run(["contract", "check", tampered, "--keys", "contract-keys.json"], {}) == 1
    assert "signature does not match" in capsys.readouterr().err
    assert run(["contract", "check", tampered, "--keys", "contract-keys.json", "--output", "json"], {}) == 1
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "contract-untrusted"
    assert run(["contract", "check", "eyJhbGci.e30.x"], {}) == 1
    assert "the signed contract's header" in capsys.readouterr().err
