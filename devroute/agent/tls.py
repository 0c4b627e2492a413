"""The TLS context of a laptop's connections to the proxy."""

import ssl
import time
from pathlib import Path

from devroute.agent.settings import ClientSettings
from devroute.auth.tls import client_context
from devroute.errors import ConfigInvalid, TokenExpired


def tls_for_server(settings: ClientSettings) -> ssl.SSLContext | None:
    """The TLS context for the server of these settings, None for plain http. Raises ConfigInvalid, and
    TokenExpired for an expired client certificate, of which a server would only report that TLS failed."""
    if not settings.server.startswith(("https:", "wss:")):
        if settings.ca_file is not None:  # a file that is not there is a mistake, also where none is needed
            client_context(settings.ca_file)
        return None
    context = client_context(settings.ca_file, settings.client_cert, settings.client_key)
    if settings.client_cert is not None:
        _check_not_expired(settings.client_cert.expanduser())
    return context


def _check_not_expired(path: Path) -> None:
    from cryptography import x509  # slow to import, and most users have no certificate

    try:
        end = x509.load_pem_x509_certificate(path.read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:  # it has just changed
        raise ConfigInvalid(f"{path}: {error}") from None
    if end.timestamp() <= time.time():
        raise TokenExpired(
            f"{path}: the client certificate expired at {end:%Y-%m-%dT%H:%M:%SZ}",
            hint="get a new one, and save it and its key in the same files",
        )
