"""Identities from client certificates, which TLS has verified before. Pure.

By itself a certificate only allows the connection. It is an identity if the settings name the part of it that
holds the subject, and if that part occurs exactly once and is a DNS label.
"""

import ssl
from dataclasses import replace
from typing import Literal

from devroute.auth.identity import Identity, PeerCertificate
from devroute.contract.target import Malformed, check_subject
from devroute.errors import SubjectInvalid
from devroute.quoting import quote

#: The part with the subject: the common name, the only DNS name, or the end of the only URI's path (SPIFFE).
SubjectPart = Literal["off", "cn", "dns", "uri"]


def identity_of(certificate: PeerCertificate, part: SubjectPart) -> Identity:
    """Raises SubjectInvalid."""
    found = _texts(certificate, part)
    problem = f"the client certificate has {len(found)} subjects ({part}), and exactly one is needed"
    if len(found) == 1:
        try:
            subject = check_subject(found[0])
            return Identity(subject, expires=_expiry(certificate), kind="certificate")
        except Malformed as error:
            problem = f"the client certificate's {part} is {quote(found[0])}: {error}"
    raise SubjectInvalid(problem, hint="the platform team chooses the part with tls_client_subject")


def until_expiry_of(identity: Identity, certificate: PeerCertificate) -> Identity:
    """A token's identity, which expires no later than the certificate of its connection."""
    expires = _expiry(certificate)
    if identity.expires is not None and identity.expires <= expires:
        return identity
    return replace(identity, expires=expires, bound_to_certificate=True)


def _expiry(certificate: PeerCertificate) -> float:
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _texts(certificate: PeerCertificate, part: SubjectPart) -> list[str]:
    if part == "cn":
        names = [pair for group in certificate.get("subject", ()) for pair in group]
        return [value for name, value in names if name == "commonName"]
    kind = {"dns": "DNS", "uri": "URI"}[part]
    values = [value for name, value in certificate.get("subjectAltName", ()) if name == kind]
    return [value.rpartition("/")[2] for value in values] if part == "uri" else values
