"""Each test has its own Envoy with empty caches; it starts in 0.1 s."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from devroute.mesh import envoy, testbed
from devroute.mesh.manifests.gateway_filter import EdgeSettings
from devroute.mesh.manifests.model import MeshScope
from tests.envoy.edge import AUDIENCE, EVERYBODY, ISSUER, Edge, Issuer, gateway
from tests.envoy.harness import Mesh, patient, release, sidecar_of_foo
from tests.support.istio_security import JwtRule


@pytest.fixture(autouse=True, scope="session")
def chosen_envoy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run all of these tests on another release: pytest tests/envoy --envoy PATH. Before the fixtures of any
    module."""
    with pytest.MonkeyPatch.context() as patch:
        if (binary := request.config.getoption("--envoy")) is not None:
            patch.setattr(envoy, "envoy_binary", lambda: binary)
        yield


@pytest.fixture(autouse=True, scope="session")
def patient_testbed() -> Iterator[None]:
    """Filters of the demo's testbed are for the Envoy that runs, and wait as long as those of the harness."""
    apply = testbed.apply
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(testbed, "apply", lambda *given: patient(apply(*given[:3], release())))
        yield


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with sidecar_of_foo(tmp_path, MeshScope()) as found:
        yield found


@pytest.fixture(scope="session")
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def closed(tmp_path: Path, issuer: Issuer) -> AsyncIterator[Edge]:
    """Lets contracts in by token only; a bad token counts as none."""
    async with gateway(
        tmp_path, EdgeSettings(), JwtRule(ISSUER, AUDIENCE, issuer.jwks, lenient=True)
    ) as edge:
        yield edge


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Edge]:
    async with gateway(tmp_path, EdgeSettings(networks=EVERYBODY)) as edge:
        yield edge
