"""HTTP/2 to an upstream, for processes that may never need it: to import h2 and what is built on it is a
twentieth of what `devroute up` does until it is online, and 1.5 MiB.
"""

from typing import TYPE_CHECKING

from devroute.tasks import import_in_thread
from devroute.upstream.dialer import Dialer

if TYPE_CHECKING:
    from devroute.upstream.http2_pool import Http2Pool


async def load_http2() -> None:
    """Import it, unless that was done; requests that need nothing of it go on meanwhile. Raises
    ImportError."""
    await import_in_thread("devroute.upstream.http2_pool")


def new_pool(dialer: Dialer, max_in_flight: int) -> "Http2Pool":
    """Imports it, if need be."""
    from devroute.upstream.http2_pool import Http2Pool

    return Http2Pool(dialer, max_in_flight)
