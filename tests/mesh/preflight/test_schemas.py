"""What Istio's CRDs and webhook refuse: `manifests check` on a table of files, held to `istioctl validate`
where it is built. tests/istio/test_install.py holds the same files to the API server."""

from pathlib import Path

import pytest
import yaml

from devroute.mesh.istio.rules import RELEASES, ManifestFinding
from devroute.mesh.preflight.check import check
from devroute.mesh.preflight.schemas import KINDS, by_schema
from tests.istio.schemas import FILE, schemas
from tests.istio.test_validate import validate
from tests.support.go_programs import ISTIO, folder_of, is_built
from tests.support.istio_cases import ACCEPTED, CASES, REFUSED_BY_ALL, REFUSED_BY_CRD, Case
from tests.support.paths import ROOT

ENVOYS = {each.envoy: (each.envoy, lambda _: None) for each in RELEASES}
SHIPPED = [
    each
    for folder in ("base", "examples")
    for each in sorted((ROOT / "manifests" / folder).glob("*.yaml"))
    if any(f"kind: {kind}\n" in each.read_text() for kind in (*KINDS, "EnvoyFilter", "TrafficExtension"))
]
needs_istioctl = pytest.mark.skipif(
    not is_built(ISTIO), reason="istioctl is not built: python -m tests.support.go_programs istio"
)
every_case = pytest.mark.parametrize("case", CASES, ids=lambda each: f"{each.kind}-{each.name}")


def errors(text: str) -> list[ManifestFinding]:
    """For the newest release: the first ones have no TrafficExtension."""
    report = check(text, "own.yaml", ENVOYS, [RELEASES[-1].istio])
    return [each for each in report.findings if each.severity == "error"]


@every_case
def test_the_check_says_what_is_wrong(case: Case) -> None:
    found = [f"{each.place}: {each.problem}" for each in errors(yaml.safe_dump(case.document))]
    if case.says is None:
        assert found == []
    else:
        assert len(found) == 1
        assert case.says in found[0]


@pytest.mark.istio
@needs_istioctl
@every_case
def test_istioctl_agrees_as_the_table_says(case: Case, tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(yaml.safe_dump(case.document))
    complaint = validate(file)
    assert (complaint != "") == case.webhook, complaint


def test_the_table_has_each_kind_on_both_sides() -> None:
    for cases in (REFUSED_BY_ALL, ACCEPTED):
        assert {each.kind for each in cases} == {*KINDS, "EnvoyFilter"}
    assert all(each.says for each in (*REFUSED_BY_ALL, *REFUSED_BY_CRD))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda each: each.name)
def test_what_is_shipped_has_no_error(file: Path) -> None:
    """istioctl agrees: tests/istio/test_validate.py."""
    assert errors(file.read_text()) == []


@pytest.mark.istio
@needs_istioctl
def test_the_schemas_are_those_of_the_pinned_istio() -> None:
    assert FILE.read_text() == schemas(folder_of(ISTIO)), "run python -m tests.istio.schemas"


@pytest.mark.parametrize(
    ("version", "problems"),
    [
        ("networking.istio.io/v1", []),
        ("networking.istio.io/v1beta1", []),
        ("networking.istio.io/v1alpha3", []),
        ("networking.istio.io/v2", ["'networking.istio.io/v2' has no Gateway"]),
        ("security.istio.io/v1", ["'security.istio.io/v1' has no Gateway"]),
        ("v1", ["'v1' has no Gateway"]),
        (None, ["'None' has no Gateway"]),
    ],
)
def test_a_version_has_to_be_one_of_the_crd(version: str | None, problems: list[str]) -> None:
    document = {"apiVersion": version, "kind": "Gateway", "spec": {}}
    assert [each.problem for each in by_schema(document)] == problems


def test_gateways_of_the_gateway_api_are_left_alone() -> None:
    other = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "Gateway",
        "spec": {"gatewayClassName": "a"},
    }
    own = {"apiVersion": "networking.istio.io/v1", "kind": "Gateway", "metadata": {"name": "own"}, "spec": {}}
    report = check(yaml.safe_dump_all([other, own]), "own.yaml", ENVOYS)
    assert report.looked_at == ["Gateway default/own"]
    assert report.findings == []


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ({"http": [{"timeOut": "3s"}]}, "write timeout"),
        ({"http": [{"cors_policy": {}}]}, "write corsPolicy"),
        ({"http": [{"redirects": {}}]}, "write redirect"),
        ({"http": [{"rewrite": {"zzz": "/"}}]}, "it has authority, uri, uriRegexRewrite"),
        ({"http": [{"timeout": 3}]}, "put it in quotes; a duration needs its unit: 3s"),
        ({"http": [{"match": [{"uri": {"exact": True}}]}]}, "put it in quotes: YAML reads on"),
        ({"http": [{"timeout": "0s"}]}, "leave the field out for none, or write at least 1ms"),
        ({"http": [{"x" * 100_000: 1}]}, "it has corsPolicy"),
    ],
)
def test_hints_say_what_to_write(spec: dict[str, object], hint: str) -> None:
    document = {"apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "spec": spec}
    (finding,) = by_schema(document)
    assert finding.hint.startswith(hint)
    assert len(finding.problem) < 200


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "spec", [None, 3, "text", [], [[]], {1: 2}, {"http": [None]}, {"servers": {"a": None}}]
)
def test_no_shape_of_a_file_ends_in_a_traceback(kind: str, spec: object) -> None:
    document = {"apiVersion": "networking.istio.io/v1", "kind": kind, "spec": spec, 1: 2}
    assert all(each.problem for each in by_schema(document))
