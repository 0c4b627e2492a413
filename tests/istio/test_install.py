"""The shipped manifests against the real API server: Istio's and Gateway API's CRDs, istiod's webhook."""

import re
from collections.abc import Iterable, Iterator

import pytest
import yaml

from tests.istio.kubernetes import Document, Refused
from tests.istio.rig import Rig, documents
from tests.istio.test_validate import output_of, printed
from tests.support.istio_cases import CASES
from tests.support.paths import ROOT

pytestmark = pytest.mark.istio

#: Of programs that are not installed here.
FOREIGN = ("monitoring.coreos.com/",)


def known(found: Iterable[Document]) -> Iterator[Document]:
    return (each for each in found if not each["apiVersion"].startswith(FOREIGN))


@pytest.mark.parametrize("folder", ["base", "examples"])
async def test_the_shipped_manifests_are_accepted(mesh: Rig, folder: str) -> None:
    files = [
        each for each in (ROOT / "manifests" / folder).glob("*.yaml") if each.name != "kustomization.yaml"
    ]
    assert files
    for file in files:
        await accepted(mesh, documents(file))


async def test_all_that_the_command_prints_is_accepted(mesh: Rig) -> None:
    seen = set()
    for arguments in printed():
        for document in yaml.load_all(output_of(arguments), yaml.CSafeLoader):
            text = yaml.safe_dump(document)
            if text not in seen:
                seen.add(text)
                await accepted(mesh, [document])
    assert len(seen) > 50


async def accepted(mesh: Rig, found: list[Document]) -> None:
    """By CRD schemas and the webhook; nothing is stored. In namespaces that exist, as the server wants it."""
    for document in known(found):
        metadata = document["metadata"]
        if "namespace" in metadata:
            document = {**document, "metadata": {**metadata, "namespace": "default"}}
        await mesh.kubernetes.apply([document], dry_run=True)


async def test_the_webhook_refuses_an_any_without_a_type(mesh: Rig) -> None:
    (envoy_filter,) = documents(mesh.installed / "base" / "envoyfilter.yaml")[:1]
    text = re.sub(r"'@type': \S*HeaderMutationPerRoute", "{}", yaml.safe_dump(envoy_filter))
    with pytest.raises(Refused, match="doesn't have '@type'"):
        await mesh.kubernetes.apply([yaml.safe_load(text)], dry_run=True)


async def test_the_server_refuses_what_manifests_check_is_held_to(mesh: Rig) -> None:
    """CRDs, strict fields and webhook, as tests/support/istio_cases.py has it."""
    wrong = []
    for case in CASES:
        try:
            await mesh.kubernetes.apply([case.document], dry_run=True)
            refused = ""
        except Refused as error:
            refused = str(error)
        if bool(refused) != case.server:
            wrong.append((case.kind, case.name, refused))
    assert wrong == []


async def test_istioctl_analyze_has_nothing_to_say_of_devroute(mesh: Rig) -> None:
    """It reports the cluster's own oddities, such as sidecars without an image, and of every EnvoyFilter that
    it depends on internals (IST0133)."""
    lines = mesh.plane.analyze().splitlines()
    assert any("IST0133" in line for line in lines), lines
    assert [line for line in lines if "devroute" in line and "IST0133" not in line] == []
