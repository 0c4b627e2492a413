"""Whether a browser's request comes from the page itself, and comparison of secrets. Pure."""

import hmac
from collections.abc import Mapping


def is_own_origin(headers: Mapping[str, str], origin: str, *, changes: bool) -> bool:
    """Whether no other site sent a request to the page at `origin`, by Origin and Fetch Metadata. Browsers
    send Origin with requests that may change something (`changes`), so these need one."""
    sent = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    if sent is None and changes:
        return False
    return (sent is None or sent == origin) and site in ("same-origin", "none")


def is_same(given: str, expected: str) -> bool:
    """In a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())
