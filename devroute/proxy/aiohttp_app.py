"""The aiohttp application of the control port: the API and the team's page, for people. Importing aiohttp is
expensive, so this module is imported for its first client (pages/lazy_server.py).
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
