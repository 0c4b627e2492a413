"""A rule as a user writes it: what is read, and what is refused with which words."""

import datetime
from typing import Any

import pytest
import yaml

from devroute.cli.config.sources import agent_settings, read_file
from devroute.errors import ConfigInvalid
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.rules.settings import MAX_RULES, RuleSettings, read_rule, read_rules
from tests.docs.pages import code
from tests.support.paths import ROOT

RULES = """\
server: http://localhost:8081
token: t
services: {b: 8001}
rules:
  - name: checkout is down
    service: b
    method: [POST, PUT]
    path: /api/orders/*
    header: {X-Tenant: acme*}
    delay: 500ms
    respond:
      status: 503
      headers: {retry-after: 3, set-cookie: [a=1, b=2]}
      body: {error: down, at: 2024-01-01}
  - {path: /pay, fail: reset}
  - {path: /cart/, break: both, enabled: false}
"""


def test_the_rules_of_a_file_are_read_and_can_be_written_again() -> None:
    rules = agent_settings([read_file(RULES, "config.yaml")]).rules
    first = rules[0]
    assert (first.label, first.service, first.method, first.delay) == (
        "checkout is down", "b", ("POST", "PUT"), 0.5,
    )  # fmt: skip
    assert first.header == (("x-tenant", "acme*"),)
    assert first.respond is not None
    assert first.respond.headers == (("retry-after", "3"), ("set-cookie", "a=1"), ("set-cookie", "b=2"))
    assert first.respond.content() == b'{"error": "down", "at": "2024-01-01"}'
    assert (rules[1].fail, rules[1].label) == ("reset", "/pay")
    assert (rules[2].break_, rules[2].enabled) == ("both", False)
    again = yaml.safe_load(RuleList(rules).as_yaml())
    assert read_rules(again["rules"]) == rules


def test_the_example_of_the_documentation_is_read() -> None:
    example, dependency = code(ROOT / "docs" / "rules.md", "yaml")
    rules = read_file(example, "devroute.yaml", own=False).values["rules"]
    assert isinstance(rules, tuple)
    assert [each.does for each in rules] == [
        "respond 503", "respond 200", "delay 2 s", "fail 500", "fail reset", "break on request",
        "timeout 0.5 s",
    ]  # fmt: skip
    outgoing = read_file(dependency, "devroute.yaml", own=False).values["rules"]
    assert isinstance(outgoing, tuple)
    assert {each.direction for each in outgoing} == {"out"}


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ("{path: /a}", "it does nothing; write one of respond, fail, break, delay"),
        ("{path: /a, fail: 503, break: request}", "fail and break exclude each other; write two rules"),
        (
            "{path: a, fail: 503}",
            "path: 'a': a path starts with /, such as /api/ (all below it) or /orders/*",
        ),
        (
            "{path: /a?x=1, fail: 503}",
            "path: '/a?x=1': a path has no query; match a header or the path alone",
        ),
        ("{fail: 200}", "fail: write a status from 400 to 599, or reset"),
        ("{direction: to, fail: 503}", "direction: write in (requests to this laptop) or out"),
        ("{service: 'c.shop:80', fail: 503}", "is a service of the mesh; write direction: out beside it"),
        (
            "{direction: out, service: c.shop, fail: 503}",
            "'c.shop': write name and port of an outgoing request's",
        ),
        ("{direction: out, service: 'tcp://db:5432', fail: 503}", "as --reach has them without tcp://"),
        ("{break: request, timeout: 2s}", "break and timeout exclude each other"),
        ("{break: before}", "break: write request, response or both"),
        ("{delay: soon}", 'delay: write a duration such as "500ms" or "3s", or a number of seconds'),
        ("{methods: GET, fail: 503}", "there is no 'methods'; there are break, delay, direction, enabled"),
        ("{respond: {code: 503}}", "there is no 'code' in respond; there are body, body_base64, body_file"),
        ("{respond: {status: 99}}", "respond.status: write an HTTP status from 200 to 599, such as 503"),
        ("{respond: down}", "respond: write a mapping, such as {status: 503}"),
        ("{respond: {body: 5}}", "respond.body: write text, or a list or mapping that is sent as JSON"),
        (f"{{respond: {{headers: {{a: [{', '.join('b' * 101)}]}}}}}}", "headers: write at most 100 fields"),
        (f"{{respond: {{trailers: {{a: {'b' * 33_000}}}}}}}", "respond.trailers: write at most 100 fields"),
        ("{respond: {body: a, body_file: b}}", "respond: body and body_file exclude each other"),
        ("{respond: {headers: {content-length: 3}}}", "content-length: leave it out"),
        ("{respond: {headers: {x-devroute-result: laptop}}}", "headers that start with x-devroute are"),
        ('{respond: {headers: {x: "a\\nb"}}}', "the value of x has characters that a header cannot have"),
        ("{respond: {headers: {x y: z}}}", "'x y' is not a header name"),
        ("{method: G-E-T!, fail: 503}", "method: "),
        ("{path: /*/*/*/*/*/*/*/*/*, fail: 503}", "a path has at most 8 '*'"),
        ("{name: ''}", "name: write a name of at most 60 printable ASCII characters"),
        ("5", "write a rule as a mapping"),
    ],
)
def test_a_mistake_is_named_with_its_line_and_what_to_write(rule: str, problem: str) -> None:
    text = f"server: http://localhost:8081\nrules:\n  - {{path: /ok, fail: 500}}\n  - {rule}\n"
    with pytest.raises(ConfigInvalid) as caught:
        read_file(text, "devroute.yaml")
    assert caught.value.message.startswith("devroute.yaml:4: ")
    assert problem in caught.value.message


def test_rules_are_a_list_of_bounded_length() -> None:
    with pytest.raises(ConfigInvalid, match=r"devroute\.yaml:1: rules: write a list of rules"):
        read_file("rules: {path: /a}", "devroute.yaml")
    with pytest.raises(ConfigInvalid, match=f"more than {MAX_RULES}"):
        read_rules([{"fail": 503}] * (MAX_RULES + 1))


@pytest.mark.parametrize("file", ["/etc/passwd", "../secret.json", "link.json"])
def test_a_repository_has_no_file_sent_that_is_not_in_its_folder(
    file: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.json").symlink_to("/etc/passwd")
    text = f"rules: [{{respond: {{body_file: {file}}}}}]"
    read_file(text, "config.yaml")  # the user's own file may
    with pytest.raises(ConfigInvalid, match="is not in this folder"):
        read_file(text, "devroute.yaml", own=False)
    read_file("rules: [{respond: {body_file: orders.json}}]", "devroute.yaml", own=False)


@pytest.mark.parametrize("file", [".env", ".git/config", "src/.npmrc", "link.json"])
def test_a_repository_has_no_hidden_file_sent(
    file: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link.json").symlink_to(tmp_path / ".env")
    text = f"rules: [{{respond: {{body_file: {file}}}}}]"
    read_file(text, "config.yaml")
    with pytest.raises(ConfigInvalid, match="is hidden"):
        read_file(text, "devroute.yaml", own=False)


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ("direct: 10.0.0.1\nrules: [{fail: 503}]", "rules have no effect with direct"),
        ("inspector: off\nrules: [{break: request}]", "break needs the inspector"),
    ],
)
def test_rules_without_effect_are_refused(more: str, problem: str) -> None:
    text = f"server: http://localhost:8081\ntoken: t\nservices: {{b: 8001}}\n{more}\n"
    with pytest.raises(ConfigInvalid, match=problem):
        agent_settings([read_file(text, "config.yaml")])


def test_values_that_only_yaml_has_become_those_of_json() -> None:
    rule = read_rule({"respond": {"body": [datetime.date(2024, 1, 1)]}}, "here")
    assert isinstance(rule, RuleSettings)
    assert rule.as_document()["respond"]["body"] == ["2024-01-01"]
