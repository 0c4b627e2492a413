"""`istioctl validate` of everything that devroute ships or prints: what Istio's webhook would refuse.

It needs no cluster, only istioctl, which `make test-istio` builds.
"""

import contextlib
import io
import itertools
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from devroute.cli.main import run
from tests.support.go_programs import ISTIO, folder_of, is_built
from tests.support.paths import ROOT

pytestmark = [
    pytest.mark.istio,
    pytest.mark.skipif(
        not is_built(ISTIO), reason="istioctl is not built: python -m tests.support.go_programs istio"
    ),
]

SCOPES = (
    ("--scope", "mesh"),
    ("--scope", "namespace", "--namespace", "shop"),
    ("--scope", "workload", "--namespace", "shop", "--service", "foo"),
    ("--scope", "workload", "--namespace", "shop", "--service", "foo", "--label", "tier=front"),
)
SHARES = ((), ("--shadow-share", "25"), ("--by-trace-id",))
INSTALL_OPTIONS = (
    ("--namespace", "tools"),
    ("--image", "images.example/devroute:1"),
    ("--replicas", "3", "--registry", "redis://redis.tools:6379/0"),
    ("--network", "10.8.0.0/16", "--network", "fd00::/48"),
    ("--service", "foo", "--service", "team-*"),
    ("--pod-network", "10.1.0.0/16"),
    ("--service-network", "10.2.0.0/16"),
    ("--host", "devroute.corp.example"),
    ("--ingress", "gateways/public"),
    ("--revision", "canary"),
    ("--istio-namespace", "mesh"),
    ("--monitoring-namespace", "prometheus"),
    ("--domain", "corp.example"),
    ("--scope", "namespace", "--scope-namespace", "shop"),
    ("--outlier-detection", "foo.shop:8080", "--outlier-detection", "bar.shop:80=client"),
    ("--no-mesh-egress",),
    ("--carrier", "x-acme-context", "--carrier", "tracestate", "--sampled"),
)
EDGE_OPTIONS = (
    ("--namespace", "gateways"),
    ("--label", "istio=public"),
    ("--issuer", "https://id.example"),
    ("--issuer", "https://id.example", "--audience", "qa"),
    ("--issuer", "https://id.example", "--jwks", "https://id.example/keys"),
    ("--claim", "realm.roles"),
    ("--claim-value", "qa"),
    ("--network", "10.8.0.0/16"),
    ("--no-signed",),
    ("--cookie-seconds", "60"),
    ("--cookie-domain", "qa.example"),
    ("--cookie-same-site", "none"),
    ("--carrier", "x-acme-context"),
    ("--proxy-namespace", "tools"),
    ("--domain", "corp.example"),
)


def printed() -> Iterator[Sequence[str]]:
    """Command lines after `devroute manifests`: the filter's options in all combinations, those of the
    installation alone, in pairs, and all together."""
    for scope, share in itertools.product(SCOPES, SHARES):
        if not share or "workload" in scope:
            yield (*scope, *share)
    for count in (0, 1, 2, len(INSTALL_OPTIONS)):
        for chosen in itertools.combinations(INSTALL_OPTIONS, count):
            yield ("install", *itertools.chain.from_iterable(chosen))
    yield ("install", "--replicas", "3", "--valkey")
    for count in (0, 1, 2, len(EDGE_OPTIONS)):
        for chosen in itertools.combinations(EDGE_OPTIONS, count):
            yield ("edge", *itertools.chain.from_iterable(chosen))
    yield ("versions", "foo=v1,v2", "bar.shop=v3")
    yield ("versions", "foo=v1", "--namespace", "shop", "--domain", "corp.example")


def validate(*files: Path) -> str:
    """What istioctl complains of, or nothing."""
    istioctl = folder_of(ISTIO) / "istioctl"
    options = itertools.chain.from_iterable(("-f", file) for file in files)
    done = subprocess.run(
        [istioctl, "validate", *options], capture_output=True, text=True, timeout=120, check=False
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


def output_of(arguments: Sequence[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        assert run(["manifests", *arguments], {}) == 0, arguments
    return output.getvalue()


@pytest.mark.parametrize("folder", ["base", "examples"])
def test_the_shipped_manifests_are_valid(folder: str) -> None:
    files = [
        each for each in (ROOT / "manifests" / folder).glob("*.yaml") if each.name != "kustomization.yaml"
    ]
    assert files
    assert validate(*files) == ""


def test_all_that_the_command_prints_is_valid(tmp_path: Path) -> None:
    """In one run of istioctl, since each takes a second."""
    printed_by = {}
    for number, arguments in enumerate(printed()):
        file = tmp_path / f"{number}.yaml"
        file.write_text(output_of(arguments))
        printed_by[file] = arguments
    assert len(printed_by) > 50
    complaint = validate(*printed_by)
    assert complaint == "", [arguments for file, arguments in printed_by.items() if str(file) in complaint]


@pytest.mark.parametrize("folder", ["base", "examples"])
def test_every_example_of_an_installation_with_all_options_is_valid(folder: str, tmp_path: Path) -> None:
    options = itertools.chain.from_iterable(INSTALL_OPTIONS)
    output_of(["install", *options, "--folder", str(tmp_path)])
    files = [each for each in (tmp_path / folder).glob("*.yaml") if each.name != "kustomization.yaml"]
    assert files
    assert validate(*files) == ""


def test_istioctl_refuses_what_is_wrong(tmp_path: Path) -> None:
    """An Any without a type, as devroute once shipped it."""
    text = (ROOT / "manifests" / "base" / "envoyfilter.yaml").read_text()
    typed = (
        "'@type': type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
    )
    assert typed in text
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace(typed, "{}"))
    assert "doesn't have '@type'" in validate(wrong)
