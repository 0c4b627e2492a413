"""The team's page as aiohttp serves it: who may use it, and its handlers, over the state of dashboard.py."""

from aiohttp import web

from devroute.proxy.dashboard.access import Access
from devroute.proxy.dashboard.admin import Admin
from devroute.proxy.dashboard.dashboard import Dashboard
from devroute.proxy.dashboard.handlers import Handlers


def routes(dashboard: Dashboard) -> list[web.RouteDef]:
    identities, policy = dashboard.config.identities, dashboard.config.policy
    shared, record = dashboard.shared, dashboard.record
    access = Access(identities.authenticate, identities.check_current, shared, record)
    admin = Admin(access, policy, dashboard.tunnels, identities.blocks, shared, record)
    handlers = Handlers(access, admin, dashboard.live, dashboard.about, record)
    return [*handlers.routes(), *admin.routes()]
