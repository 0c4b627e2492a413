"""What the Dockerfile has in common with other files: user, ports, command, Python, labels, and what it
copies.

No builder runs here. By hand, buildah has built the image, from a Debian with Python under the base's name.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from importlib.resources import files
from typing import Any, NamedTuple

import jsonschema
import pytest
from referencing import Registry
from typer.main import get_command

from devroute import __version__
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
    return [path for copy in values(first, "COPY") for path in copy.split()[:-1] if not path.startswith("--")]


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


# --- labels and the bill of materials -----------------------------------------------------------------------


def labels() -> dict[str, str]:
    _, last = stages()
    found = [word.partition("=") for text in values(last, "LABEL") for word in shlex.split(text)]
    return {name.removeprefix("org.opencontainers.image."): value for name, _, value in found}


def test_the_labels_are_those_of_the_project() -> None:
    about, project = labels(), PROJECT["project"]
    assert (about["title"], about["description"]) == (project["name"], project["description"])
    assert about["licenses"] == project["license"]
    _, last = stages()
    defaults = dict(each.partition("=")[::2] for each in values(last, "ARG"))
    assert defaults["VERSION"] == __version__
    for label, argument in [("version", "VERSION"), ("revision", "REVISION"), ("created", "CREATED")]:
        assert about[label] == f"${{{argument}}}"
    assert about["base.name"] == "${PYTHON}"
    assert "PYTHON" in defaults, "an argument before FROM is unknown after it"


def test_the_make_target_gives_every_argument() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = re.search(r"^image:\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    assert recipe is not None
    declared = {each.partition("=")[0] for stage in stages() for each in values(stage, "ARG")}
    assert set(re.findall(r"--build-arg (\w+)=", recipe[1])) == declared


def test_what_is_installed_comes_from_the_file_that_the_base_s_python_runs() -> None:
    """No shell form where it matters, no secret, no remote file, and no cache of packages that stays."""
    first, last = stages()
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"^ADD ", text, flags=re.MULTILINE)
    assert not values(last, "RUN"), "the last stage runs nothing"
    assert not re.search(r"(?i)(password|secret|token)=", text)
    for line in values(first, "RUN"):
        if "pip" in line and ("install" in line or "wheel" in line):
            assert line.count("--no-cache-dir") == line.count(" pip ")
        if "apt-get install" in line:
            assert "--no-install-recommends" in line
            assert "apt-get update &&" in line


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1767225600"}
    command = [sys.executable, ROOT / "image" / "sbom.py"]
    made = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(made.stdout)


def test_the_bill_of_materials_conforms_to_cyclonedx(bill: dict[str, Any]) -> None:
    folder = files("cyclonedx.schema") / "_res"
    name = f"bom-{bill['specVersion']}"
    schemas = {
        f"{each}.SNAPSHOT.schema.json": json.loads((folder / f"{each}.SNAPSHOT.schema.json").read_text())
        for each in (name, "spdx", "jsf-0.82", "cryptography-defs")
    }
    schema = schemas[f"{name}.SNAPSHOT.schema.json"]
    base = schema["$id"].rpartition("/")[0]
    registry = Registry().with_contents((f"{base}/{file}", each) for file, each in schemas.items())
    validator = jsonschema.Draft7Validator(schema, registry=registry)
    assert [error.message for error in validator.iter_errors(bill)] == []
    broken = {**bill, "components": [{"name": "x"}]}
    assert not validator.is_valid(broken)


def test_the_bill_has_all_that_the_image_installs_and_nothing_that_only_tests_need(
    bill: dict[str, Any],
) -> None:
    listed = {each["name"]: each for each in bill["components"] if each["type"] == "library"}
    assert required([*PROJECT["project"]["dependencies"], "cryptography"]) <= listed.keys()
    for name, each in listed.items():
        assert each["version"] == metadata.version(name)
        assert each["purl"] == f"pkg:pypi/{name}@{each['version']}"
    known = {each["bom-ref"] for each in bill["components"]} | {bill["metadata"]["component"]["bom-ref"]}
    assert {each["ref"] for each in bill["dependencies"]} < known
    assert {it for each in bill["dependencies"] for it in each["dependsOn"]} < known
    assert bill["metadata"]["timestamp"] == "2026-01-01T00:00:00+00:00"
