"""DestinationRules from versions by hand and from pods' labels."""

import json

import pytest
import yaml

from devroute.errors import ConfigInvalid
from devroute.mesh.manifests.destination_rules import MAX_REMARKS, from_arguments, from_pods, subset_name


def pod(
    labels: dict[str, str] | None, name: str = "p", namespace: str = "shop", **status: str
) -> dict[str, object]:
    metadata: dict[str, object] = {"name": name, "namespace": namespace}
    if labels is not None:
        metadata["labels"] = labels
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status}


def listed(*pods: dict[str, object]) -> str:
    return yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": list(pods)})


def test_versions_by_hand_become_subsets() -> None:
    found = from_arguments(["foo=v2,v1", "bar.shop=v3"], "qa")
    foo, bar = found.rules()
    assert found.remarks == []
    assert foo["spec"] == {
        "host": "foo.qa.svc.cluster.local",
        "subsets": [
            {"name": "v1", "labels": {"version": "v1"}},
            {"name": "v2", "labels": {"version": "v2"}},
        ],
    }
    assert (foo["metadata"]["namespace"], bar["metadata"]["namespace"]) == ("qa", "shop")
    assert bar["spec"]["host"] == "bar.shop.svc.cluster.local"


def test_a_services_full_name_is_understood() -> None:
    (rule,) = from_arguments(["foo.shop.svc.cluster.local=v1"]).rules("corp.example")
    assert rule["spec"]["host"] == "foo.shop.svc.corp.example"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("foo", "write SERVICE=VERSION,VERSION"),
        ("foo=", "write SERVICE=VERSION,VERSION"),
        ("foo=,", "write SERVICE=VERSION,VERSION"),
        ("=v1", "a service's name consists of"),
        ("a.b.c=v1", "too many dots"),
        ("Foo=v1", "write foo"),
        ("foo.Shop=v1", "a namespace consists of"),
    ],
)
def test_an_argument_that_is_wrong_is_named(argument: str, said: str) -> None:
    with pytest.raises(ConfigInvalid, match=said) as caught:
        from_arguments([argument])
    assert f"'{argument}'" in caught.value.message


@pytest.mark.parametrize(
    ("version", "name"),
    [("v1", "v1"), ("v1.2_3", "v1-2-3"), ("V2", "v2"), ("-v", None), ("a b", None), ("v" * 64, None)],
)
def test_a_subsets_name_is_a_dns_label(version: str, name: str | None) -> None:
    assert subset_name(version) == name


def test_a_version_with_dots_keeps_its_label_and_gets_a_subset_name() -> None:
    found = from_arguments(["foo=v1.2"])
    assert found.rules()[0]["spec"]["subsets"] == [{"name": "v1-2", "labels": {"version": "v1.2"}}]
    (remark,) = found.remarks
    assert "version:v1-2" in remark


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["foo=v1,v1"], "version v1 is given twice"),
        (["foo=v1", "foo=v2"], "foo.default is given twice"),
        (["foo=v1.2,v1-2"], "version=v1-2 would be the subset v1-2, which is version=v1.2: left out"),
        (["foo=v1,a b"], "'a b' cannot be a subset's name: left out"),
    ],
)
def test_repeated_and_invalid_versions_get_a_remark(arguments: list[str], said: str) -> None:
    found = from_arguments(arguments)
    assert any(said in remark for remark in found.remarks)
    names = [each["name"] for each in found.rules()[0]["spec"]["subsets"]]
    assert len(names) == len(set(names))


def test_pods_become_subsets_by_the_labels_that_istio_goes_by() -> None:
    found = from_pods(
        listed(
            pod({"app": "foo", "version": "v1"}, "a"),
            pod({"app": "foo", "version": "v1"}, "b"),
            pod({"app": "foo", "version": "v2"}, "c"),
            pod({"app.kubernetes.io/name": "bar", "app.kubernetes.io/version": "3", "app": "x"}, "d", "qa"),
        )
    )
    bar, foo = found.rules()
    assert found.remarks == [], "replicas are no news"
    assert foo["spec"]["host"] == "foo.shop.svc.cluster.local"
    assert [each["name"] for each in foo["spec"]["subsets"]] == ["v1", "v2"]
    assert bar["spec"]["subsets"] == [{"name": "3", "labels": {"app.kubernetes.io/version": "3"}}]


def test_json_single_pods_several_documents_and_templates_are_accepted() -> None:
    one = pod({"app": "foo", "version": "v1"})
    template = {
        "kind": "Deployment",
        "metadata": {"name": "d", "namespace": "shop"},
        "spec": {"template": {"metadata": {"labels": {"app": "foo", "version": "v2"}}, "spec": {}}},
    }
    assert (
        from_pods(json.dumps({"kind": "List", "items": [one]})).subsets
        == from_pods(yaml.safe_dump(one)).subsets
    )
    found = from_pods(yaml.safe_dump_all([one, template]))
    assert [each["name"] for each in found.rules()[0]["spec"]["subsets"]] == ["v1", "v2"]


def test_a_version_that_looks_like_a_number_stays_text() -> None:
    found = from_pods("kind: Pod\nmetadata: {name: a, labels: {app: foo, version: 1.10}}\n")
    assert found.rules()[0]["spec"]["subsets"] == [{"name": "1-10", "labels": {"version": "1.10"}}]


@pytest.mark.parametrize(
    ("left_out", "said"),
    [
        (pod({"app": "foo"}), "none of the labels service.istio.io/canonical-revision"),
        (pod({"version": "v9"}), "none of the labels service.istio.io/canonical-name"),
        (pod(None), "none of the labels"),
        (pod({"app": "my.app", "version": "v9"}), "app=my.app consists of a-z, 0-9 and inner hyphens"),
        (pod({"app": "foo", "version": ""}), "version '' cannot be a subset's name"),
        (pod({"app": "foo", "version": "v9"}, phase="Succeeded"), "1 of 2 objects are not running pods"),
        ({"kind": "ConfigMap", "metadata": {"name": "c"}}, "1 of 2 objects are not running pods"),
    ],
)
def test_a_pod_that_cannot_be_used_is_left_out_with_a_remark(left_out: dict[str, object], said: str) -> None:
    found = from_pods(listed(pod({"app": "foo", "version": "v1"}), left_out))
    assert [each["name"] for each in found.rules()[0]["spec"]["subsets"]] == ["v1"]
    (remark,) = found.remarks
    assert said in remark


def test_remarks_about_a_thousand_pods_are_counted_and_not_printed() -> None:
    found = from_pods(listed(*(pod({"app": "foo"}, f"p{number}") for number in range(1000))))
    assert len(found.remarks) == MAX_REMARKS + 1
    assert found.remarks[-1] == f"and {1000 - MAX_REMARKS} more pods are left out"


@pytest.mark.parametrize(
    "text", ["", "[]", "a: [", "kind: ConfigMap", "just words", "{'items': []}", "items: 3"]
)
def test_input_without_pods_is_an_error_with_a_hint(text: str) -> None:
    with pytest.raises(ConfigInvalid) as caught:
        from_pods(text)
    assert "kubectl get pods -o yaml" in caught.value.hint
