"""Mesh identities: the SPIFFE URI of a workload's certificate, how people write it, and where a request
carries that of its caller. Pure.
"""

import re
from typing import Final

from devroute.headers import CALLER

#: The form of an identity in contracts and policies: visible ASCII without the comma, which separates
#: members.
URI_PATTERN: Final = r"spiffe://[!-+\--~]+"

_ACCOUNT: Final = re.compile(r"spiffe://[^/]+/ns/([^/]+)/sa/([^/]+)")

# In a head, also without the quotes and semicolons of X-Forwarded-Client-Cert.
_URI: Final = rb"(spiffe://[!#-+\--:<-~]+)"
_CALLERS: Final = (
    re.compile(rb"\n%b:[ \t]*%b" % (CALLER.encode(), _URI), re.IGNORECASE),
    re.compile(rb"\nx-forwarded-client-cert:[^\r]*?\bURI=%b" % _URI, re.IGNORECASE),
)
#: In a field value whose elements and pairs all follow a separator.
_NAMESPACE: Final = re.compile(rb".*[;,]URI=spiffe://[^/;,\"]+/ns/([^/;,\"]+)/", re.DOTALL)


def account_of(identity: str) -> str:
    """`namespace/serviceaccount` of an identity in Istio's form, "" for any other."""
    account = _ACCOUNT.fullmatch(identity)
    return f"{account[1]}/{account[2]}" if account else ""


def caller_of(head: bytes) -> str:
    """The caller in a request's head lines, each after a line feed: its `namespace/serviceaccount`, its
    identity if that has another form, "" if there is none.

    The sidecar of the detoured service writes x-devroute-caller. Without it the first element of
    X-Forwarded-Client-Cert counts, which the sidecar nearest to the caller wrote."""
    for pattern in _CALLERS:
        if (found := pattern.search(head)) is not None:
            identity = found[1].decode("latin-1")
            return account_of(identity) or identity
    return ""


def sender_namespace(head: bytes) -> str | None:
    """The namespace of the workload that sent the request to the proxy, if the proxy's own sidecar has
    verified one: in the last element of X-Forwarded-Client-Cert."""
    at = head.lower().rfind(b"\r\nx-forwarded-client-cert:")
    if at < 0:
        return None
    found = _NAMESPACE.match(head[at : head.index(b"\r\n", at + 2)].replace(b": ", b";", 1))
    return found[1].decode("ascii") if found else None
