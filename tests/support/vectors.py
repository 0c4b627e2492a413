"""The vectors that the sidecar's filters and the proxy share (devroute/routing/SIDECAR.md)."""

import json
from typing import Any

from tests.support.paths import VECTORS


def vectors(file: str, key: str = "cases") -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = json.loads((VECTORS / "sidecar" / file).read_text())[key]
    return cases
