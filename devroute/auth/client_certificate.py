"""Who a client certificate says somebody is. Pure; TLS has verified the certificate before.

A certificate by itself only opens the door: it is an identity where the settings name the part of it that
holds the subject, and only if that part is there once and is a DNS label.
"""

import ssl
from dataclasses import replace
from typing import Literal

from devroute.auth.identity import Identity, PeerCertificate
from devroute.contract.target import Malformed, check_label
from devroute.errors import SubjectInvalid, TokenInvalid
from devroute.quoting import quote

#: Where the subject stands: the common name, the only DNS name, or the end of the only URI's path (SPIFFE).
Part = Literal["off", "cn", "dns", "uri"]


def identity_of(certificate: PeerCertificate, part: Part) -> Identity:
    """Raises SubjectInvalid."""
    found = _texts(certificate, part)
    if len(found) != 1:
        raise SubjectInvalid(
            f"the client certificate has {len(found)} subjects ({part}), and exactly one says who you are",
            hint="the platform team chooses the part with tls_client_subject",
        )
    try:
        subject = check_label(found[0], "a subject")
    except Malformed as problem:
        raise SubjectInvalid(
            f"the client certificate's {part} is {quote(found[0])}: {problem}",
            hint="the platform team chooses the part with tls_client_subject",
        ) from None
    return Identity(subject, expires=_expiry(certificate), kind="certificate")


def locked(named: Identity, certificate: PeerCertificate) -> Identity:
    """Whom a token names, for no longer than the certificate that opened the door is good."""
    expires = _expiry(certificate)
    if named.expires is not None and named.expires <= expires:
        return named
    return replace(named, expires=expires, locked=True)


def check_same(token: Identity, certificate: Identity) -> None:
    """Somebody's token does not serve whoever has another's certificate. Raises TokenInvalid."""
    if token.subject != certificate.subject:
        raise TokenInvalid(
            f"the token is that of '{token.subject}', the client certificate that of '{certificate.subject}'"
        )


def _expiry(certificate: PeerCertificate) -> float:
    return float(ssl.cert_time_to_seconds(str(certificate["notAfter"])))


def _texts(certificate: PeerCertificate, part: Part) -> list[str]:
    if part == "cn":
        names = [pair for group in certificate.get("subject", ()) for pair in group]
        return [value for name, value in names if name == "commonName"]
    kind = {"dns": "DNS", "uri": "URI"}[part]
    values = [value for name, value in certificate.get("subjectAltName", ()) if name == kind]
    return [value.rpartition("/")[2] for value in values] if part == "uri" else values
