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
from devroute.mesh.manifests.installation import ADMIN_PORT, CONTROL_PORT, DATA_PORT, USER_ID
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


def test_both_stages_have_the_same_python_which_the_project_admits() -> None:
    least = PROJECT["project"]["requires-python"].removeprefix(">=")
    built, run = (re.search(r"python:([\d.]+)", values(stage, "FROM")[0]) for stage in stages())
    assert built is not None
    assert run is not None
    assert built[1] == run[1], "compiled modules load only into the Python that they were compiled for"
    assert [int(part) for part in run[1].split(".")] >= [int(part) for part in least.split(".")]


def test_user_and_ports_are_those_of_the_deployment() -> None:
    _, last = stages()
    assert values(last, "USER") == [f"{USER_ID}:{USER_ID}"]
    assert values(last, "EXPOSE") == [f"{DATA_PORT} {CONTROL_PORT} {ADMIN_PORT}"]


def test_the_image_starts_a_command_that_exists() -> None:
    _, last = stages()
    (script,), (command,) = (json.loads(*values(last, word)) for word in ("ENTRYPOINT", "CMD"))
    assert script in PROJECT["project"]["scripts"]
    assert command in get_command(app).commands  # type: ignore[attr-defined]


def test_pip_installs_only_within_the_projects_constraints() -> None:
    first, _ = stages()
    for line in values(first, "RUN"):
        words = shlex.split(line)
        files = [words[index + 1] for index, word in enumerate(words) if word == "--constraint"]
        assert set(files) <= {"constraints.txt"}
        assert files or "--requirement" not in words


def test_all_that_the_package_is_made_of_is_copied() -> None:
    folders = {name.partition(".")[0] for name in PROJECT["tool"]["setuptools"]["packages"]}
    folders |= set(PROJECT["tool"]["setuptools"]["package-dir"].values())
    assert folders | {"pyproject.toml", "setup.py", PROJECT["project"]["readme"]} <= set(copied())


@pytest.mark.parametrize("path", copied())
def test_what_is_copied_exists_and_is_not_ignored(path: str) -> None:
    ignored, *lines = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each[:1] != "#"]
    assert ignored == "*", "nothing is sent to the builder by accident"
    assert (ROOT / path).exists()
    assert f"!{path}" in lines
