"""How replicas prove to each other who they are: each makes a key when it starts, and the certificate of that
key stands in its record in Redis. So a client that may write there is trusted, as with all that Redis holds.
"""

import datetime
import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

#: A replica lives for less; nothing depends on its end but that a certificate has one.
_DAYS: Final = 3650


class Certificate:
    """The key of this replica, in memory only, and `der`, its certificate."""

    def __init__(self, name: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"devroute replica {name}")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .sign(key, hashes.SHA256())
        )
        self.der = made.public_bytes(serialization.Encoding.DER)
        self._pem = made.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def server(self) -> ssl.SSLContext:
        """Accepts clients whose certificates were given to `trust`, no others."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client(self, server: bytes) -> ssl.SSLContext:
        """For a connection to the one server that has this certificate. Raises ValueError for what is
        none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # the certificate itself is the name
        self._load(context)
        trust(context, server)
        return context

    def _load(self, context: ssl.SSLContext) -> None:
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        with _file_of(self._pem) as file:
            context.load_cert_chain(file)


@contextmanager
def _file_of(secret: bytes) -> Iterator[str]:
    """The name of a file in memory: OpenSSL reads keys from files only, and a pod's file system is read-only.
    Where there are none it is a temporary one that only we can read."""
    if hasattr(os, "memfd_create"):
        with open(os.memfd_create("devroute"), "wb") as memory:
            memory.write(secret)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(secret)
            file.flush()
            yield file.name


def trust(context: ssl.SSLContext, certificate: bytes) -> None:
    """Raises ValueError for what is no certificate."""
    try:
        x509.load_der_x509_certificate(certificate)
        context.load_verify_locations(cadata=certificate)
    except (ssl.SSLError, x509.InvalidVersion) as error:
        raise ValueError(str(error)) from None
