"""Entry URLs: where people outside send requests into the mesh, by name. The proxy's setting, which it passes
on to laptops so that they print a command that works. Pure.

    https://a.qa.example        shop=https://shop.qa.example,admin=https://admin.qa.example/console
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import quote as percent_encoded
from urllib.parse import urlsplit

from devroute.contract.target import Malformed, check_label, parse_host, parse_port
from devroute.headers import PARAMETER
from devroute.quoting import quote

#: A mesh has a few entries; each name and URL is a line in WELCOME.
MAX_ENTRIES: Final = 16
MAX_URL: Final = 256
#: Nothing that a shell or a page would read as more than text, since people paste the command.
_PATH: Final = re.compile(r"[A-Za-z0-9._~/-]*")
_EXAMPLE: Final = "write it like https://a.qa.example"


def read_entry_urls(value: object) -> dict[str, str]:
    """The URLs by name: from one URL, a list or mapping of them, or such a list as text, separated by commas
    or white space. A URL without a name has that of its host. Raises Malformed."""
    if value is None:
        return {}
    if isinstance(value, str):
        value = value.replace(",", " ").split()
    if isinstance(value, list | tuple):
        value = dict(map(_named, map(str, value)))
    if not isinstance(value, Mapping):
        raise Malformed(f"this is no URL; {_EXAMPLE}")
    if len(value) > MAX_ENTRIES:
        raise Malformed(f"there are {len(value)} URLs; at most {MAX_ENTRIES} are shown")
    urls = [(str(name), read_entry_url(str(url))) for name, url in value.items()]
    return {_name(name): url for name, url in urls}


def read_entry_url(text: str) -> str:
    """A URL without a final slash. Raises Malformed."""
    url, problem = urlsplit(text), f"{quote(text)} is no URL of an entry"
    if len(text) > MAX_URL or url.scheme not in ("http", "https") or not url.netloc:
        raise Malformed(f"{problem}; {_EXAMPLE}")
    if url.query or url.fragment or "@" in url.netloc or not _PATH.fullmatch(url.path):
        raise Malformed(f"{problem}: it has scheme, host, port and a path of A-Z, a-z, 0-9 and ._~/- alone")
    return f"{url.scheme}://{_authority(url.netloc)}{url.path}".rstrip("/")


def entry_for(services: Sequence[str], entries: Mapping[str, str]) -> str | None:
    """The name of the entry for these services: that of a service itself, else the first. None if there is
    none."""
    return next((service for service in services if service in entries), next(iter(entries), None))


def requested_url(entry: str) -> str:
    """The URL of an entry as a request has it: with a path."""
    return entry if urlsplit(entry).path else f"{entry}/"


def join_link(entry: str, contract: str) -> str:
    """What sets a contract in a browser that opens it, at a gateway with the edge's filter."""
    encoded = percent_encoded(contract.replace(" ", ""), safe="")
    return f"{requested_url(entry)}?{PARAMETER}={encoded}"


def _named(text: str) -> tuple[str, str]:
    name, equals, url = text.partition("=")
    return (name, url) if equals else (urlsplit(text).netloc, text)


def _name(text: str) -> str:
    """A label, or a host with its port."""
    return _authority(text) if "." in text or ":" in text else check_label(text, "an entry's name")


def _authority(text: str) -> str:
    """A host, with its port if it has one."""
    host, colon, port = text.partition(":")
    return f"{parse_host(host)}{colon}{parse_port(port) if colon else ''}"
