"""`devroute manifests edge`, run in this process."""

from typing import Any

import pytest
import yaml

from devroute.cli.main import run
from devroute.mesh.manifests.examples import edge
from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_source
from devroute.mesh.manifests.installation import Installation

Output = pytest.CaptureFixture[str]


def devroute(*arguments: str) -> int:
    return run(["manifests", "edge", *arguments], {})


def printed(capsys: Output) -> list[dict[str, Any]]:
    return list(yaml.load_all(capsys.readouterr().out, yaml.CSafeLoader))


def test_with_an_issuer_it_prints_the_example(capsys: Output) -> None:
    assert devroute("--issuer", "https://id.example") == 0
    assert printed(capsys) == edge(Installation())


def test_each_option_is_in_the_filter(capsys: Output) -> None:
    options = {
        "--namespace": "ingress",
        "--label": "app=gateway",
        "--claim": "realm_access.roles",
        "--claim-value": "qa",
        "--network": "10.8.0.0/16",
        "--cookie-seconds": "60",
        "--cookie-domain": "qa.example",
        "--cookie-same-site": "none",
        "--proxy-namespace": "tools",
        "--domain": "corp.example",
    }
    assert devroute("--no-signed", *(word for option in options.items() for word in option)) == 0
    (document,) = printed(capsys)
    settings = EdgeSettings(
        claim=("realm_access", "roles"),
        claim_value="qa",
        networks=("10.8.0.0/16",),
        signed=False,
        cookie_seconds=60,
        cookie_domain="qa.example",
        cookie_same_site="None",
        control="outbound|8081||devroute-proxy.tools.svc.corp.example",
    )
    codes = [each["patch"]["value"].get("typed_config", {}) for each in document["spec"]["configPatches"]]
    sources = [each.get("default_source_code", {}).get("inline_string") for each in codes]
    assert edge_source(settings) in sources
    assert document["metadata"]["namespace"] == "ingress"
    assert document["spec"]["workloadSelector"] == {"labels": {"app": "gateway"}}


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--label", "app"], 2, "write KEY=VALUE"),
        (["--cookie-same-site", "strict"], 2, "'strict' is not one of lax, none"),
        (["--cookie-domain", "https://qa.example"], 20, "a cookie's domain 'https://qa.example'"),
        (["--cookie-domain", "qa"], 20, "a cookie's domain 'qa'"),
        (["--audience", "qa"], 2, "only applies with --issuer"),
        (["--jwks", "https://id.example/keys"], 2, "only applies with --issuer"),
        (["--issuer", "id.example"], 2, "--issuer: write a URL that begins with https://"),
        (["--issuer", ""], 2, "--issuer: write a URL that begins with https://"),
        (["--issuer", "id.example", "--jwks", "id.example/keys"], 2, "--jwks: write a URL"),
        (["--network", "10.0.0.1"], 20, "usually written 10.0.0.1/32"),
    ],
)
def test_an_option_that_is_wrong_is_named(
    arguments: list[str], status: int, said: str, capsys: Output
) -> None:
    assert devroute(*arguments) == status
    assert said in capsys.readouterr().err
