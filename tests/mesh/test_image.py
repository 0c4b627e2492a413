"""The Dockerfile, read as a builder would read it; there is none here. By hand, buildah has built it, with a
Debian that has Python and its headers under the base image's name."""

import fnmatch
import json
import re
import shlex
from typing import NamedTuple

import pytest

from devroute.mesh.manifests.installation import ADMIN_PORT, CONTROL_PORT, DATA_PORT, USER_ID
from tests.support.paths import ROOT


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


def test_the_image_is_of_a_slim_python_and_names_no_registry() -> None:
    for stage in stages():
        image = values(stage, "FROM")[0].split()[0]
        assert re.fullmatch(r"python:3\.1[1-9]-slim", image), image


def test_it_runs_as_the_user_that_the_deployment_demands_and_changes_nothing_after() -> None:
    *_, last = stages()
    words = [step.word for step in last]
    assert values(last, "USER") == [f"{USER_ID}:{USER_ID}"]
    assert set(words[words.index("USER") :]) <= {"USER", "EXPOSE", "ENTRYPOINT", "CMD"}
    assert "RUN" not in words, "what needs a shell belongs into the first stage"


def test_it_starts_the_proxy_and_names_its_ports() -> None:
    *_, last = stages()
    assert values(last, "EXPOSE") == [f"{DATA_PORT} {CONTROL_PORT} {ADMIN_PORT}"]
    assert [json.loads(*values(last, word)) for word in ("ENTRYPOINT", "CMD")] == [["devroute"], ["proxy"]]


def test_dependencies_are_pinned_and_pip_stays_behind() -> None:
    first, _ = stages()
    words = shlex.split(values(first, "RUN")[-1])
    assert words[words.index("--constraint") + 1] == "constraints.txt"
    assert "--without-pip" in values(first, "RUN")[0]


def test_what_the_compiler_has_to_know_is_there_before_the_sources_are() -> None:
    first, _ = stages()
    words = [step.word for step in first]
    compiler = next(step.rest for step in first if "mypy" in step.rest and step.word == "RUN")
    assert "dependencies.txt" in compiler
    assert '["project"]["dependencies"]' in compiler
    assert (
        words.index("COPY")
        < first.index(Step("RUN", compiler))
        < first.index(Step("COPY", "devroute devroute"))
    )
    assert "DEVROUTE_COMPILE=1" in values(first, "RUN")[-1]
    assert "[uvloop]" in values(first, "RUN")[-1]


@pytest.mark.parametrize("copied", [copy.split()[:-1] for copy in values(stages()[0], "COPY")])
def test_what_is_copied_is_there_and_not_ignored(copied: list[str]) -> None:
    ignored, *lines = [each for each in (ROOT / ".dockerignore").read_text().splitlines() if each[:1] != "#"]
    assert ignored == "*", "nothing by accident"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    for path in copied:
        assert (ROOT / path).exists()
        assert path in let_in
    assert not any(fnmatch.fnmatch(path, "*token*") for path in let_in)
