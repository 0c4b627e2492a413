"""A page's files as responses, and the headers of everything that a page's server sends."""

from importlib import resources
from typing import Final

from aiohttp import web

from devroute.errors import NotFound

#: No inline scripts or styles, nothing from other origins, no frames; Trusted Types forbid innerHTML.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS: Final = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_TYPES: Final = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


class PageFiles:
    """The files in the folder `page` of a package, and those that all pages share, in memory."""

    def __init__(self, package: str) -> None:
        folders = resources.files("devroute.pages") / "shared", resources.files(package) / "page"
        self._files = {
            file.name: file.read_bytes()
            for folder in folders
            for file in folder.iterdir()
            if file.is_file() and file.name.rpartition(".")[2] in _TYPES
        }

    def response(self, name: str) -> web.Response:
        """Raises NotFound."""
        try:
            data = self._files[name]
        except KeyError:
            raise NotFound(f"the page has no {name}") from None
        return web.Response(body=data, content_type=_TYPES[name.rpartition(".")[2]], charset="utf-8")
