"""The TLS context of a laptop's connections to the proxy."""

import ssl
import time
from pathlib import Path

from devroute.agent.settings import ClientSettings
from devroute.auth.tls import client_context
from devroute.errors import ConfigInvalid, TokenExpired


def tls_for_server(settings: ClientSettings) -> ssl.SSLContext | None:
    """What is needed to talk to the server of these settings, None for plain http. Raises ConfigInvalid, and
    TokenExpired for a client certificate that no server would take: all it said is that TLS failed."""
    if not settings.server.startswith(("https:", "wss:")):
        return None
    context = client_context(settings.ca_file, settings.client_cert, settings.client_key)
    if settings.client_cert is not None:
        _check_not_expired(settings.client_cert, time.time())
    return context


def _check_not_expired(certificate: Path, now: float) -> None:
    from cryptography import x509  # takes longer to import than most commands, which have no certificate

    path = certificate.expanduser()
    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:  # it changed just now
        raise ConfigInvalid(f"{path}: {error}") from None
    if end.timestamp() <= now:
        raise TokenExpired(
            f"{path}: the client certificate expired at {end:%Y-%m-%dT%H:%M:%SZ}",
            hint="get a newer one, and write it and its key to the same files",
        )
