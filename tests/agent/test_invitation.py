"""What `devroute up` prints for people who send requests to the laptop."""

import json
import shutil
import subprocess
from urllib.parse import parse_qs, urlsplit

import pytest
import shellingham
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent.invitation import command, invitation
from devroute.contract.service_spec import ServiceSpec
from devroute.platforms import shell_in_use
from devroute.quoting import shell_word
from devroute.tunnel.protocol.handshake import Welcome

CONTRACT = '{"foo": "alice", "bar": "alice"}'
SERVICES = (ServiceSpec("foo", "localhost", 1), ServiceSpec("bar", "localhost", 2))


def welcome(entries: dict[str, str], *, links: bool = False) -> Welcome:
    return Welcome(server="1", name="alice", entries=entries, entry_links=links)


def test_the_command_uses_the_entry_of_a_service_or_the_first() -> None:
    entries = {"shop": "https://shop.example", "bar": "https://bar.example/x"}
    invited = invitation(welcome(entries), SERVICES, "posix")
    assert (invited.contract, invited.url, invited.link) == (CONTRACT, "https://bar.example/x", None)
    assert invited.others == {"shop": "https://shop.example"}
    assert invited.command == f"curl -H 'X-devroute: {CONTRACT}' https://bar.example/x"
    first = invitation(welcome({"shop": "https://shop.example"}), SERVICES, "posix")
    assert first.command.endswith(" https://shop.example/")


def test_the_link_holds_the_contract_where_the_entry_has_an_edge() -> None:
    link = invitation(welcome({"shop": "https://shop.example"}, links=True), SERVICES, "posix").link
    assert link is not None
    assert link.startswith("https://shop.example/?devroute=%7B%22foo%22")
    assert json.loads(parse_qs(urlsplit(link).query)["devroute"][0]) == json.loads(CONTRACT)


def test_without_an_entry_the_command_has_a_place_for_the_url() -> None:
    invited = invitation(welcome({}, links=True), SERVICES, "posix")
    assert (invited.url, invited.link) == (None, None)
    assert invited.command == f"curl -H 'X-devroute: {CONTRACT}' URL"


def test_each_shell_gets_its_own_quotes() -> None:
    """No shell of Windows is here to run them."""
    header = '"X-devroute: {\\"foo\\": \\"alice\\"}"'
    assert command('{"foo": "alice"}', "https://x/", "cmd") == f"curl -H {header} https://x/"
    assert command('{"foo": "alice"}', "https://x/", "powershell") == (
        "Invoke-WebRequest -UseBasicParsing https://x/ -Headers @{'X-devroute' = '{\"foo\": \"alice\"}'}"
    )


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126)))
def test_cmd_quotes_are_those_of_the_c_runtime(text: str) -> None:
    assert shell_word(f" {text}", "cmd") == subprocess.list2cmdline([f" {text}"])


@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
def test_a_shell_reads_the_contract_as_it_is() -> None:
    printed = command('{"a": "it\'s $HOME `id` \\\\"}', "https://x/", "posix").replace("curl", "printf '%s|'")
    done = subprocess.run(["sh", "-c", printed], capture_output=True, text=True, check=True)
    assert done.stdout == '-H|X-devroute: {"a": "it\'s $HOME `id` \\\\"}|https://x/|'


@pytest.mark.parametrize(
    ("found", "shell"),
    [
        ("bash", "posix"),
        ("zsh", "posix"),
        ("pwsh", "powershell"),
        ("powershell", "powershell"),
        ("cmd", "cmd"),
    ],
)
def test_the_shell_in_use_is_found(monkeypatch: pytest.MonkeyPatch, found: str, shell: str) -> None:
    monkeypatch.setattr(shellingham, "detect_shell", lambda: (found, found))
    assert shell_in_use() == shell


def test_an_unknown_shell_is_a_posix_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def detect() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", detect)
    assert shell_in_use() == "posix"
