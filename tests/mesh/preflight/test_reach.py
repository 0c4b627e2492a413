"""What `devroute manifests check` reports as missing where laptops are to reach services."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from devroute.mesh.manifests.folder import base
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import Document
from devroute.mesh.manifests.reach import read_reachable
from devroute.mesh.preflight.check import check
from devroute.mesh.preflight.reach import missing

BOTH = tuple(map(read_reachable, ("*.shop", "tcp://orders-db.data:5432")))
LISTED = Installation(reach=BOTH)


def installed(installation: Installation) -> list[Document]:
    return [document for file in base(installation)[:-1] for document in file.documents]


def found(documents: list[Document]) -> list[str]:
    named = [{**each, "metadata": {"namespace": "devroute", **each["metadata"]}} for each in documents]
    placed = [(f"{each['kind']} {each['metadata']['name']}", each) for each in named]
    return [f"{place}: {finding.place}: {finding.problem}" for finding, place in missing(placed)]


def of(documents: list[Document], kind: str) -> Any:
    (document,) = [each for each in documents if each["kind"] == kind]
    return document


def container(documents: list[Document]) -> Any:
    (only,) = of(documents, "Deployment")["spec"]["template"]["spec"]["containers"]
    return only


def without_flag(documents: list[Document]) -> None:
    own = container(documents)
    own["args"] = [each for each in own["args"] if "mesh-egress" not in each]


def without_sidecar(documents: list[Document]) -> None:
    documents.remove(of(documents, "Sidecar"))


def with_another_port(documents: list[Document]) -> None:
    of(documents, "Sidecar")["spec"]["egress"][0]["port"]["number"] = 15081


def with_another_s_sidecar(documents: list[Document]) -> None:
    of(documents, "Sidecar")["spec"]["workloadSelector"]["labels"] = {"app": "other"}


def without_ports(documents: list[Document]) -> None:
    for each in documents:
        if each["kind"] == "EnvoyFilter":
            spec = each["spec"]
            spec["configPatches"] = [one for one in spec["configPatches"] if "vhost_header" not in str(one)]


def without_the_way_out(documents: list[Document]) -> None:
    spec = of(documents, "NetworkPolicy")["spec"]
    spec["egress"] = [each for each in spec["egress"] if "ports" in each]


def with_an_open_namespace(documents: list[Document]) -> None:
    container(documents)["env"] = [{"name": "DEVROUTE_REACH_DENIED_NAMESPACES", "value": "istio-system"}]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (without_flag, "containers[proxy].args: has no --mesh-egress, so laptops reach nothing by HTTP"),
        (without_sidecar, "containers[proxy].args: no Sidecar in the file opens http://127.0.0.1:15080"),
        (with_another_port, "no Sidecar in the file opens http://127.0.0.1:15080"),
        (with_another_s_sidecar, "no Sidecar in the file opens http://127.0.0.1:15080"),
        (without_ports, "no EnvoyFilter in the file has http://127.0.0.1:15080 obey ports"),
        (without_the_way_out, "NetworkPolicy devroute-proxy: spec.egress: lets nothing out to the services"),
        (with_an_open_namespace, "env: laptops may reach the proxy's own namespace devroute"),
    ],
)
def test_what_is_missing_for_reach_is_reported(
    change: Callable[[list[Document]], None], problem: str
) -> None:
    documents = installed(LISTED)
    assert found(documents) == []
    change(documents)
    (finding,) = found(documents)
    assert problem in finding


@pytest.mark.parametrize(
    "change", [without_flag, without_sidecar, without_the_way_out, with_an_open_namespace]
)
def test_a_policy_that_lists_nothing_to_reach_needs_none_of_it(
    change: Callable[[list[Document]], None],
) -> None:
    documents = installed(Installation())
    change(documents)
    assert found(documents) == []


def test_bytes_need_no_listener_of_the_sidecar() -> None:
    documents = installed(Installation(reach=BOTH[1:], mesh_egress=False))
    assert found(documents) == []


def test_a_policy_that_cannot_be_read_is_left_to_the_check_of_policies() -> None:
    documents = installed(LISTED)
    of(documents, "ConfigMap")["data"]["policy.yaml"] = "reach: [{subjects: alice}"
    assert found(documents) == []


def test_the_check_of_a_file_has_what_is_missing_among_its_findings() -> None:
    documents = installed(LISTED)
    without_sidecar(documents)
    report = check(yaml.safe_dump_all(documents), "mesh.yaml", {})
    assert [each.problem for each in report.findings] == [
        "no Sidecar in the file opens http://127.0.0.1:15080, so laptops reach nothing by HTTP"
    ]
    assert not report.good
