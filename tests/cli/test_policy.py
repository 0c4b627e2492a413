"""`devroute policy`, run in this process, and the documented example."""

import io
import json
import re
from pathlib import Path

import pytest

from devroute.cli.main import run
from devroute.policy import explain
from devroute.policy.file import (
    CallerSection,
    ClusterSection,
    LimitsSection,
    PolicyFile,
    ReachSection,
    RegisterSection,
)
from devroute.policy.policy import Policy
from tests.support.paths import ROOT

Output = pytest.CaptureFixture[str]

DOCUMENT = (ROOT / "docs" / "policy.md").read_text(encoding="utf-8")


def documented(name: str) -> str:
    """A file that docs/policy.md shows."""
    found = re.search(rf"```yaml\n(# {re.escape(name)}\n.*?)```", DOCUMENT, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("policy.yaml", "cases.yaml"):
        (tmp_path / name).write_text(documented(name), encoding="utf-8")
    return tmp_path


def devroute(*arguments: str) -> int:
    return run(["policy", *arguments], {})


# --- the document ------------------------------------------------------------------------------------------


def test_the_documented_policy_has_every_field_that_there_is() -> None:
    text = documented("policy.yaml")
    Policy.parse(text)
    for section in (PolicyFile, ClusterSection, RegisterSection, CallerSection, ReachSection, LimitsSection):
        for name, field in section.model_fields.items():
            assert re.search(rf"\b{field.alias or name}:", text), name


def test_the_documented_cases_hold_for_the_documented_policy(files: Path, capsys: Output) -> None:
    assert devroute("test", "policy.yaml", "cases.yaml") == 0, capsys.readouterr().out
    assert capsys.readouterr().out == "17 cases: 17 passed, 0 failed\n"


# --- check -------------------------------------------------------------------------------------------------


def test_check_explains_what_is_permitted(files: Path, capsys: Output) -> None:
    assert devroute("check", "policy.yaml") == 0
    said = capsys.readouterr()
    for line in [
        "  every service may be detoured",
        "  must be signed",
        "  every service: 192.168.0.0/16, 100.64.0.0/10; ports 1024-65535",
        "  pay-*: 10.8.4.0/24; ports 8443",
        "  denied unless a listed network lies inside: the cluster's pod range 10.244.0.0/16, the cluster's"
        " service range 10.96.0.0/12, loopback, link-local, cloud metadata, other special ranges",
        "  alice, ci-*: shop, cart",
        "  members of payments: pay-*",
        "  qa/*, shop/web: shop, cart to alice, ci-*, 192.168.0.0/16",
        "  spiffe://cluster.local/ns/qa/sa/runner: pay-* to every permitted target",
        "  laptops may receive copies of the requests of shop, cart",
        "  alice, ci-*: cart, shop-* in shop; ports 80, 8080; by http",
        "  members of payments: orders-db in data and *.db.example.com; ports 5432; by tcp",
        "  links per subject: 4",
    ]:
        assert line in said.out.splitlines(), said.out
    assert said.err == ""


def test_check_explains_an_empty_policy(files: Path, capsys: Output) -> None:
    (files / "policy.yaml").write_text("")
    assert devroute("check", "policy.yaml") == 0
    said = capsys.readouterr().out
    assert "none: laptops are reached through tunnels only" in said
    assert "anyone with a valid token may register every service that may be detoured" in said
    assert "every caller's requests may go to every permitted target" in said
    assert "  none: laptops receive no copies of ordinary requests" in said.splitlines()


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("direct: {networks: [10.0.0.0/8]}", "the cluster's own ranges are not listed"),
        ("direct: {networks: [0.0.0.0/0]}", "0.0.0.0/0 covers most addresses"),
        ("direct: {networks: [127.0.0.1/32]}", "127.0.0.1/32 is in the loopback range"),
        ("services: [a]\nregister: [{subjects: [x], services: [b]}]", "x may register 'b', but services"),
        ("reach: [{subjects: ['*'], namespaces: ['*']}]", "every laptop may reach every service by http"),
        ("callers: [{from: [a/b], targets: [10.0.0.0/8]}]", "a/b may use 10.0.0.0/8, but direct.networks"),
    ],
)
def test_check_warns_of_likely_mistakes(text: str, remark: str) -> None:
    assert any(each.startswith(remark) for each in explain.remarks(Policy.parse(text)))


@pytest.mark.parametrize("output", ["text", "json"])
def test_check_names_the_place_of_a_mistake(files: Path, capsys: Output, output: str) -> None:
    (files / "policy.yaml").write_text("services: [a]\ndirect:\n  networks:\n  - 10.0.0.1/8\n")
    assert devroute("check", "policy.yaml", "--output", output) == 20
    said = capsys.readouterr()
    message = "policy.yaml:4: direct.networks.0: '10.0.0.1/8' has bits set outside its mask; write 10.0.0.0/8"
    if output == "json":
        assert json.loads(said.out)["error"]["message"] == message
    else:
        assert said.err == f"devroute: {message}\n"


def test_the_policy_in_a_config_map_can_be_checked(files: Path, capsys: Output) -> None:
    manifest = ROOT / "manifests" / "base" / "policy.yaml"
    assert devroute("check", str(manifest)) == 0
    assert "none: laptops are reached through tunnels only" in capsys.readouterr().out
    (files / "map.yaml").write_text("kind: ConfigMap\ndata:\n  policy.yaml: |\n    service: []\n")
    assert devroute("check", "map.yaml") == 20
    assert "map.yaml, policy.yaml:1: service: there is no such field" in capsys.readouterr().err
    (files / "map.yaml").write_text("kind: ConfigMap\ndata: {other: x}")
    assert devroute("check", "map.yaml") == 20
    assert "has no data.policy.yaml" in capsys.readouterr().err


def test_check_for_scripts(files: Path, capsys: Output) -> None:
    assert devroute("check", "policy.yaml", "--output", "json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["valid"], document["remarks"]) == (True, [])
    assert "  must be signed" in document["explanation"]


# --- test --------------------------------------------------------------------------------------------------

FAILING = """\
- {caller: spam/bot, service: shop, target: alice, signed: true, expect: allow}
- {service: shop, target: alice, signed: true, expect: deny, code: target-denied}
- name: reasons are compared, too
  subject: bob
  service: shop
  expect: deny
  reason: because
- {subject: alice, service: shop, expect: deny}
- {subject: alice, service: shop, expect: allow}
"""


def test_each_failing_case_is_named_with_the_decision_of_the_policy(files: Path, capsys: Output) -> None:
    (files / "cases.yaml").write_text(FAILING)
    assert devroute("test", "policy.yaml", "cases.yaml") == 1
    bot, anonymous, reason, deny, total = capsys.readouterr().out.splitlines()
    assert bot.startswith(
        "cases.yaml:1: spam/bot: shop to alice: expected allow, but policy denies it (caller-denied)"
    )
    assert "'spiffe://cluster.local/ns/spam/sa/bot'" in bot
    assert "cases.yaml:2: " in anonymous
    assert "expected code target-denied, but policy denies it with caller-denied" in anonymous
    assert reason.startswith(
        "cases.yaml:3: reasons are compared, too: expected 'because' in the reason, but it is: 'bob' may not"
    )
    assert deny == "cases.yaml:8: alice registers shop: expected deny, but policy allows it"
    assert total == "5 cases: 1 passed, 4 failed"


def test_the_result_for_scripts(files: Path, capsys: Output) -> None:
    (files / "cases.yaml").write_text(FAILING)
    assert devroute("test", "policy.yaml", "cases.yaml", "--output", "json") == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["passed"], document["failed"]) == (1, 4)
    first, *_, last = document["cases"]
    assert (first["place"], first["got"], first["code"], first["passed"]) == (
        "cases.yaml:1",
        "deny",
        "caller-denied",
        False,
    )
    assert (last["got"], last["code"], last["passed"]) == ("allow", None, True)


def test_policy_or_cases_may_come_from_standard_input(
    files: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"services: []")))
    assert devroute("test", "-", "cases.yaml") == 1
    assert "policy does not permit detours of it" in capsys.readouterr().out
    assert devroute("test", "-", "-") == 2


@pytest.mark.parametrize(
    ("cases", "problem"),
    [
        ("", "write a list of cases"),
        ("a: b", "write a list of cases"),
        ("- {service: a, target: b}", "cases.yaml:1: 0.expect: it is missing"),
        ("\n- {service: a, expect: allow}", "cases.yaml:2: 0: a request needs a target"),
        ("- {service: a, target: b, subject: c, caller: d/e, expect: allow}", "no caller and no resolves"),
        ("- {service: a, target: b, expect: deny, code: target-denid}", "no error code 'target-denid'"),
        ("- {service: a, target: b, expect: allow, code: target-denied}", "are for cases with expect: deny"),
        ("- {target: b, expect: allow}", "cases.yaml:1: 0: service: it is missing"),
        ("- {reach: 'a:80', service: b, subject: c, expect: allow}", "reach needs a subject, and has only"),
        ("- {reach: c.shop, subject: alice, expect: deny}", "reach: a port is missing; write c.shop:8001"),
        ("- {service: a, target: b, expect: maybe}", "0.expect: Input should be 'allow' or 'deny'"),
        ("- {service: a, target: b, expect: deny, callers: c}", "the fields here are name, action, "),
        ("- {service: a, service: b}", "'service' appears twice"),
    ],
)  # fmt: skip
def test_a_malformed_table_is_refused_with_the_place(
    files: Path, capsys: Output, cases: str, problem: str
) -> None:
    (files / "cases.yaml").write_text(cases)
    assert devroute("test", "policy.yaml", "cases.yaml") == 20
    assert problem in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["check", "none.yaml"], ["test", "none.yaml", "c.yaml"]])
def test_a_missing_file_is_named(files: Path, capsys: Output, arguments: list[str]) -> None:
    assert devroute(*arguments) == 20
    assert "none.yaml: there is no such file" in capsys.readouterr().err
