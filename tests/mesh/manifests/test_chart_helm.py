"""The Helm chart, rendered by Helm itself: the documents of the kustomize base (make test-helm)."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devroute.mesh.manifests.chart import chart_files
from devroute.mesh.manifests.chart_values import values
from devroute.mesh.manifests.folder import base
from devroute.mesh.manifests.installation import IngressGateway, Installation
from devroute.mesh.manifests.model import NamespaceScope, ProxyService, WorkloadScope
from devroute.mesh.manifests.outlier_detection import Protected
from devroute.mesh.manifests.reach import Reachable
from devroute.mesh.manifests.registry import Registry
from tests.support import go_programs

pytestmark = pytest.mark.helm

#: A Helm that was built from its module takes Kubernetes 1.20 for the newest one.
KUBERNETES = ("--kube-version", "1.33.0")
REGISTRY = Registry("redis://:secret@redis.data:6380/0", ("10.7.0.0/16",))
#: Options together, so that each is in some of them, and those that meet in one file in several.
INSTALLATIONS = {
    "default": Installation(),
    "valkey": Installation(replicas=3, valkey=True, entry_urls=("http://a.example", "b=https://b.example")),
    "registry": Installation(replicas=2, registry=REGISTRY, mesh_egress=False, entry_links=True),
    "namespace": Installation(scope=NamespaceScope("shop"), revision="canary", mesh_egress=False),
    "workload": Installation(scope=WorkloadScope("123", "true", {"app": "b", "tier": "1"}), valkey=True),
    "names": Installation(
        proxy=ProxyService(namespace="123", domain="corp.example"),
        scope=WorkloadScope("shop", "b"),
        ingress=IngressGateway("ingress", "gateway"),
        image="images.example:5000/devroute@sha256:" + "0" * 64,
        istio_namespace="mesh",
        dns_namespace="names",
        monitoring_namespace="null",
        tokens_secret="yes",
        services=("b", "team-*"),
        networks=("10.8.0.0/16", "10.9.0.0/16", "fd00::/48"),
        ports=("8001", "9000-9100"),
        pod_networks=("10.8.1.0/24",),
        outlier_detection=(Protected("b", "shop", 8080, "http2"),),
        reach=(Reachable("http", "*", "shop", None), Reachable("tcp", "db.vendor.example", "", 5432)),
        reach_networks=("198.51.100.0/24",),
        reach_namespace="shop",
        reach_denied=("vault",),
    ),
}


@pytest.fixture(scope="module")
def helm() -> Path:
    if not go_programs.is_built(go_programs.HELM):
        pytest.skip("Helm is not built: make test-helm (needs Go)")
    return go_programs.folder_of(go_programs.HELM) / "helm"


def run(helm: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([helm, *arguments], capture_output=True, text=True, timeout=60, check=False)


def written(installation: Installation, folder: Path) -> Path:
    for path, text in chart_files(installation).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture(scope="module")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written without an option."""
    return written(Installation(), tmp_path_factory.mktemp("chart") / "devroute")


def as_values(installation: Installation) -> dict[str, Any]:
    """All that may be given to a chart that was written without an option."""
    return yaml.safe_load(values(installation))


def parsed(documents: list[dict[str, Any]]) -> dict[tuple[str, str, str], dict[str, Any]]:
    """By kind, namespace and name, with what is YAML or JSON inside of them parsed."""
    found = {}
    for each in documents:
        for name, text in each.get("data", {}).items():
            each["data"][name] = yaml.safe_load(text)
        metadata = each["metadata"]
        found[each["kind"], metadata.get("namespace", ""), metadata["name"]] = each
    assert len(found) == len(documents)
    return found


def of_kustomize(installation: Installation) -> dict[tuple[str, str, str], dict[str, Any]]:
    """What `kubectl apply -k` sends: the files that the kustomization lists, which transforms none of
    them."""
    *files, kustomization = base(installation)
    (listed,) = kustomization.documents
    assert listed.keys() == {"apiVersion", "kind", "resources"}
    return parsed([each for file in files for each in yaml.safe_load_all(file.text)])


def rendered(helm: Path, chart: Path, *options: str | Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    done = run(helm, "template", "devroute", chart, *KUBERNETES, "--namespace", "default", *options)
    assert done.returncode == 0, done.stderr
    return parsed([each for each in yaml.safe_load_all(done.stdout) if each])


@pytest.mark.parametrize("installation", INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_a_chart_renders_to_what_kustomize_applies(
    helm: Path, installation: Installation, tmp_path: Path
) -> None:
    chart = written(installation, tmp_path / "devroute")
    linted = run(helm, "lint", "--strict", chart, *KUBERNETES)
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert rendered(helm, chart) == of_kustomize(installation)


@pytest.mark.parametrize("name", ["valkey", "registry", "namespace", "workload"])
def test_values_do_what_options_do(helm: Path, chart: Path, name: str, tmp_path: Path) -> None:
    """One chart, written without an option, is every installation."""
    installation = INSTALLATIONS[name]
    (tmp_path / "values.json").write_text(json.dumps(as_values(installation)))
    assert rendered(helm, chart, "--values", tmp_path / "values.json") == of_kustomize(installation)


def test_settings_policy_keys_and_rules_are_added(helm: Path, chart: Path) -> None:
    options = {
        "settings.oidc_issuer": "https://id.example",
        "settings.oidc_keys_max_age": 28800,
        "settings.oidc_audience": "devroute",
        "policy.require": "signed",
        "contractKeys.keys[0].kid": "k1",
        "extraEgress[0].to[0].ipBlock.cidr": "192.0.2.0/24",
        "resources.limits.memory": "2Gi",
    }
    given = [word for name, value in options.items() for word in ("--set", f"{name}={value}")]
    found, plain = rendered(helm, chart, *given), of_kustomize(Installation())
    changed = {key[0] for key in found if found[key] != plain[key]}
    assert changed == {"Deployment", "ConfigMap", "NetworkPolicy"}
    container = found["Deployment", "devroute", "devroute-proxy"]["spec"]["template"]["spec"]["containers"][0]
    added = {each["name"]: each["value"] for each in container["env"] if "REACH" not in each["name"]}
    assert added == {
        "DEVROUTE_OIDC_ISSUER": "https://id.example",
        "DEVROUTE_OIDC_KEYS_MAX_AGE": "28800",
        "DEVROUTE_OIDC_AUDIENCE": "devroute",
    }
    assert container["resources"]["limits"] == {"memory": "2Gi"}
    data = found["ConfigMap", "devroute", "devroute-policy"]["data"]
    assert (data["policy.yaml"]["require"], data["contract-keys.json"]) == (
        "signed",
        {"keys": [{"kid": "k1"}]},
    )
    egress = found["NetworkPolicy", "devroute", "devroute-proxy"]["spec"]["egress"]
    assert egress[-1] == {"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "replicas=2"], "without a registry that they share"),
        (["--set", "valkey=true,registry.enabled=true"], "there is a registry already"),
        (["--set", "registry.enabled=true"], "registry.egress"),
        (["--set", "scope.kind=namespace"], "scope.kind namespace needs a namespace"),
        (["--set", "scope.kind=workload,scope.namespace=shop"], "workload needs a service"),
        (["--set", "scope.service=b"], "these are for one workload"),
        (["--set", "scope.namespace=shop"], "is in istioNamespace"),
        (["--set", "policy.direct.networks[0]=10.0.0.0/8"], "fixed when the chart is written"),
        (["--namespace", "devroute"], "cannot make the namespace of its own release"),
        (["--set", "namespace=Shop"], "namespace"),
        (["--set", "settings.oidc_isuer=x"], "oidc_isuer"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_mistakes_are_refused_with_a_message(
    helm: Path, chart: Path, options: list[str], message: str
) -> None:
    done = run(helm, "template", "devroute", chart, *KUBERNETES, *options)
    assert done.returncode != 0
    assert message in done.stderr


def test_a_namespace_that_exists_is_not_made(helm: Path, chart: Path) -> None:
    found = rendered(helm, chart, "--set", "createNamespace=false", "--namespace", "devroute")
    assert not [key for key in found if key[0] == "Namespace"]
