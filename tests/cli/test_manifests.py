"""`devroute manifests`, run in this process."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from devroute.cli.main import run
from devroute.http.carriers import DEFAULT
from devroute.mesh.manifests.folder import files
from devroute.mesh.manifests.installation import Installation

Output = pytest.CaptureFixture[str]


def devroute(*arguments: str) -> int:
    return run(["manifests", *arguments], {})


def test_without_a_command_it_prints_the_filter(capsys: Output) -> None:
    assert devroute("--scope", "workload", "--namespace", "shop", "--service", "foo") == 0
    document = yaml.load(capsys.readouterr().out, yaml.CSafeLoader)
    assert (document["kind"], document["metadata"]["name"]) == ("EnvoyFilter", "devroute-foo")


def test_the_filter_alone_is_that_of_the_installation_wherever_the_proxy_is(capsys: Output) -> None:
    assert devroute("--proxy-namespace", "tools", "--domain", "corp.example") == 0
    alone = yaml.load(capsys.readouterr().out, yaml.CSafeLoader)
    assert devroute("install", "--namespace", "tools", "--domain", "corp.example") == 0
    assert alone in yaml.load_all(capsys.readouterr().out, yaml.CSafeLoader)


@pytest.mark.parametrize("option", ["--namespace", "--proxy-namespace"])
def test_an_option_of_the_filter_before_a_command_is_refused(option: str, capsys: Output) -> None:
    assert devroute(option, "shop", "versions", "foo=v1") == 2
    assert f"{option}: write it after the command" in " ".join(capsys.readouterr().err.split())


def test_install_prints_what_kubectl_can_apply(capsys: Output) -> None:
    assert devroute("install", "--namespace", "tools", "--network", "10.8.0.0/16", "--ingress", "gw/sa") == 0
    documents = list(yaml.load_all(capsys.readouterr().out, yaml.CSafeLoader))
    assert [each["kind"] for each in documents[:3]] == ["Namespace", "ServiceAccount", "ConfigMap"]
    assert documents[0]["metadata"]["name"] == "tools"
    assert "10.8.0.0/16" in documents[2]["data"]["policy.yaml"]
    assert "cluster.local/ns/gw/sa/sa" in str(documents)


@pytest.mark.parametrize(
    ("given", "numerator"), [("25", 250_000), ("0.5%", 5_000), ("100%", 1_000_000), ("0", 0)]
)
def test_a_workload_s_share_is_a_route_after_those_of_contracts(
    given: str, numerator: int, capsys: Output
) -> None:
    arguments = ["--scope", "workload", "--namespace", "shop", "--service", "foo"]
    assert devroute(*arguments) == 0
    without = yaml.safe_load(capsys.readouterr().out)
    assert not any("shadow" in each for each in (*_filters(without), *_routes(without)))
    assert devroute(*arguments, "--shadow-share", given) == 0
    document = yaml.safe_load(capsys.readouterr().out)
    routes = _routes(document)
    assert next(iter(routes)) == "devroute-shadow", "each INSERT_FIRST goes before the one before"
    fraction = routes["devroute-shadow"]["match"]["runtime_fraction"]["default_value"]
    assert fraction == {"numerator": numerator, "denominator": "MILLION"}
    assert {*routes} - {*_routes(without)} == {"devroute-shadow", "devroute-copied"}
    assert _filters(document) - _filters(without) == {"devroute.shop.foo.shadow"}


@pytest.mark.parametrize(
    ("given", "written", "parent"),
    [
        ([], '"baggage", "tracestate"', '"00"'),
        (["--sampled"], '"baggage", "tracestate"', '"01"'),
        (["--carrier", "X-Acme", "--carrier", "uberctx-devroute"], '"x-acme", "uberctx-devroute"', None),
        (["--carrier", "none"], "", None),
    ],
)
def test_carriers_are_chosen_and_have_a_route_each_beside_the_defaults(
    given: list[str], written: str, parent: str | None, capsys: Output
) -> None:
    for command in ([], ["install"]):
        assert devroute(*command, *given) == 0
        text = capsys.readouterr().out
        assert " ".join(f"carriers = {{ {written} }}".split()) in " ".join(text.split())
        assert ('parent = "' in text) is (parent is not None)
        assert parent is None or f"parent = {parent}" in text
        (document,) = (each for each in yaml.safe_load_all(text) if "devroute-detour" in str(each))
        named = ["x-acme", "uberctx-devroute"] if "X-Acme" in given else []
        asks = [name for name in _routes(document) if name.startswith("devroute-ask-")]
        assert asks == [f"devroute-ask-{each}" for each in (*DEFAULT, *named, "trace")]


def test_the_filter_of_sent_requests_is_there_for_a_workload_that_asks_for_it(capsys: Output) -> None:
    arguments = ["--scope", "workload", "--namespace", "shop", "--service", "foo"]
    assert devroute(*arguments) == 0
    without = yaml.safe_load(capsys.readouterr().out)
    assert devroute(*arguments, "--by-trace-id") == 0
    document = yaml.safe_load(capsys.readouterr().out)
    assert _filters(document) - _filters(without) == {"devroute.shop.foo.outbound"}
    assert "SIDECAR_OUTBOUND" not in str(without)
    outbound = [
        each
        for each in document["spec"]["configPatches"]
        if each.get("match", {}).get("context") == "SIDECAR_OUTBOUND"
    ]
    assert [each["applyTo"] for each in outbound] == ["EXTENSION_CONFIG", "HTTP_FILTER"]
    assert outbound[1]["patch"]["value"]["disabled"] is False
    assert str(document).count('folder = "/etc/istio/proxy"') == 2


def _filters(document: dict[str, Any]) -> set[str]:
    patches = document["spec"]["configPatches"]
    return {each["patch"]["value"]["name"] for each in patches if each["applyTo"] == "HTTP_FILTER"}


def _routes(document: dict[str, Any]) -> dict[str, Any]:
    values = [
        each["patch"]["value"]
        for each in document["spec"]["configPatches"]
        if each["applyTo"] == "HTTP_ROUTE"
    ]
    return {each["name"]: each for each in values}


def test_install_writes_the_folder(tmp_path: Path, capsys: Output) -> None:
    folder = tmp_path / "mesh"
    assert devroute("install", "--folder", str(folder)) == 0
    written = {str(each.relative_to(folder)): each.read_text() for each in folder.rglob("*.yaml")}
    assert written == files(Installation())
    said = capsys.readouterr()
    assert (said.out, f"kubectl apply -k {folder}/base" in said.err) == ("", True)
    assert said.err.endswith("create secret generic devroute-tokens --from-file=tokens.yaml\n")


def test_install_says_how_to_create_the_secret_of_a_registry_and_repeats_no_password(capsys: Output) -> None:
    assert devroute("install", "--replicas", "3", "--registry", "redis://redis.tools:6379/0") == 0
    command = "kubectl --namespace devroute create secret generic devroute-registry --from-literal=url="
    assert f"{command}redis://redis.tools:6379/0" in capsys.readouterr().err
    assert devroute("install", "--replicas", "3", "--registry", "rediss://me:hunter2@redis.tools") == 0
    said = capsys.readouterr()
    assert (
        f'in DEVROUTE_REGISTRY, its password and options included:\n{command}"$DEVROUTE_REGISTRY"' in said.err
    )
    assert "hunter2" not in said.out + said.err
    for url in "redis://u:hunter2/x@redis.tools", "redis://u:hunter2#x@redis.tools":  # not percent-encoded
        devroute("install", "--replicas", "3", "--registry", url)
        said = capsys.readouterr()
        assert "hunter2" not in said.out + said.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["install", "--network", "10.0.0.1/8"], 20, "write 10.0.0.0/8"),
        (["install", "--replicas", "0"], 20, "replicas: 0"),
        (["install", "--replicas", "2"], 20, "hint: add --registry redis://HOST:6379/0, or --valkey"),
        (["install", "--registry-network", "10.0.0.0/8"], 2, "only applies with --registry"),
        (["install", "--ingress", "istio-system"], 2, "write NAMESPACE/SERVICEACCOUNT"),
        (["install", "--folder", "/dev/null/here"], 20, "cannot be written"),
        (["--shadow-share", "25"], 2, "write --scope workload"),
        (["--service", "b"], 2, "--service: is for one workload; write --scope workload"),
        (["--scope", "namespace", "--namespace", "a", "--label", "a=b"], 2, "--label: is for one workload"),
        (["install", "--scope-service", "b"], 2, "--scope-service: is for one workload"),
        (["--namespace", "Shop"], 20, "namespace: a namespace consists of"),
        (["--scope", "namespace", "--namespace", "a.b"], 20, "write a-b"),
        (["--scope", "workload", "--namespace", "a", "--service", "b_c"], 20, "service: a service's name"),
        (["--proxy-namespace", "a.b"], 20, "namespace: a namespace consists of"),
        (["--domain", "a_b"], 20, "domain: each part of a domain consists of"),
        (["install", "--namespace", "Tools"], 20, "namespace: a namespace consists of"),
        (["install", "--domain", "a..b"], 20, "domain: each part of a domain consists of"),
        (["install", "--ingress", "A/b"], 20, "ingress.namespace: a namespace consists of"),
        (["edge", "--namespace", "Gw"], 20, "namespace: a namespace consists of"),
        (["edge", "--proxy-namespace", "a.b"], 20, "namespace: a namespace consists of"),
        (["install", "--scope-label", "a=b"], 2, "--scope-label: is for one workload"),
        (
            ["--scope", "workload", "--namespace", "a", "--service", "b", "--shadow-share", "101"],
            2,
            "at most 100%",
        ),
        (["--by-trace-id"], 2, "--by-trace-id: is for one workload; write --scope workload"),
        (["--carrier", "cookie"], 20, "'cookie' cannot carry a contract"),
        (["--carrier", "x-devroute-via"], 20, "'x-devroute-via' cannot carry a contract"),
        (
            ["--carrier", "none", "--carrier", "baggage"],
            20,
            "--carrier none cannot be combined with other carriers",
        ),
        (["--carrier", "a b"], 20, "'a b' cannot carry a contract"),
        (["--carrier", "baggage", "--sampled"], 20, "tracestate, which is not among them"),
        (["install", *[f"--carrier=x-{number}" for number in range(9)]], 20, "more than 8 headers"),
        (["edge", "--carrier", "host"], 20, "'host' cannot carry a contract"),
        (["versions"], 2, "SERVICE"),
        (["versions", "foo"], 20, "write SERVICE=VERSION"),
        (["versions", "-", "foo=v1"], 2, "either - or services"),
        (["check", "/nowhere"], 20, "/nowhere: there is no such file"),
        (["check", "/dev/null"], 20, "nothing that can be checked"),
        (["check", "/dev/null", "--istio", "2.0"], 20, "1.28"),
        (["check", "/dev/null", "--envoy", "/nowhere"], 20, "no Envoy found"),
        (["check", "/dev/null", "--output", "xml"], 2, "neither text nor json"),
    ],
)
def test_a_mistake_is_named_and_has_its_exit_code(
    arguments: list[str], code: int, said: str, capsys: Output
) -> None:
    assert devroute(*arguments) == code
    assert said in " ".join(capsys.readouterr().err.split())


def test_versions_reads_pods_from_standard_input(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    pods = b"kind: Pod\nmetadata: {name: a, namespace: shop, labels: {app: foo, version: v1.2}}\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pods)))
    assert devroute("versions", "-") == 0
    said = capsys.readouterr()
    assert yaml.safe_load(said.out)["spec"]["subsets"] == [{"name": "v1-2", "labels": {"version": "v1.2"}}]
    assert "contracts say version:v1-2" in said.err, "remarks stay out of what kubectl gets"


PLACE_OF_A_FILTER = r"EnvoyFilter istio-system/devroute: configPatches\[\d\]: patch\.value"


@pytest.mark.mesh
@pytest.mark.parametrize(("broken", "code"), [(False, 0), (True, 1)])
def test_check_asks_the_installed_envoy(tmp_path: Path, broken: bool, code: int, capsys: Output) -> None:
    assert devroute() == 0
    text = capsys.readouterr().out
    own = tmp_path / "own.yaml"
    own.write_text(
        text.replace("function envoy_on_request(", "function envoy_on_request((") if broken else text
    )
    assert devroute("check", str(own), "--istio", "1.32", "--output", "json") == code
    report = json.loads(capsys.readouterr().out)
    assert report["good"] == (not broken)
    assert report["releases"][0]["outcome"] == ("does not suit" if broken else "suits")
    found = [each["place"] for each in report["findings"]]
    assert len(found) == 2 * broken, "two filters bring Lua"
    assert all(re.fullmatch(PLACE_OF_A_FILTER, each) for each in found)
