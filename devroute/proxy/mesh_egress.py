"""The way from the proxy to the services of the mesh, for failover."""

from devroute.proxy.settings import ProxySettings
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool


def mesh_upstream(settings: ProxySettings) -> Http1Pool | None:
    """The upstream of the real services: a listener of the proxy's own sidecar. Policy does not judge it,
    since the setting accepts loopback addresses only."""
    if (egress := settings.mesh_egress) is None:
        return None
    dialer = Dialer(
        egress.host, egress.port, permit=lambda ip, port: None, connect_timeout=settings.connect_timeout
    )
    return Http1Pool(dialer, settings.max_in_flight)
