"""Whether a browser's request comes from the page itself. Pure."""

from collections.abc import Mapping


def is_own_origin(headers: Mapping[str, str], origin: str, *, changes: bool) -> bool:
    """Whether no other site sent a request to the page at `origin`, by Origin and Fetch Metadata. Browsers
    send Origin with requests that may change something (`changes`), so these need one."""
    sent = headers.get("origin")
    site = headers.get("sec-fetch-site", "same-origin")
    if sent is None and changes:
        return False
    return (sent is None or sent == origin) and site in ("same-origin", "none")
