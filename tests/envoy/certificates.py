"""A mesh's certificates for one test run: a root, and workloads whose identity is a URI (SPIFFE)."""

import datetime
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from devroute.mesh.istio.sidecar import Document

_ROOT = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "cluster.local")])
_TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3."


class MeshCa:
    """Signs workloads' certificates and writes them where Envoy and ssl read them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        ca = x509.BasicConstraints(ca=True, path_length=0)
        root = (
            self._builder(self._key, _ROOT).add_extension(ca, critical=True).sign(self._key, hashes.SHA256())
        )
        self.root = folder / "root.pem"
        self.root.write_bytes(root.public_bytes(Encoding.PEM))

    def workload(self, identity: str) -> tuple[Path, Path]:
        """The files of a certificate chain and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        signed = (
            self._builder(key, x509.Name([]))
            .add_extension(names, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        stem = identity.rpartition("/")[2]
        chain, secret = self._folder / f"{stem}.pem", self._folder / f"{stem}.key"
        chain.write_bytes(signed.public_bytes(Encoding.PEM))
        secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return chain, secret

    def _builder(self, key: ec.EllipticCurvePrivateKey, subject: x509.Name) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_ROOT)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )

    def for_sidecar(self, identity: str) -> Document:
        """The inbound side of a sidecar under mTLS."""
        return {
            "@type": f"{_TLS}DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": self._common(identity),
        }

    def for_calling_sidecar(self, identity: str, sni: str) -> Document:
        """The transport socket of a sidecar's outbound cluster."""
        context = {
            "@type": f"{_TLS}UpstreamTlsContext",
            "sni": sni,
            "common_tls_context": self._common(identity),
        }
        return {"name": "envoy.transport_sockets.tls", "typed_config": context}

    def _common(self, identity: str) -> Document:
        chain, secret = self.workload(identity)
        return {
            "tls_certificates": [
                {"certificate_chain": {"filename": str(chain)}, "private_key": {"filename": str(secret)}}
            ],
            "validation_context": {"trusted_ca": {"filename": str(self.root)}},
        }

    def for_caller(self, identity: str, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        """The certificate of a calling sidecar; mesh identities are URIs, so no host name is checked."""
        context = ssl.create_default_context(cafile=str(self.root))
        context.check_hostname = False
        if version is not None:
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(*self.workload(identity))
        return context
