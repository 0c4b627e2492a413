"""What an installation of several replicas has beside that of one: a registry, the peer port, a Valkey."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import redis
import yaml

from devroute.errors import ConfigInvalid
from devroute.mesh.manifests import examples, valkey
from devroute.mesh.manifests.folder import base, files, registry_secret
from devroute.mesh.manifests.installation import PEER_PORT, Installation
from devroute.mesh.manifests.model import Document
from devroute.mesh.manifests.registry import Registry
from devroute.mesh.preflight.check import check
from devroute.metrics.table import TABLE
from devroute.proxy.settings import ProxySettings
from tests.support.redis_server import needs_redis, running_redis

ONE = Installation()
SHARED = Installation(replicas=3, registry=Registry("rediss://me:hunter2@redis.data:6380/0"))
WITH_VALKEY = Installation(replicas=3, valkey=True)
PROXY = {"podSelector": {"matchLabels": {"app.kubernetes.io/name": "devroute-proxy"}}}


def documents(installation: Installation) -> list[Document]:
    return [document for file in base(installation) for document in file.documents]


def one(installation: Installation, kind: str, name: str = "devroute-proxy") -> Any:
    (found,) = (
        each for each in documents(installation) if each["kind"] == kind and each["metadata"]["name"] == name
    )
    return found


def pod(installation: Installation, name: str = "devroute-proxy") -> Any:
    return one(installation, "Deployment", name)["spec"]["template"]


# --- the proxy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("installation", [SHARED, WITH_VALKEY], ids=["registry", "valkey"])
def test_a_replica_takes_the_registry_from_the_secret_and_its_address_from_the_pod(
    installation: Installation,
) -> None:
    (container,) = pod(installation)["spec"]["containers"]
    taken = {each["name"]: each["valueFrom"] for each in container["env"] if "valueFrom" in each}
    assert taken == {
        "DEVROUTE_REGISTRY": {"secretKeyRef": {"name": "devroute-registry", "key": "url"}},
        "DEVROUTE_ADVERTISE_HOST": {"fieldRef": {"fieldPath": "status.podIP"}},
    }
    assert {name.removeprefix("DEVROUTE_").lower() for name in taken} <= ProxySettings.model_fields.keys()
    assert {"name": "peer", "containerPort": ProxySettings().peer_port} in container["ports"]
    assert one(installation, "Deployment")["spec"]["replicas"] == 3


def test_one_replica_has_nothing_of_it() -> None:
    text = "".join(file.text for file in base(ONE))
    assert not any(each in text for each in ("DEVROUTE_REGISTRY", str(PEER_PORT), "valkey", "topologySpread"))


def test_no_password_is_in_a_manifest() -> None:
    assert "hunter2" not in "".join(files(SHARED).values())
    assert "hunter2" not in repr(SHARED)
    assert "Secret" not in {each["kind"] for each in (*documents(SHARED), *documents(WITH_VALKEY))}


def test_only_the_proxy_s_own_pods_reach_the_peer_port_outside_of_the_mesh() -> None:
    """With the pod's connections not captured, the other side has no identity of the mesh to show."""
    spec = one(SHARED, "NetworkPolicy")["spec"]
    open_to = [
        each["from"] for each in spec["ingress"] if {"protocol": "TCP", "port": PEER_PORT} in each["ports"]
    ]
    assert open_to == [[PROXY]]
    assert {"to": [PROXY], "ports": [{"protocol": "TCP", "port": PEER_PORT}]} in spec["egress"]
    annotations = pod(SHARED)["metadata"]["annotations"]
    assert annotations["traffic.sidecar.istio.io/excludeInboundPorts"].split(",") == ["9090", str(PEER_PORT)]
    assert annotations["traffic.sidecar.istio.io/includeOutboundIPRanges"] == ""
    others = [each for each in documents(SHARED) if each["kind"] in ("Service", "AuthorizationPolicy")]
    assert str(PEER_PORT) not in str(others)


def named(namespace: str) -> Document:
    return {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}


@pytest.mark.parametrize(
    ("registry", "to", "port"),
    [
        (Registry("redis://redis"), [named("devroute")], 6379),
        (Registry("redis://redis.data:7000/1"), [named("data")], 7000),
        (Registry("redis://redis.data.svc.cluster.local"), [named("data")], 6379),
        (Registry("redis://10.1.2.3"), [{"ipBlock": {"cidr": "10.1.2.3/32"}}], 6379),
        (Registry("redis://[fd00::7]:7000"), [{"ipBlock": {"cidr": "fd00::7/128"}}], 7000),
        (Registry("redis://a.cache.example", ("10.9.0.0/24",)), [{"ipBlock": {"cidr": "10.9.0.0/24"}}], 6379),
        (Registry("redis://a.example", ("10.9.0.0/24",)), [{"ipBlock": {"cidr": "10.9.0.0/24"}}], 6379),
        (Registry("redis+sentinel://one.data,two.data:7000/mesh"), [named("data")], None),
        (Registry("redis+cluster://redis.data"), [named("data")], None),
    ],
    ids=lambda value: value.url if isinstance(value, Registry) else None,
)
def test_a_replica_may_reach_the_registry(registry: Registry, to: list[Document], port: int | None) -> None:
    egress = one(Installation(registry=registry, mesh_egress=False), "NetworkPolicy")["spec"]["egress"]
    ports = {} if port is None else {"ports": [{"protocol": "TCP", "port": port}]}
    assert egress[-1] == {"to": to, **ports}


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Registry("memory"), "registry: write a URL with a host that starts with redis://"),
        (lambda: Registry("unix:///run/redis.sock"), "registry: write a URL"),
        (lambda: Registry("redis:///0"), "registry: write a URL"),
        (lambda: Registry("redis+sentinel://one,,two/mesh"), "registry: write a URL"),
        (lambda: Registry("redis://[fd00::7"), "registry: write a URL"),
        (lambda: Registry("redis://:hunter2@a.cache.example"), "registry: 'a.cache.example' is no Service"),
        (lambda: Registry("redis://redis", ("10.0.0.1/8",)), "registry_networks: 10.0.0.1/8"),
    ],
)
def test_a_registry_that_pods_cannot_use_is_refused(make: Callable[[], Registry], said: str) -> None:
    with pytest.raises(ConfigInvalid, match=re.escape(said)) as caught:
        make()
    assert "hunter2" not in caught.value.message


def test_more_replicas_are_started_by_a_metric_that_the_proxy_has() -> None:
    spec = examples.autoscaler(Installation(replicas=4, valkey=True))["spec"]
    assert (spec["minReplicas"], spec["maxReplicas"]) == (4, 8)
    metric = spec["metrics"][1]["pods"]["metric"]["name"]
    assert (metric, "gauge", ()) in [(each.name, each.kind, each.labels) for each in TABLE]


# --- Valkey -------------------------------------------------------------------------------------------------


def test_kubernetes_accepts_the_valkey() -> None:
    for document in valkey.documents(WITH_VALKEY):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_the_valkey_keeps_the_restricted_profile_and_is_reached_by_replicas_alone() -> None:
    template = pod(WITH_VALKEY, valkey.NAME)
    spec, (container,) = template["spec"], template["spec"]["containers"]
    assert (spec["securityContext"]["runAsNonRoot"], spec["automountServiceAccountToken"]) == (True, False)
    own = container["securityContext"]
    assert (own["readOnlyRootFilesystem"], own["allowPrivilegeEscalation"]) == (True, False)
    assert own["capabilities"] == {"drop": ["ALL"]}
    policy = one(WITH_VALKEY, "NetworkPolicy", valkey.NAME)["spec"]
    assert policy["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    ports = [{"protocol": "TCP", "port": valkey.PORT}]
    assert policy["ingress"] == [{"from": [PROXY], "ports": ports}]
    assert (policy["egress"], sorted(policy["policyTypes"])) == ([], ["Egress", "Ingress"])
    to = {"podSelector": policy["podSelector"]}
    assert one(WITH_VALKEY, "NetworkPolicy")["spec"]["egress"][-1] == {"to": [to], "ports": ports}


def test_there_is_one_valkey_at_a_time_which_no_sidecar_captures() -> None:
    deployment = one(WITH_VALKEY, "Deployment", valkey.NAME)["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert deployment["template"]["metadata"]["labels"]["sidecar.istio.io/inject"] == "false"


def test_the_commands_for_the_secret_have_one_password_for_both_sides() -> None:
    command = registry_secret(WITH_VALKEY)
    assert command is not None
    create = shlex.split(command.splitlines()[1])
    given = dict(each.removeprefix("--from-literal=").split("=", 1) for each in create[-2:])
    assert given == {
        "url": "redis://:$password@devroute-valkey:6379/0",
        "valkey.conf": "requirepass $password",
    }
    (volume,) = pod(WITH_VALKEY, valkey.NAME)["spec"]["volumes"]
    assert [each["key"] for each in volume["secret"]["items"]] == ["valkey.conf"], "not the proxy's"
    service = one(WITH_VALKEY, "Service", valkey.NAME)
    assert f"@{service['metadata']['name']}:{service['spec']['ports'][0]['port']}/" in given["url"]
    ProxySettings.model_validate({"registry": given["url"]})


@needs_redis
def test_a_server_takes_the_arguments_and_the_configuration_of_the_secret(tmp_path: Path) -> None:
    config = tmp_path / valkey.CONFIG_KEY
    config.write_text("requirepass letmein")
    _, _, *arguments = valkey.COMMAND
    with running_redis(tmp_path, str(config), "--port", "0", *arguments) as server:
        with pytest.raises(redis.AuthenticationError):
            server.client.ping()
        client = redis.Redis.from_url(server.url, password="letmein", decode_responses=True)
        found = client.config_get("save", "appendonly", "maxmemory", "maxmemory-policy")
        client.close()
    assert found == {
        "save": "",
        "appendonly": "no",
        "maxmemory": str(128 << 20),
        "maxmemory-policy": "noeviction",
    }


# --- all of it ----------------------------------------------------------------------------------------------


def test_the_check_finds_nothing_wrong_with_it() -> None:
    text = "\n---\n".join(file.text for file in base(WITH_VALKEY)[:-1])
    report = check(text, "mesh", {})
    assert [each for each in report.findings if each.severity == "error"] == []
    assert report.looked_at


def test_the_kustomization_lists_the_valkey() -> None:
    kustomization = next(
        yaml.safe_load(text) for path, text in files(WITH_VALKEY).items() if "base/kust" in path
    )
    assert "valkey.yaml" in kustomization["resources"]
