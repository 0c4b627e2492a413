"""The ways from the proxy to the services of the mesh: for failover, and for what laptops reach."""

from typing import Final

from devroute.proxy.settings import ProxySettings
from devroute.upstream.dialer import Dialer
from devroute.upstream.http1_pool import Http1Pool
from devroute.upstream.http2_pool import Http2Pool
from devroute.upstream.negotiating import NegotiatingUpstream

#: Requests of all laptops into the mesh: no bound of its own, since each subject has one
#: (`max_reach_per_subject`).
MAX_REACHING: Final = 1_000_000


def reach_upstream(settings: ProxySettings) -> NegotiatingUpstream | None:
    """The same listener for what laptops reach: gRPC needs HTTP/2, and others keep the version that they
    speak."""
    dialer = _egress_dialer(settings)
    if dialer is None:
        return None
    return NegotiatingUpstream(dialer, MAX_REACHING, Http2Pool(dialer, MAX_REACHING))


def mesh_upstream(settings: ProxySettings) -> Http1Pool | None:
    """The upstream of the real services: a listener of the proxy's own sidecar. Policy does not judge it,
    since the setting accepts loopback addresses only."""
    dialer = _egress_dialer(settings)
    return None if dialer is None else Http1Pool(dialer, settings.max_in_flight)


def _egress_dialer(settings: ProxySettings) -> Dialer | None:
    if (egress := settings.mesh_egress) is None:
        return None
    return Dialer(
        egress.host, egress.port, permit=lambda ip, port: None, connect_timeout=settings.connect_timeout
    )
