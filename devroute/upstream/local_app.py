"""The upstream of an app on the laptop, by the scheme of its address: HTTP or gRPC, cleartext or TLS.

A certificate is verified unless the app is on this machine: there it is self-signed, and no one else can
listen in between.
"""

import ipaddress
import ssl
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

from devroute.contract.service_spec import ServiceSpec
from devroute.errors import AppUnreachable
from devroute.upstream.address_pool import MAX_IN_FLIGHT
from devroute.upstream.dialer import Dialer
from devroute.upstream.lazy_http2 import load_http2, new_pool
from devroute.upstream.negotiating import NegotiatingUpstream

if TYPE_CHECKING:
    from devroute.upstream.http2_pool import Http2Pool


def local_app(spec: ServiceSpec, retry_refused: float = 0.0) -> "NegotiatingUpstream | Http2Pool":
    """Makes no connection yet. `retry_refused`: seconds (upstream/dialer.py)."""
    dialer = _dialer(spec, retry_refused)
    return new_pool(dialer, MAX_IN_FLIGHT) if _only_http2(spec) else NegotiatingUpstream(dialer)


def local_http2(spec: ServiceSpec) -> "Http2Pool":
    """Another upstream of the same app, for HTTP/2 only, with connections of its own."""
    return new_pool(_dialer(spec, 0.0), MAX_IN_FLIGHT)


async def load_for(specs: Iterable[ServiceSpec]) -> None:
    """What local_app needs for these, while requests go on."""
    if any(map(_only_http2, specs)):
        await load_http2()


def _only_http2(spec: ServiceSpec) -> bool:
    return spec.scheme in ("grpc", "grpcs")


def _dialer(spec: ServiceSpec, retry_refused: float) -> Dialer:
    verify = not is_loopback(spec.host)
    tls = (lambda protocol: _context(protocol, verify)) if spec.tls else None
    return Dialer(spec.host, spec.port, unreachable=AppUnreachable, tls=tls, retry_refused=retry_refused)


def is_loopback(host: str) -> bool:
    """Whether a host names this machine, without a lookup."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@cache
def _context(protocol: str, verify: bool) -> ssl.SSLContext:
    """`protocol`: for ALPN (RFC 7301), "http/1.1" or "h2"."""
    context = ssl.create_default_context()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([protocol])
    return context
