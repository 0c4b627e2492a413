"""The environment of a container, as Kubernetes makes it, from manifests and from what kubectl prints."""

import base64
import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from devroute.agent.workload.downward import quantity, resource_of
from devroute.agent.workload.environment import WorkloadEnvironment, environment_of
from devroute.agent.workload.expansion import expand
from devroute.agent.workload.objects import Objects
from devroute.errors import ConfigInvalid
from tests.support.examples import examples


def deployment(
    name: str = "b", *, namespace: str = "shop", kind: str = "Deployment", **pod: Any
) -> dict[str, Any]:
    labels = {"app": pod.pop("app", name), "tier": "back"}
    metadata = {"labels": labels, "annotations": pod.pop("annotations", {})}
    containers = pod.pop("containers", [{"name": name, **pod}])
    template = {"metadata": metadata, "spec": {"containers": containers}}
    about = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": "apps/v1", "kind": kind, "metadata": about, "spec": {"template": template}}


def config(name: str, data: dict[str, Any], namespace: str = "shop") -> dict[str, Any]:
    return {"kind": "ConfigMap", "metadata": {"name": name, "namespace": namespace}, "data": data}


def secret(name: str, **data: str) -> dict[str, Any]:
    coded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}
    return {"kind": "Secret", "metadata": {"name": name, "namespace": "shop"}, "data": coded}


def read(*documents: dict[str, Any], name: str = "b", container: str | None = None) -> WorkloadEnvironment:
    objects = Objects(yaml.safe_dump_all(documents), "input")
    workload = objects.workload(name)
    return environment_of(objects, workload, objects.container(workload, container))


def variables(env: list[dict[str, Any]], *more: dict[str, Any], **pod: Any) -> WorkloadEnvironment:
    return read(deployment(env=env, **pod), *more)


def ref(kind: str, name: str, key: str, **more: Any) -> dict[str, Any]:
    return {"valueFrom": {kind: {"name": name, "key": key, **more}}}


# --- precedence ---------------------------------------------------------------------------------------------


def test_env_replaces_env_from_and_later_ones_replace_earlier_ones() -> None:
    first, second = (
        config("one", {"A": "one", "B": "one", "C": "one"}),
        config("two", {"B": "two", "C": "two"}),
    )
    found = read(
        deployment(
            envFrom=[{"configMapRef": {"name": "one"}}, {"configMapRef": {"name": "two"}}],
            env=[{"name": "C", "value": "own"}, {"name": "D", "value": "1"}, {"name": "D", "value": "2"}],
        ),
        first,
        second,
    )
    assert found.values == {"A": "one", "B": "two", "C": "own", "D": "2"}
    assert found.missing == found.notes == []


def test_a_prefix_stands_before_each_key_and_secrets_are_decoded() -> None:
    sources = [{"prefix": "DB_", "secretRef": {"name": "db"}}]
    found = read(deployment(envFrom=sources), secret("db", USER="ada", PASSWORD="it's $5"))
    assert found.values == {"DB_USER": "ada", "DB_PASSWORD": "it's $5"}


def test_references_are_expanded_once_and_only_in_values() -> None:
    found = variables(
        [
            {"name": "HOST", "value": "c.shop"},
            {"name": "URL", "value": "http://$(HOST):$(PORT)/$(LATER)?$$(HOST)"},
            {"name": "LATER", "value": "x"},
            {"name": "AGAIN", "value": "$(RAW)"},
            {"name": "KEY", **ref("configMapKeyRef", "c", "RAW")},
        ],
        config("c", {"PORT": "80", "RAW": "$(HOST)"}),
        envFrom=[{"configMapRef": {"name": "c"}}],
    )
    assert found.values["URL"] == "http://c.shop:80/$(LATER)?$(HOST)"
    assert found.values["AGAIN"] == found.values["KEY"] == "$(HOST)"
    assert found.missing == ["URL: refers to $(LATER), which nothing before it sets"]


def slowly(text: str, known: dict[str, str]) -> str:
    """As the kubelet's expansion reads it, character by character."""
    found, at = "", 0
    while at < len(text):
        if text[at] == "$" and text[at + 1 : at + 2] == "$":
            found, at = found + "$", at + 2
        elif text[at] == "$" and text[at + 1 : at + 2] == "(" and (end := text.find(")", at)) > 0:
            name = text[at + 2 : end]
            found, at = found + known.get(name, f"$({name})"), end + 1
        else:
            found, at = found + text[at], at + 1
    return found


@examples(200)
@given(text=st.text("$()AB x", max_size=14))
def test_expansion_is_that_of_kubernetes(text: str) -> None:
    known = {"A": "1", "B": "$(A)", "": "empty"}
    assert expand(text, known)[0] == slowly(text, known)


def test_a_long_text_of_open_references_takes_no_time() -> None:
    text = "$(" * 200_000
    assert expand(text, {}) == (text, [])
    assert expand(f"{text})", {"A": ""})[0] == f"{text})"


# --- what is missing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "missing"),
    [
        (ref("secretKeyRef", "db", "password"), "X: Secret 'db' is not in the input (key 'password')"),
        (ref("configMapKeyRef", "c", "no"), "X: ConfigMap 'c' has no such key (key 'no')"),
        (ref("configMapKeyRef", "c", "no", optional=True), None),
        (ref("secretKeyRef", "no", "no", optional=True), None),
        ({"value": 5}, "X: its value is no text; put it in quotes"),
        ({"valueFrom": {"fileKeyRef": {"key": "a"}}}, "X: devroute cannot read valueFrom: 'fileKeyRef'"),
        ({"valueFrom": {"fieldRef": {"fieldPath": "x"}}}, "X: there is no value for 'x' on a laptop"),
        (ref("configMapKeyRef", "c", "number"), "X: ConfigMap 'c' has no text as its key 'number'"),
    ],
)  # fmt: skip
def test_what_the_input_lacks_is_named_unless_it_is_optional(
    variable: dict[str, Any], missing: str | None
) -> None:
    found = variables([{"name": "X", **variable}], config("c", {"A": "1", "number": 5}))
    assert found.values == {}
    assert found.missing == ([] if missing is None else [missing])


def test_a_whole_map_that_is_missing_is_named_with_its_prefix() -> None:
    sources = [
        {"prefix": "P_", "configMapRef": {"name": "c"}},
        {"secretRef": {"name": "s", "optional": True}},
    ]
    found = read(deployment(envFrom=sources))
    assert found.missing == ["ConfigMap 'c' is not in the input (all its keys, with the prefix 'P_')"]


def test_no_message_holds_a_value_of_a_secret() -> None:
    broken = {"kind": "Secret", "metadata": {"name": "db"}, "data": {"a": "hunter2!", "b": 5, "c": "/w=="}}
    env = [{"name": each.upper(), **ref("secretKeyRef", "db", each)} for each in "abc"]
    found = variables(env, broken)
    assert found.values == {}
    assert len(found.missing) == 3
    assert "hunter2" not in str(found)
    with pytest.raises(ConfigInvalid) as caught:
        Objects("data: {password: hunter2, b: }}", "input")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_string_data_of_a_secret_counts_before_its_data() -> None:
    document = secret("db", a="old", b="kept") | {"stringData": {"a": "new"}}
    assert read(deployment(envFrom=[{"secretRef": {"name": "db"}}]), document).values == {
        "a": "new",
        "b": "kept",
    }


def test_maps_of_another_namespace_are_not_taken() -> None:
    other = config("c", {"A": "other"}, namespace="cart")
    source = [{"configMapRef": {"name": "c"}}]
    assert read(deployment(envFrom=source), other).values == {}
    assert read(deployment(envFrom=source), other, config("c", {"A": "own"})).values == {"A": "own"}
    assert read(deployment(envFrom=source, namespace=""), other).values == {"A": "other"}


# --- the downward API ---------------------------------------------------------------------------------------


def test_fields_of_the_pod_have_values_that_make_sense_on_a_laptop() -> None:
    paths = ["metadata.name", "metadata.namespace", "metadata.labels['tier']", "metadata.annotations['no']",
             "spec.nodeName", "status.podIP", "spec.serviceAccountName"]  # fmt: skip
    env = [{"name": f"F{n}", "valueFrom": {"fieldRef": {"fieldPath": path}}} for n, path in enumerate(paths)]
    found = variables(env)
    assert list(found.values.values()) == ["b-laptop", "shop", "back", "", "laptop", "127.0.0.1", "default"]
    assert found.notes == [
        "F0: metadata.name is b-laptop here",
        "F4: spec.nodeName is laptop here",
        "F5: status.podIP is 127.0.0.1 here",
    ]


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", "1", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", "1", str(512 << 20)),
        ("limits.memory", "1Mi", "512"),
        ("limits.memory", "1Gi", "1"),
        ("requests.cpu", "0", "2"),
        ("requests.memory", "1M", "64"),
        ("requests.ephemeral-storage", "1", "0"),
        ("limits.ephemeral-storage", "1", None),
        ("cpu", "1", None),
    ],
)
def test_resources_are_counted_in_divisors_rounded_up(resource: str, divisor: str, value: str | None) -> None:
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "512Mi"}, "requests": {"memory": "64e6"}}}
    found = resource_of(container, resource, divisor)
    assert (None if found is None else found.value) == value


def test_without_a_limit_it_is_what_the_machine_has() -> None:
    found = resource_of({}, "limits.cpu", "1")
    assert found is not None
    assert int(found.value) >= 1
    assert found.made_up


@pytest.mark.parametrize("text", ["", "1 Gi", "-1", "1x", "Gi", "1e999999999", "9" * 99, "."])
def test_what_is_no_quantity_is_none(text: str) -> None:
    assert quantity(text) is None


# --- which workload, which container ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["b", "b.shop", "deploy/b", "deployment/b.shop"]
)  # fmt: skip
def test_a_workload_is_found_by_name_kind_and_namespace(name: str) -> None:
    right = deployment(env=[{"name": "A", "value": "right"}])
    others = [deployment("c"), deployment("b-v2", app="c"), config("b", {})]
    assert read(*others, right, name=name).values == {"A": "right"}


@pytest.mark.parametrize("wrap", ["list", "json", "documents", "cron"])
def test_lists_documents_json_and_cron_jobs_are_read(wrap: str) -> None:
    one = deployment(env=[{"name": "A", **ref("configMapKeyRef", "c", "a")}])
    maps = config("c", {"a": "1"})
    if wrap == "cron":
        one = one | {"kind": "CronJob", "spec": {"jobTemplate": {"spec": one["spec"]}}}
    items = [one, {"kind": "ConfigMapList", "items": [maps]}]
    text = {
        "list": yaml.safe_dump({"kind": "List", "items": items}),
        "json": json.dumps({"kind": "List", "items": items}),
    }.get(wrap, yaml.safe_dump_all(items))
    objects = Objects(text, "input")
    workload = objects.workload("b")
    assert environment_of(objects, workload, objects.container(workload, None)).values == {"A": "1"}


def test_an_app_is_found_by_its_label_and_what_it_owns_does_not_count() -> None:
    versioned = deployment("b-v1", app="b", env=[{"name": "A", "value": "1"}])
    replica_set = deployment("b-v1-abc", app="b", kind="ReplicaSet")
    replica_set["metadata"]["ownerReferences"] = [{"name": "b-v1"}]
    assert read(versioned, replica_set).values == {"A": "1"}
    with pytest.raises(ConfigInvalid, match=r"'b' is Deployment b-v1 in shop, Deployment b-v2 in shop"):
        read(versioned, deployment("b-v2", app="b"))


def test_a_name_that_is_not_there_is_answered_with_those_that_are() -> None:
    with pytest.raises(ConfigInvalid, match=r"no workload 'x'; it has Deployment b in shop"):
        read(deployment(), name="x")
    with pytest.raises(ConfigInvalid, match="it has no workload at all"):
        read(config("b", {}))
    with pytest.raises(ConfigInvalid, match="standard input: it is empty"):
        Objects("\n", "standard input").workload("b")


def test_sidecars_and_init_containers_are_not_meant() -> None:
    own, proxy = {"name": "main", "env": [{"name": "A", "value": "1"}]}, {"name": "istio-proxy"}
    two = [own, {"name": "other"}, proxy]
    assert read(deployment(containers=[proxy, own])).values == {"A": "1"}
    assert read(deployment(containers=two), container="main").values == {"A": "1"}
    named = {"kubectl.kubernetes.io/default-container": "main"}
    assert read(deployment(containers=two, annotations=named)).values == {"A": "1"}
    with pytest.raises(ConfigInvalid, match="has the containers main, other, istio-proxy"):
        read(deployment(containers=two))
    with pytest.raises(ConfigInvalid, match="has no container 'x'; it has main, other, istio-proxy"):
        read(deployment(containers=two), container="x")


#: Keys that mean something in a manifest.
KEYS = [
    *("kind", "metadata", "name", "spec", "template", "containers", "items", "data", "key", "value", "env"),
    *("envFrom", "valueFrom", "secretRef", "configMapKeyRef", "fieldRef", "resourceFieldRef"),
]
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text("aA$()={}", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=25,
)


@examples(60)
@given(found=SHAPES)
def test_input_of_any_shape_is_read_or_refused(found: Any) -> None:
    documents = [found, deployment(env=found, envFrom=found), config("c", found)]
    objects = Objects(yaml.safe_dump_all(documents), "input")
    workload = objects.workload("b")
    environment_of(objects, workload, objects.container(workload, None))
