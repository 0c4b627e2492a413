"""Failures of a laptop eject no pod, and what it declines reaches the service through the mesh."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import yaml

from tests.istio.changes import applied, drained, live
from tests.istio.kubernetes import Document
from tests.istio.rig import Rig
from tests.istio.test_validate import output_of
from tests.istio.topology import APP_PORT, HOST
from tests.support.eventually import eventually

pytestmark = pytest.mark.istio

ENOUGH = 16


def outlier_detection() -> Document:
    """For all who call c, which has one pod: five errors in a row eject it."""
    detection = {
        "consecutive5xxErrors": 5,
        "consecutiveGatewayErrors": 5,
        "interval": "1s",
        "baseEjectionTime": "60s",
        "maxEjectionPercent": 100,
    }
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "DestinationRule",
        "metadata": {"name": "c", "namespace": "shop"},
        "spec": {"host": "c.shop.svc.cluster.local", "trafficPolicy": {"outlierDetection": detection}},
    }


@asynccontextmanager
async def detecting(mesh: Rig) -> AsyncIterator[None]:
    """Outlier detection for c, with what an installation has for it."""
    printed = yaml.load_all(output_of(["install", "--outlier-detection", "c.shop:80"]), yaml.CSafeLoader)
    matchers = [each for each in printed if each["metadata"]["name"] == "devroute-outlier-detection"]
    assert matchers
    async with applied(mesh, [outlier_detection(), *matchers]):
        await live(mesh, ["b1"], "consecutive_5xx")
        await live(mesh, ["b1"], "error_matcher")
        yield
    await live(mesh, ["b1"], "error_matcher", gone=True)


@pytest.mark.parametrize(
    ("contract", "path"),
    [
        ({"c": "alice"}, "status/500"),
        ({"c": "alice"}, "status/503"),
        ({"c": {"to": "alice", "abort": 503}}, "x"),
    ],
    ids=["500 of a laptop", "503 of a laptop", "abort"],
)
async def test_a_laptop_s_errors_eject_no_pod(mesh: Rig, contract: object, path: str) -> None:
    async with detecting(mesh):
        failed = [(await mesh.ask("b1", f"http://c/{path}", contract)).status for _ in range(ENOUGH)]
        plain = [(await mesh.ask("b1", "http://c/x")).status for _ in range(10)]
    assert min(failed) >= 500
    assert plain == [200] * 10


async def test_a_pod_s_own_errors_still_eject_it(mesh: Rig) -> None:
    async with detecting(mesh):
        for _ in range(ENOUGH):
            await mesh.ask("b1", "http://c/status/500", {"c": {"to": "alice", "methods": ["POST"]}})

        async def ejected() -> bool:
            return (await mesh.ask("b1", "http://c/x")).status == 503

        await eventually(ejected, "no healthy upstream")

    async def back() -> bool:
        return (await mesh.ask("b1", "http://c/x")).status == 200

    await eventually(back, "c again")


@pytest.mark.parametrize("version", ["--http2", "--http1.1"])
async def test_the_control_port_takes_both_http_versions(mesh: Rig, version: str) -> None:
    written = ["-o", "/dev/null", "-w", "%{http_code} %{http_version}"]
    said = mesh.pods["alice"].run("curl", "-sk", version, *written, f"https://{HOST}/api/laptops")
    assert said == f"401 {version.removeprefix('--http')}"


async def test_a_declined_request_reaches_the_service_through_the_mesh(mesh: Rig) -> None:
    async with mesh.laptop("bob", f"a={APP_PORT}", "--name", "bob--declines", "--except-status", "404"):
        response = await mesh.ask("web", "http://a/missing/laptop", {"a": "bob--declines"})
    assert (response.status, response.app) == (200, "a"), response


async def test_the_laptop_s_response_stands_where_a_failover_is_refused(mesh: Rig) -> None:
    """A headless service, and a policy that names callers: the request would come from devroute's proxy."""
    marker = "ns/shop/sa/a-caller-of-a"
    policy: Document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "AuthorizationPolicy",
        "metadata": {"name": "callers", "namespace": "shop"},
        "spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "rules": [
                {
                    "from": [
                        {
                            "source": {
                                "principals": ["cluster.local/ns/shop/sa/web", f"cluster.local/{marker}"]
                            }
                        }
                    ]
                }
            ],
        },
    }
    offers = [f"a={APP_PORT}", f"h={APP_PORT}"]
    async with (
        applied(mesh, [policy]),
        mesh.laptop("bob", *offers, "--name", "bob--declines", "--except-status", "404"),
    ):
        await live(mesh, ["a"], marker)
        await drained(mesh, ["a"])  # a connection made before knows no policy
        responses = [
            await mesh.ask("web", "http://a/missing/laptop", {"a": "bob--declines"}),
            await mesh.ask("web", "http://h:8080/missing/laptop", {"h": "bob--declines"}),
        ]
    await live(mesh, ["a"], marker, gone=True)
    for response in responses:
        assert (response.status, response.app) == (404, "laptop-bob"), response
        assert response.reason
