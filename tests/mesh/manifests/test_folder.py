"""The folder `manifests/`: in step with its generator, valid for Kubernetes, in agreement with the proxy."""

import ipaddress
import shutil
import subprocess
from typing import Any
from unittest.mock import Mock

import kubernetes_validate
import pytest
import yaml

from devroute.errors import ConfigInvalid
from devroute.mesh.istio.rules import MAX_INLINE_LUA
from devroute.mesh.manifests.access import LAPTOP_PATHS, SIDECAR_PATHS
from devroute.mesh.manifests.examples import ambient_lua
from devroute.mesh.manifests.folder import base, example_files, files, install
from devroute.mesh.manifests.installation import IngressGateway, Installation
from devroute.mesh.manifests.model import Document, NamespaceScope, ProxyService, WorkloadScope
from devroute.mesh.manifests.outlier_detection import Protected
from devroute.mesh.manifests.registry import Registry
from devroute.policy.policy import Policy
from devroute.proxy.control.api import create_app
from devroute.proxy.control.control import Control
from devroute.proxy.settings import ProxySettings
from devroute.replicas.redis_url import TIMEOUT_SECONDS
from tests.support.paths import ROOT

FOLDER = ROOT / "manifests"
#: The oldest Kubernetes that Istio 1.28 supports, and the newest that kubernetes-validate knows.
KUBERNETES = ("1.30", kubernetes_validate.latest_version())
#: Kubernetes' own kinds; all others are CRDs.
CORE = {"v1", "apps/v1", "policy/v1", "networking.k8s.io/v1", "autoscaling/v2"}
#: Every field that the generator can write is written by one of these.
INSTALLATIONS = {
    "default": Installation(),
    "everything": Installation(
        proxy=ProxyService("router", "tools", 80, 81, "corp.example"),
        ingress=IngressGateway("ingress", "gateway", host="laptops.corp.example"),
        image="images.example/devroute:1",
        replicas=3,
        registry=Registry("redis://:secret@redis.data:6380/0"),
        revision="canary",
        istio_namespace="mesh",
        dns_namespace="names",
        monitoring_namespace="prometheus",
        networks=("10.8.0.0/16", "10.9.0.0/16", "fd00::/48"),
        ports=("8001", "9000-9100"),
        services=("foo", "team-*"),
        scope=WorkloadScope("shop", "foo"),
        outlier_detection=(Protected("foo", "shop", 8080, "http2"),),
        mesh_egress=False,
    ),
}


def documents(installation: Installation, folder: str = "") -> list[Document]:
    written = [*base(installation), *example_files(installation)]
    return [document for file in written if file.path.startswith(folder) for document in file.documents]


def one(installation: Installation, kind: str, name: str | None = None) -> Any:
    (found,) = (
        document
        for document in documents(installation, "base/")
        if document["kind"] == kind and name in (None, document["metadata"]["name"])
    )
    return found


# --- the folder ---------------------------------------------------------------------------------------------


def test_the_folder_is_in_step_with_the_generator() -> None:
    expected = files(Installation())
    found = {str(file.relative_to(FOLDER)): file.read_text() for file in FOLDER.rglob("*") if file.is_file()}
    differing = sorted(
        path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path)
    )
    assert differing == [], (
        "run: devroute manifests install --folder manifests (and delete what it does not write)"
    )


def test_the_yaml_equals_the_model() -> None:
    chosen = INSTALLATIONS["everything"]
    read = [document for text in files(chosen).values() for document in yaml.load_all(text, yaml.CSafeLoader)]
    assert read == documents(chosen)


@pytest.mark.parametrize("folder", ["base", "examples"])
def test_a_kustomization_lists_files_that_exist(folder: str) -> None:
    listed = yaml.safe_load((FOLDER / folder / "kustomization.yaml").read_text())["resources"]
    for path in listed:
        assert (FOLDER / folder / path).exists()
    assert len(listed) == len(set(listed))


def test_the_base_lists_each_of_its_files() -> None:
    listed = yaml.safe_load((FOLDER / "base/kustomization.yaml").read_text())["resources"]
    assert {*listed, "kustomization.yaml"} == {file.name for file in (FOLDER / "base").iterdir()}


def test_the_base_as_one_text_is_the_base_as_files() -> None:
    assert list(yaml.load_all(install(Installation()), yaml.CSafeLoader)) == [
        document for document in documents(Installation(), "base/") if document["kind"] != "Kustomization"
    ]


if shutil.which("kubectl"):  # no skip: without kubectl the three tests above have to suffice

    @pytest.mark.parametrize("folder", ["base", "examples"])
    def test_kustomize_builds_it(folder: str) -> None:
        built = subprocess.run(
            ["kubectl", "kustomize", FOLDER / folder], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        kinds = sorted(document["kind"] for document in yaml.load_all(built, yaml.CSafeLoader))
        base_kinds = [document["kind"] for document in documents(Installation(), "base/")]
        base_kinds.remove("Kustomization")
        extra = ["ConfigMap", "Gateway", "PrometheusRule", "ServiceMonitor", "VirtualService"]
        more = extra if folder == "examples" else []
        assert kinds == sorted(base_kinds + more)
        assert ("image: images.example/platform/devroute:" in built) == (folder == "examples")


# --- Kubernetes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("installation", INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_kubernetes_accepts_every_core_object(installation: Installation, version: str) -> None:
    kinds = set()
    for document in documents(installation):
        if document["apiVersion"] in CORE:
            kubernetes_validate.validate(document, version, strict=True)
            kinds.add(document["kind"])
    assert kinds >= {"Namespace", "Deployment", "Service", "NetworkPolicy", "HorizontalPodAutoscaler"}


def test_every_object_has_a_namespace_and_the_label_part_of() -> None:
    for document in documents(INSTALLATIONS["everything"]):
        if document["kind"] == "Kustomization":
            continue
        metadata = document["metadata"]
        assert metadata["labels"]["app.kubernetes.io/part-of"] == "devroute"
        assert document["kind"] == "Namespace" or metadata["namespace"] in {
            "tools",
            "ingress",
            "mesh",
            "shop",
            "istio-system",
        }


def test_no_secret_is_in_git() -> None:
    assert "Secret" not in {document["kind"] for document in documents(Installation())}
    volumes = one(Installation(), "Deployment")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "tokens", "secret": {"secretName": "devroute-tokens"}} in volumes


def test_the_container_keeps_the_restricted_profile() -> None:
    """Kubernetes' Pod Security Standards, restricted."""
    spec = one(Installation(), "Deployment")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    pod, own = spec["securityContext"], container["securityContext"]
    assert pod["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["runAsUser"] > 0
    assert (pod["runAsNonRoot"], own["runAsNonRoot"], own["allowPrivilegeEscalation"]) == (True, True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert own["readOnlyRootFilesystem"] is True
    assert {kind for volume in spec["volumes"] for kind in volume} == {"name", "configMap", "secret"}


@pytest.mark.parametrize("installation", INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_no_request_is_cut_off_while_the_proxy_drains(installation: Installation) -> None:
    template = one(installation, "Deployment")["spec"]["template"]
    spec = template["spec"]
    leave = spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    config = yaml.safe_load(template["metadata"]["annotations"]["proxy.istio.io/config"])
    sidecar = int(config["terminationDrainDuration"].removesuffix("s"))
    drained, killed = leave + ProxySettings().drain_timeout, spec["terminationGracePeriodSeconds"]
    assert drained < sidecar < killed
    assert drained + 2 * TIMEOUT_SECONDS < killed, "it withdraws from a Redis that hangs, in two attempts"


# --- the proxy and its manifests agree ----------------------------------------------------------------------


@pytest.mark.parametrize("installation", INSTALLATIONS.values(), ids=INSTALLATIONS)
def test_the_filter_calls_a_service_that_exists(installation: Installation) -> None:
    service, container = one(installation, "Service"), one(installation, "Deployment")
    metadata = service["metadata"]
    host = f"{metadata['name']}.{metadata['namespace']}.svc.{installation.proxy.domain}"
    named = {
        each["name"]: each["containerPort"]
        for each in container["spec"]["template"]["spec"]["containers"][0]["ports"]
    }
    ports = {each["name"]: (each["port"], named[each["targetPort"]]) for each in service["spec"]["ports"]}
    settings = ProxySettings()
    assert installation.proxy.data_cluster == f"outbound|{ports['http-data'][0]}||{host}"
    assert installation.proxy.control_cluster == f"outbound|{ports['http-control'][0]}||{host}"
    assert [each[1] for each in ports.values()] == [
        settings.data_port,
        settings.control_port,
        settings.admin_port,
    ]
    assert one(installation, "DestinationRule")["spec"]["host"] == host
    name = "devroute-foo" if isinstance(installation.scope, WorkloadScope) else "devroute"
    assert installation.proxy.data_cluster in str(one(installation, "EnvoyFilter", name))


def test_useclientprotocol_is_what_lets_grpc_through() -> None:
    policy = one(Installation(), "DestinationRule")["spec"]["trafficPolicy"]
    (data,) = policy["portLevelSettings"]
    assert data["port"] == {"number": 8080}
    assert data["connectionPool"]["http"]["useClientProtocol"] is True
    assert "useClientProtocol" not in policy["connectionPool"]["http"], "the control port speaks HTTP/1.1"
    for each in (policy, data):
        idle = each["connectionPool"]["http"]["idleTimeout"]
        assert float(idle.removesuffix("s")) < ProxySettings().keep_alive_timeout
    ports = one(Installation(), "Service")["spec"]["ports"]
    assert {(each["appProtocol"], each["name"].partition("-")[0]) for each in ports} == {("http", "http")}


def test_the_proxy_sends_what_laptops_decline_to_a_listener_that_only_it_reaches() -> None:
    (listener,) = one(Installation(), "Sidecar")["spec"]["egress"]
    assert (listener["bind"], listener["captureMode"], listener["hosts"]) == ("127.0.0.1", "NONE", ["*/*"])
    (container,) = one(Installation(), "Deployment")["spec"]["template"]["spec"]["containers"]
    (given,) = [each for each in container["args"] if each.startswith("--mesh-egress=")]
    settings = ProxySettings.model_validate({"mesh_egress": given.partition("=")[2]})
    assert settings.mesh_egress is not None
    assert (settings.mesh_egress.host, settings.mesh_egress.port) == ("127.0.0.1", listener["port"]["number"])
    entries = ("shop=https://shop.example", "admin=https://admin.example/x")
    stated = documents(Installation(entry_urls=entries, entry_links=True), "base/")
    for each in (
        "--entry-url=shop=https://shop.example",
        "--entry-url=admin=https://admin.example/x",
        "--entry-links",
    ):
        assert each in str(stated)
    without = documents(Installation(mesh_egress=False), "base/")
    assert "Sidecar" not in {each["kind"] for each in without}
    assert "mesh-egress" not in str(without)


@pytest.mark.parametrize(
    ("url", "to", "port"),
    [
        ("http://otel.observability:4318", {"kubernetes.io/metadata.name": "observability"}, 4318),
        (
            "http://otel.observability.svc.cluster.local/v1/traces",
            {"kubernetes.io/metadata.name": "observability"},
            80,
        ),
        ("https://192.0.2.7", "192.0.2.7/32", 443),
        ("https://otlp.vendor.example", None, 443),
    ],
)
def test_the_proxy_may_send_traces_to_the_collector_that_it_is_given(url: str, to: object, port: int) -> None:
    chosen = Installation(otlp_endpoint=url, mesh_egress=False)
    (container,) = one(chosen, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert f"--otlp-endpoint={url}" in container["args"]
    egress = one(chosen, "NetworkPolicy")["spec"]["egress"]
    added = [
        each
        for each in egress
        if each not in one(Installation(mesh_egress=False), "NetworkPolicy")["spec"]["egress"]
    ]
    if to is None:
        assert added == [], "its addresses are not known"
        return
    ((rule),) = added
    assert rule["ports"] == [{"protocol": "TCP", "port": port}]
    assert str(to) in str(rule["to"])


def test_the_filter_can_be_tried_with_one_workload_or_namespace_first() -> None:
    for scope in (NamespaceScope("shop"), WorkloadScope("shop", "foo")):
        filters = [
            each for each in documents(Installation(scope=scope), "base/") if each["kind"] == "EnvoyFilter"
        ]
        assert {each["metadata"]["namespace"] for each in filters} == {"shop", "devroute"}
        assert [
            each["metadata"]["labels"] for each in filters if each["metadata"]["namespace"] == "shop"
        ] == [{"app.kubernetes.io/part-of": "devroute"}]


def test_the_policy_by_default_permits_no_address() -> None:
    text = one(Installation(), "ConfigMap")["data"]["policy.yaml"]
    assert Policy.parse(text).networks == ()


def test_networks_are_the_same_in_the_policy_and_in_the_network_policy() -> None:
    chosen = INSTALLATIONS["everything"]
    policy = Policy.parse(one(chosen, "ConfigMap")["data"]["policy.yaml"])
    *_, laptops = one(chosen, "NetworkPolicy")["spec"]["egress"]
    blocks = [ipaddress.ip_network(each["ipBlock"]["cidr"]) for each in laptops["to"]]
    assert all(
        any(network.subnet_of(block) for block in blocks if block.version == network.version)
        for network in policy.networks
    )
    assert [(each["port"], each.get("endPort", each["port"])) for each in laptops["ports"]] == list(
        policy.ports
    )
    egress = one(Installation(mesh_egress=False), "NetworkPolicy")["spec"]["egress"]
    assert len(egress) == 2, "nothing without a network"


@pytest.mark.parametrize(
    ("networks", "block"),
    [
        (["10.0.0.0/8"], {"cidr": "10.0.0.0/8", "except": ["10.244.0.0/16", "10.96.0.0/12"]}),
        (["10.0.0.0/8", "10.244.7.0/24"], {"cidr": "10.0.0.0/8", "except": ["10.96.0.0/12"]}),
        (["192.168.0.0/16"], {"cidr": "192.168.0.0/16"}),
        (["10.96.0.0/12"], {"cidr": "10.96.0.0/12"}),
    ],
)
def test_the_clusters_own_ranges_are_left_out_of_the_laptops_networks(
    networks: list[str], block: dict[str, object]
) -> None:
    *_, laptops = one(Installation(networks=tuple(networks)), "NetworkPolicy")["spec"]["egress"]
    assert [each["ipBlock"] for each in laptops["to"]] == [block]


def test_each_path_of_the_control_port_is_for_one_kind_of_caller() -> None:
    control = Control(Mock(), Policy, Mock(), Mock(), 0.3)
    served = {resource.canonical for resource in create_app(control).router.resources()} | {"/tunnel"}

    def allowed(paths: tuple[str, ...]) -> set[str]:
        return {
            path
            for path in served
            for each in paths
            if path == each or (each[-1] == "*" and path.startswith(each[:-1]))
        }

    assert allowed(SIDECAR_PATHS) | allowed(LAPTOP_PATHS) == served, (
        "add the path in devroute/mesh/manifests/access.py"
    )
    assert allowed(SIDECAR_PATHS) & allowed(LAPTOP_PATHS) == set()
    (service,) = (each for each in documents(Installation()) if each["kind"] == "VirtualService")
    routes = [route["match"][0]["uri"] for route in service["spec"]["http"]]
    outside = {
        path
        for path in served
        for uri in routes
        if path == uri.get("exact") or path.startswith(uri.get("prefix", "?"))
    }
    assert outside == allowed(LAPTOP_PATHS)


def test_only_mesh_identities_reach_the_data_port_and_only_the_gateway_the_laptops_paths() -> None:
    chosen = INSTALLATIONS["everything"]
    rules = {
        each["metadata"]["name"]: each["spec"]["rules"][0]
        for each in documents(chosen, "base/")
        if each["kind"] == "AuthorizationPolicy"
    }
    callers = {name: rule["from"][0]["source"]["principals"] for name, rule in rules.items()}
    gateway = "cluster.local/ns/ingress/sa/gateway"
    assert callers == {
        "router-data": ["cluster.local/ns/shop/sa/*", gateway],
        "router-resolve": ["cluster.local/ns/shop/sa/*", gateway],
        "router-laptops": [gateway],
    }
    mesh = [
        each["spec"] for each in documents(Installation(), "base/") if each["kind"] == "AuthorizationPolicy"
    ]
    assert [each["rules"][0]["from"][0]["source"]["principals"] for each in mesh][:2] == [["*"], ["*"]]
    questions, reports = (each["operation"] for each in rules["router-resolve"]["to"])
    assert (questions["methods"], reports["methods"]) == (["GET"], ["POST"])
    assert (questions["paths"], reports["paths"]) == (["/resolve", "/contract"], ["/trace", "/compare"])
    assert rules["router-data"]["to"] == [{"operation": {"ports": ["8080"]}}]
    assert "9090" not in yaml.safe_dump(rules), "who has an identity has no business at the admin port"
    assert one(chosen, "PeerAuthentication")["spec"]["mtls"] == {"mode": "STRICT"}


def test_the_proxy_sends_questions_about_names_to_the_cluster_s_dns_only() -> None:
    for chosen in INSTALLATIONS.values():
        egress = one(chosen, "NetworkPolicy")["spec"]["egress"]
        (dns,) = [each for each in egress if {"protocol": "UDP", "port": 53} in each.get("ports", [])]
        pods, cache = dns["to"]
        names = pods["namespaceSelector"]["matchLabels"]
        assert names == {"kubernetes.io/metadata.name": chosen.dns_namespace}
        assert "kube-dns" in pods["podSelector"]["matchExpressions"][0]["values"]
        assert cache["ipBlock"]["cidr"].endswith("/32")
        assert all("to" in each for each in egress), "nothing goes just anywhere"


def test_the_ambient_lua_fits_into_its_field() -> None:
    assert len(ambient_lua(Installation(), WorkloadScope("n" * 63, "s" * 63))) < MAX_INLINE_LUA


# --- wrong options ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"istio_namespace": ""}, "istio_namespace: a namespace consists of"),
        ({"entry_urls": ("shop",)}, "entry_urls: 'shop' is no URL of an entry"),
        ({"otlp_endpoint": "collector:4318"}, "otlp_endpoint: 'collector:4318' is not a URL"),
        ({"otlp_endpoint": "http://a:b@collector"}, "otlp_endpoint: a collector's URL holds no password"),
        ({"ingress": IngressGateway(host="https://x")}, "ingress.host: 'https://x' is neither"),
        ({"image": "two words"}, "image: 'two words' is not the name of an image"),
        ({"replicas": 0}, "replicas: 0 is not a number from 1 to 100"),
        ({"replicas": 2}, "replicas: without a registry that they share, each of 2 would know only"),
        ({"registry": Registry("redis://redis"), "valkey": True}, "valkey: there is a registry already"),
        ({"networks": ("10.0.0.1/8",)}, "policy: direct.networks.0: .* write 10.0.0.0/8"),
        ({"ports": ("http",)}, "policy: direct.ports.0"),
        ({"services": ("Foo",)}, "policy: services.0"),
    ],
)
def test_an_option_that_is_wrong_is_named(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said):
        Installation(**options)


def test_a_proxy_s_name_is_one_of_kubernetes() -> None:
    with pytest.raises(ConfigInvalid, match="name: a service's name consists of"):
        ProxyService(name="a b")
