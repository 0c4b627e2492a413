"""What people ask the control port for: the API and the team's page. It imports aiohttp, so it is itself
imported for its first client (pages/lazy_server.py).
"""

from aiohttp import web

from devroute.proxy.control import api, http
from devroute.proxy.control.control import Control
from devroute.proxy.dashboard import pages
from devroute.proxy.dashboard.dashboard import Dashboard

connections = http.connections


def create_runner(control: Control, dashboard: Dashboard) -> web.AppRunner:
    """Serves all paths of the port, also those of sidecars."""
    return http.create_runner(api.create_app(control, pages.routes(dashboard)))
