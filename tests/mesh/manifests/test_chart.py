"""The Helm chart: made of the base's own documents in every case, with values that its schema admits.

tests/mesh/manifests/test_chart_helm.py renders it with Helm.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from devroute.cli.main import run
from devroute.mesh.manifests import chart, chart_values, folder
from devroute.mesh.manifests.chart import chart_files
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import WorkloadScope
from devroute.mesh.manifests.registry import Registry
from devroute.mesh.manifests.template_blocks import If, either, one_of, resolve, write
from devroute.proxy.settings import ProxySettings

DEFAULT = Installation()


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The files of the chart, by path."""
    return chart_files(DEFAULT)


# --- one text for several cases -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [("abc", "abc"), ("abc", "axc"), ("", "ab"), ("ab", ""), ("abcd", "badc"), ("aab", "aba"), ("x", "yz")],
)
def test_a_case_has_exactly_its_own_lines(one: str, other: str) -> None:
    merged = either("c", tuple(one), tuple(other))
    assert resolve(merged, {"c": True}) == [*one]
    assert resolve(merged, {"c": False}) == [*other]


def test_cases_within_cases_are_written_as_one_chain() -> None:
    merged = one_of([("a", ("1", "2")), ("b", ("1", "3")), ("", ("1", "4"))])
    assert write(merged) == "1\n{{- if a }}\n2\n{{- else if b }}\n3\n{{- else }}\n4\n{{- end }}\n"
    assert write(either("a", (), ("1",))) == "{{- if not (a) }}\n1\n{{- end }}\n"


def test_a_blank_line_that_helm_would_remove_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="would be lost"):
        write(("1", "", If("a", ("2",), ())))


# --- what the chart is made of ------------------------------------------------------------------------------


def test_every_file_of_the_base_is_a_template(files: dict[str, str]) -> None:
    shared = Installation(replicas=2, valkey=True)
    names = {Path(each.path).stem for each in folder.base(shared)} - {"kustomization"}
    assert {Path(path).stem for path in files if path.startswith("templates/")} == names | {"NOTES", "checks"}


def test_no_placeholder_is_left(files: dict[str, str]) -> None:
    for path, text in files.items():
        assert "value-" not in text.replace("--literal", "").replace("value-of", ""), path


def test_a_file_has_all_conditions_that_it_depends_on() -> None:
    """What an option changes is found only if chart.py names the option for the file."""
    assert chart.undeclared(DEFAULT) == []


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "installation",
    [
        DEFAULT,
        Installation(replicas=3, registry=Registry("redis://:secret@redis.data:6380/0")),
        Installation(scope=WorkloadScope("shop", "b", {"app": "b"}), revision="canary", mesh_egress=False),
    ],
    ids=["default", "registry", "workload"],
)
def test_the_defaults_conform_to_the_schema_and_hold_no_secret(
    files: dict[str, str], installation: Installation
) -> None:
    schema = json.loads(files["values.schema.json"])
    jsonschema.Draft7Validator.check_schema(schema)
    written = chart_values.values(installation)
    jsonschema.validate(yaml.safe_load(written), schema)
    assert "secret@" not in written


@pytest.mark.parametrize(
    "change",
    [
        {"replicas": 0},
        {"replicas": "three"},
        {"image": "two words"},
        {"namespace": "Shop"},
        {"scope": {"kind": "everything"}},
        {"scope": {"kind": "mesh", "service": "b_c"}},
        {"settings": {"oidc_isuer": "https://id.example"}},
        {"settings": {"registry": "redis://x"}},
        {"replica": 2},
    ],
    ids=str,
)
def test_the_schema_refuses_mistakes(files: dict[str, str], change: dict[str, Any]) -> None:
    values = yaml.safe_load(files["values.yaml"])
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**values, **change}, json.loads(files["values.schema.json"]))


def test_every_setting_of_the_proxy_may_be_given_but_those_that_the_chart_makes(
    files: dict[str, str],
) -> None:
    named = json.loads(files["values.schema.json"])["properties"]["settings"]["propertyNames"]["enum"]
    assert {"oidc_issuer", "oidc_audience", "log_level", "drain_timeout"} <= set(named)
    assert set(named) < set(ProxySettings.model_fields)


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_writes_the_chart_and_says_what_is_next(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--namespace", "tools", "--replicas", "2", "--valkey"]
    assert run(["manifests", "chart", "--folder", str(tmp_path / "chart"), *options], {}) == 0
    assert f"helm install devroute {tmp_path / 'chart'} --namespace istio-system" in capsys.readouterr().err
    written = yaml.safe_load((tmp_path / "chart" / "values.yaml").read_text())
    assert (written["namespace"], written["replicas"], written["valkey"]) == ("tools", 2, True)


def test_a_chart_needs_a_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["manifests", "chart"], {}) == 2
    assert "--folder" in capsys.readouterr().err
