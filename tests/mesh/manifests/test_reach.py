"""What `devroute manifests install --reach` writes: rules, settings, packets, an example for callees."""

from typing import Any

import pytest
import yaml

from devroute.cli.main import run
from devroute.contract.destination import parse_destination
from devroute.errors import ConfigInvalid, ReachDenied
from devroute.mesh.manifests.chart_values import values
from devroute.mesh.manifests.folder import base, example_files
from devroute.mesh.manifests.installation import Installation
from devroute.mesh.manifests.model import ProxyService
from devroute.mesh.manifests.reach import Reachable, read_reachable
from devroute.mesh.preflight.schemas import by_schema
from devroute.policy.policy import Policy
from devroute.proxy.settings import ProxySettings


def one(installation: Installation, kind: str, name: str | None = None) -> Any:
    documents = [document for file in base(installation) for document in file.documents]
    (found,) = [
        each for each in documents if each["kind"] == kind and name in (None, each["metadata"]["name"])
    ]
    return found


def reaching(*texts: str, **options: Any) -> Installation:
    return Installation(reach=tuple(map(read_reachable, texts)), **options)


def egress(installation: Installation) -> list[Any]:
    """The NetworkPolicy's rules that are there for reach."""
    without = one(Installation(mesh_egress=installation.mesh_egress), "NetworkPolicy")["spec"]["egress"]
    rules = one(installation, "NetworkPolicy")["spec"]["egress"]
    return [each for each in rules if each not in without]


def environment(installation: Installation) -> dict[str, str]:
    (container,) = one(installation, "Deployment")["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"] if "value" in each}


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("c.shop:80", Reachable("http", "c", "shop", 80)),
        ("http://c.shop", Reachable("http", "c", "shop", None)),
        ("*.shop", Reachable("http", "*", "shop", None)),
        ("tcp://orders-db.data:5432", Reachable("tcp", "orders-db", "data", 5432)),
        ("tcp://db.vendor.example:5432", Reachable("tcp", "db.vendor.example", "", 5432)),
    ],
)
def test_what_laptops_may_reach_is_written_as_they_write_it(text: str, read: Reachable) -> None:
    assert read_reachable(text) == read
    assert read_reachable(str(read)) == read


@pytest.mark.parametrize(
    "text",
    ["", "c", "c:80", "c.shop:0", "c.shop:65536", "c.shop:x", "c.shop.svc:80", "udp://c.shop", "a:b:c"],
)
def test_what_is_no_service_in_a_namespace_is_refused(text: str) -> None:
    with pytest.raises(ConfigInvalid, match=r"reach: .* is no service in a namespace, and no host"):
        read_reachable(text)


def test_an_address_is_no_host() -> None:
    with pytest.raises(ConfigInvalid, match=r"'10\.0\.0\.1:80' is an address; laptops reach what has a name"):
        read_reachable("10.0.0.1:80")


def test_the_policy_permits_what_was_given_and_nothing_else() -> None:
    chosen = reaching("*.shop", "tcp://orders-db.data:5432")
    policy = Policy.parse(one(chosen, "ConfigMap")["data"]["policy.yaml"], "policy.yaml")
    for text in ("c.shop:80", "tcp://orders-db.data:5432"):
        policy.permit_reach("alice", frozenset(), parse_destination(text))
    for text in ("c.other:80", "tcp://c.shop:80", "orders-db.data:5432", "tcp://orders-db.data:22"):
        with pytest.raises(ReachDenied):
            policy.permit_reach("alice", frozenset(), parse_destination(text))


def test_the_proxy_knows_its_cluster_and_closes_the_infrastructure_s_namespaces() -> None:
    chosen = Installation(
        proxy=ProxyService(namespace="tools", domain="corp.example"),
        istio_namespace="mesh",
        dns_namespace="names",
        reach_namespace="shop",
        reach_denied=("vault",),
    )
    given = environment(chosen)
    settings = ProxySettings.model_validate(
        {name.removeprefix("DEVROUTE_").lower(): value for name, value in given.items()}
    )
    assert (settings.reach_domain, settings.reach_namespace) == ("corp.example", "shop")
    assert settings.reach_denied_namespaces == ("tools", "mesh", "names", "vault")
    plain = environment(Installation())
    defaults = ProxySettings()
    assert plain["DEVROUTE_REACH_DOMAIN"] == defaults.reach_domain
    assert plain["DEVROUTE_REACH_DENIED_NAMESPACES"] == ",".join(defaults.reach_denied_namespaces)


def test_with_the_way_into_the_mesh_no_packet_needs_another_rule() -> None:
    assert egress(reaching("*.shop", "tcp://orders-db.data:5432")) == []


def test_without_it_bytes_get_into_the_namespaces_that_are_listed() -> None:
    (rule,) = egress(reaching("tcp://orders-db.data:5432", "tcp://*.shop", mesh_egress=False))
    names = [each["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for each in rule["to"]]
    assert (names, "ports" in rule) == (["data", "shop"], False)
    (rule,) = egress(reaching("tcp://db.team-*:5432", mesh_egress=False))
    assert rule == {"to": [{"namespaceSelector": {}}]}


def test_hosts_outside_of_the_cluster_are_reached_in_their_networks() -> None:
    outside = ("198.51.100.0/25", "198.51.100.128/25", "10.0.0.0/8")
    (rule,) = egress(reaching("tcp://db.vendor.example:5432", reach_networks=outside))
    assert rule["to"] == [
        {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.244.0.0/16", "10.96.0.0/12"]}},
        {"ipBlock": {"cidr": "198.51.100.0/24"}},
    ]
    assert rule["ports"] == [{"protocol": "TCP", "port": 5432}]
    (rule,) = egress(reaching("tcp://db.vendor.example", reach_networks=outside[:1]))
    assert "ports" not in rule


@pytest.mark.parametrize(
    ("texts", "options", "said"),
    [
        (["c.shop:80"], {"mesh_egress": False}, "reach: 'c.shop:80' by HTTP needs the sidecar's listener"),
        (["tcp://db.vendor.example:1"], {}, "reach: the NetworkPolicy lets nothing out to 'tcp://db.vendor"),
        (["c.shop:80"], {"reach_networks": ("10.0.0.0/8",)}, "reach_networks: they are where hosts outside"),
        (["a.vendor.example"], {"reach_networks": ("10.0.0.1/8",)}, "reach_networks: 10.0.0.1/8 has host"),
        (["*.kube-system"], {}, r"reach: '\*\.kube-system' is in a namespace that no laptop reaches"),
        (["c.shop"], {"reach_denied": ("shop",)}, "reach: 'c.shop' is in a namespace that no laptop reaches"),
        (["C.shop:80"], {}, "policy: reach.0.services.0"),
        ([], {"reach_namespace": "a.b"}, "reach: a namespace consists of"),
        ([], {"reach_denied": ("",)}, "reach: a namespace consists of"),
    ],
)
def test_options_for_reach_that_are_wrong_are_named(
    texts: list[str], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        reaching(*texts, **options)


def test_the_example_for_callees_names_this_proxy_and_suits_istio_s_crd() -> None:
    chosen = Installation(proxy=ProxyService("router", "tools"))
    (example,) = [each for each in example_files(chosen) if each.path == "examples/reach.yaml"]
    (policy,) = example.documents
    assert list(by_schema(policy)) == []
    (rule,) = policy["spec"]["rules"]
    assert rule["from"] == [{"source": {"principals": ["cluster.local/ns/tools/sa/router"]}}]
    assert rule["when"][0]["key"] == "request.headers[x-devroute-subject]"


def test_the_command_and_the_chart_take_what_laptops_may_reach(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--reach", "*.shop", "--reach", "tcp://db.vendor.example:5432"]
    options += ["--reach-network", "198.51.100.0/24", "--reach-namespace", "shop", "--reach-denied", "vault"]
    assert run(["manifests", "install", *options], {}) == 0
    chosen = reaching(
        "*.shop",
        "tcp://db.vendor.example:5432",
        reach_networks=("198.51.100.0/24",),
        reach_namespace="shop",
        reach_denied=("vault",),
    )
    printed = list(yaml.load_all(capsys.readouterr().out, yaml.CSafeLoader))
    assert printed == [document for file in base(chosen)[:-1] for document in file.documents]
    written = yaml.safe_load(values(chosen))
    assert written["policy"]["reach"] == [each.rule for each in chosen.reach]
    assert written["settings"] == {"reach_namespace": "shop"}
    assert (written["reachDenied"], written["extraEgress"]) == (["vault"], egress(chosen))
