"""An inspector of the test, over its real server."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from devroute.inspector.access import AccessControl
from devroute.inspector.inspection import Inspection
from devroute.inspector.port import InspectorPort
from devroute.inspector.state import InspectorState


@asynccontextmanager
async def serve_inspector(
    inspection: Inspection,
    renewed: Callable[[str], None],
    port: int | None = None,
    state: InspectorState | None = None,
) -> AsyncIterator[AccessControl]:
    """Arguments and errors as of InspectorPort."""
    opened = InspectorPort(inspection, renewed, port, state)
    try:
        opened.start()
        yield opened.access
    finally:
        await opened.close()
