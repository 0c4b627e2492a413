"""What the Dockerfile has in common with other files: user, ports, command, Python, and what it copies.

No builder runs here. By hand, buildah has built the image, from a Debian with Python under the base's name.
"""

import json
import re
import shlex
import tomllib
from typing import NamedTuple

import pytest
from typer.main import get_command

from devroute.cli.main import app
from devroute.mesh.manifests.installation import (
    ADMIN_PORT,
    CONTROL_PORT,
    DATA_PORT,
    PEER_PORT,
    USER_ID,
)
from tests.support.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


class Step(NamedTuple):
    word: str
    rest: str


def stages() -> list[list[Step]]:
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    steps = [Step(*line.split(" ", 1)) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line]
    starts = [index for index, step in enumerate(steps) if step.word == "FROM"]
    return [steps[start:end] for start, end in zip(starts, [*starts[1:], len(steps)], strict=True)]


def values(stage: list[Step], word: str) -> list[str]:
    return [step.rest for step in stage if step.word == word]


def copied() -> list[str]:
    first, _ = stages()
    return [path for copy in values(first, "COPY") for path in copy.split()[:-1]]


def test_both_stages_have_the_same_python_which_the_project_admits_and_a_digest_may_pin() -> None:
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    first = (ROOT / "Dockerfile").read_text().partition("FROM")[0]
    base = re.search(r"^ARG PYTHON=python:([\d.]+)-slim$", first, flags=re.MULTILINE)
    assert base is not None
    assert [int(part) for part in base[1].split(".")] >= [int(part) for part in least.split(".")]
    built, run = (values(stage, "FROM")[0].partition(" AS ")[0] for stage in stages())
    assert built == run == "${PYTHON}", "modules load only into the Python that compiled them"


def test_user_and_ports_are_those_of_the_deployment() -> None:
    _, last = stages()
    assert values(last, "USER") == [f"{USER_ID}:{USER_ID}"]
    assert values(last, "EXPOSE") == [f"{DATA_PORT} {CONTROL_PORT} {PEER_PORT} {ADMIN_PORT}"]


def test_the_image_starts_a_command_that_exists() -> None:
    _, last = stages()
    (script,), (command,) = (json.loads(*values(last, word)) for word in ("ENTRYPOINT", "CMD"))
    assert script in PROJECT["project"]["scripts"]
    assert command in get_command(app).commands  # type: ignore[attr-defined]


LISTS = ("image/runtime.txt", "image/build.txt")
LOCKED = re.compile(r"([a-z0-9-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)")


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(path: str) -> dict[str, str]:
    """The versions in a list of requirements, each with hashes."""
    text = re.sub(r" \\\n +", " ", (ROOT / path).read_text())
    matches = [LOCKED.fullmatch(line) for line in text.splitlines()]
    assert all(matches), "only names, versions and hashes"
    return {match[1]: match[2] for match in matches if match is not None}


def required(lines: list[str]) -> set[str]:
    return {plain(re.split(r"[^A-Za-z0-9_.-]", line)[0]) for line in lines}


def test_pip_installs_only_what_has_a_hash() -> None:
    first, last = stages()
    assert "pip" not in str(values(last, "RUN"))
    for line in values(first, "RUN"):
        for words in [shlex.split(each) for each in line.split("&&") if " pip " in each]:
            files = [words[index + 1] for index, word in enumerate(words) if word == "--requirement"]
            assert set(files) <= set(LISTS)
            assert "--require-hashes" in words if files else {"--no-deps", "--no-index"} <= set(words)


@pytest.mark.parametrize("path", LISTS)
def test_the_image_s_versions_are_those_of_the_constraints(path: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text().split()
    known = {plain(name): version for name, _, version in (line.partition("==") for line in constraints)}
    found = locked(path)
    assert found == {name: known[name] for name in found}, "run: make image-requirements"


def test_the_image_s_lists_are_complete() -> None:
    project = PROJECT["project"]
    extras = project["optional-dependencies"]
    wanted = required([*project["dependencies"], *extras["uvloop"], *extras["redis"], "cryptography"])
    assert wanted <= locked(LISTS[0]).keys(), "run: make image-requirements"
    build = [line for line in (ROOT / "image" / "build.in").read_text().splitlines() if line[0] != "#"]
    assert required(build) <= locked(LISTS[1]).keys(), "run: make image-requirements"


def test_all_that_the_package_is_made_of_is_copied() -> None:
    folders = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    folders |= set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    assert folders | {"pyproject.toml", "setup.py", "README.md"} <= set(copied())
    assert set(PROJECT["project"]["license-files"]) <= set(copied())


@pytest.mark.parametrize("path", copied())
def test_what_is_copied_exists_and_is_not_ignored(path: str) -> None:
    ignored, *lines = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each[:1] != "#"]
    assert ignored == "*", "nothing is sent to the builder by accident"
    assert (ROOT / path).exists()
    assert f"!{path}" in lines
