"""The inspector's HTTP API, a module for each part. A new part is a class that gets the Inspection and has
`routes()`; it is listed in `add_api`.

Called by inspector/server.py, and by agent/control/api.py for other processes of the user: they control
access, and refusals.py turns each DevrouteError into a response.
"""

from typing import Final

from aiohttp import web

from devroute.inspector.api.captures import Captures
from devroute.inspector.api.events import Events
from devroute.inspector.api.har import HarFiles
from devroute.inspector.api.messages import Messages
from devroute.inspector.api.rules import Rules
from devroute.inspector.api.search import Search
from devroute.inspector.inspection import Inspection

#: Bytes of an imported file: the limit of all captures, plus JSON.
MAX_UPLOAD: Final = 64 * 1024 * 1024


def add_api(app: web.Application, inspection: Inspection) -> None:
    """Add the API of this inspection to an application."""
    events = Events(inspection)
    parts = Captures(inspection), Messages(inspection), Search(inspection), HarFiles(inspection), events
    for part in (*parts, Rules(inspection)):
        app.router.add_routes(part.routes())
    app.on_shutdown.append(events.end)
