"""What is written is read back by real shells and Node.js, and by the rules of python-dotenv."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent.workload.formats import as_dotenv, as_json, as_shell
from tests.support.examples import examples

#: Many characters that a shell or a library could take for its own, and any others; of one file.
TEXTS = st.lists(
    st.text(st.sampled_from("'\"\\$`{}()!#~*?&;|<> \n\t=%azAZ09_é")
            | st.characters(exclude_characters="\0\r", exclude_categories=["Cs"]), max_size=12),
    min_size=40, max_size=60,
)  # fmt: skip
TRICKY = [
    "", "plain", "a b", "it's", 'say "hi"', "it's \"both\"", "$HOME", "${HOME}", "$(id)", "`id`", "a\nb",
    "a\\nb", "back\\", "\\\\", "it's $5", "# no comment", "a #b", "~", "~root", "!x", "*", "a=b=c", " lead",
    "trail ", "é", "export X=1", "'", '"', "''", "\\'", "a\n'b", "x\ty", "-n", "{a,b}", "%s", "C:\\new\\t",
]  # fmt: skip


def named(values: list[str]) -> dict[str, str]:
    return {f"V{number}": value for number, value in enumerate(values)}


def sourced(shell: str, text: str, folder: Path) -> dict[str, str]:
    """The variables of a shell that has read the text as `set -a; . ./file`."""
    file = folder / "env"
    file.write_text(text, encoding="utf-8")
    script = 'set -a; . "$1"; exec env -0'
    done = subprocess.run([shell, "-c", script, shell, str(file)], env={"PATH": "/usr/bin:/bin"},
                          capture_output=True, check=True)  # fmt: skip
    assert done.stderr == b""
    pairs = (pair.partition("=") for pair in done.stdout.decode().split("\0") if pair)
    return {name: value for name, _, value in pairs if name.startswith("V")}


def by_python_dotenv(text: str) -> dict[str, str]:
    """As python-dotenv reads a file whose lines are all NAME=value; what it puts in for ${NAME} is empty."""
    found: dict[str, str] = {}
    at = 0
    pattern = re.compile(r"""(\w+)=(?:'((?:\\'|[^'])*)'|"((?:\\"|[^"])*)"|([^\n]*))\n""")
    while at < len(text):
        match = pattern.match(text, at)
        assert match is not None, text[at:]
        name, single, double, plain = match.groups()
        if single is not None:
            value = re.sub(r"\\([\\'])", r"\1", single)
        elif double is not None:
            value = re.sub(
                r"""\\[\\'"abfnrtv]""", lambda each: each[0].encode().decode("unicode-escape"), double
            )
        else:
            value = re.sub(r"\s+#.*", "", plain).strip()
        found[name] = re.sub(r"\$\{[^}]*\}", "", value)
        at = match.end()
    return found


def by_node(text: str, folder: Path) -> dict[str, str]:
    file = folder / "env"
    file.write_text(text, encoding="utf-8")
    script = "console.log(JSON.stringify(util.parseEnv(fs.readFileSync(process.argv[1], 'utf8'))))"
    done = subprocess.run(["node", "-e", script, str(file)], capture_output=True, check=True)
    return dict(json.loads(done.stdout))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("env")


@pytest.mark.parametrize("shell", ["sh", "bash"])
@examples(5)
@given(values=TEXTS)
def test_a_shell_reads_every_value_as_it_is(folder: Path, shell: str, values: list[str]) -> None:
    expected = named(values + TRICKY)
    assert sourced(shell, as_dotenv(expected).text, folder) == expected
    assert sourced(shell, as_shell(expected).text, folder) == expected


@examples(20)
@given(values=TEXTS)
def test_a_dotenv_library_reads_every_value_that_is_not_named_unportable(values: list[str]) -> None:
    expected = named(values + TRICKY)
    written = as_dotenv(expected)
    same = {name: value for name, value in expected.items() if name not in written.unportable}
    read = by_python_dotenv(as_dotenv(same).text)
    assert read == same
    ordinary = named(["", "a b", "it's", "https://c.shop:80/?a=b&c", 'say "hi"', "{a: 1}", "$HOME", "a\nb"])
    assert as_dotenv(ordinary).unportable == []


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
@examples(3)
@given(values=TEXTS)
def test_node_reads_every_value_that_is_not_named_unportable(folder: Path, values: list[str]) -> None:
    expected = named(values + TRICKY)
    written = as_dotenv(expected)
    same = {name: value for name, value in expected.items() if name not in written.unportable}
    assert by_node(as_dotenv(same).text, folder) == same


def test_names_that_no_shell_can_set_are_left_out_and_stay_in_json() -> None:
    values = {"a.b": "1", "A-B": "2", "1A": "3", "GOOD_1": "4"}
    assert as_dotenv(values).text == "GOOD_1=4\n"
    assert as_shell(values) == ("export GOOD_1=4\n", ["a.b", "A-B", "1A"], [])
    assert json.loads(as_json(values).text) == values
