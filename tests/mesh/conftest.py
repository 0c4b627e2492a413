"""Each test has an Envoy of its own, with an empty cache; it starts in 0.1 s."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from devroute.manifests import MeshScope

from .harness import Mesh, sidecar_of_foo


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    async with sidecar_of_foo(tmp_path, MeshScope()) as found:
        yield found
