"""Requests and responses as the handlers of both ports know them, whichever server reads and writes them."""

import json
from collections.abc import Iterable
from typing import Final

import structlog

from devroute.errors import DevrouteError, RequestTimeout
from devroute.http.error_response import error_body, error_headers
from devroute.proxy.ports.limits import REQUEST_SECONDS

log = structlog.stdlib.get_logger("devroute.control")

_JSON: Final = "application/json; charset=utf-8"
_LINES: Final = "text/plain; charset=us-ascii"


class Request:
    """`path` has no query; `body` is whole. `peer`: the client's address, None where it is unknown.
    `over_tls`: it came over TLS."""

    __slots__ = ("_values", "body", "method", "over_tls", "path", "peer")

    def __init__(
        self,
        method: str,
        path: str,
        fields: Iterable[tuple[bytes, bytes]],
        body: bytes,
        peer: str | None,
        *,
        over_tls: bool,
    ) -> None:
        self.method = method
        self.path = path
        self.body = body
        self.peer = peer
        self.over_tls = over_tls
        values: dict[bytes, list[bytes]] = {}
        for name, value in fields:
            key = name.lower()
            if key in values:
                values[key].append(value)
            else:
                values[key] = [value]
        self._values = values

    def values(self, name: str) -> list[str]:
        """All values of a header, whose name is in lower case."""
        return [_text(value) for value in self._values.get(name.encode(), ())]

    def value(self, name: str) -> str:
        """The first value of a header, "" if there is none."""
        found = self._values.get(name.encode())
        return _text(found[0]) if found else ""

    def fields(self) -> dict[str, str]:
        """The last value of each header, by its name in lower case."""
        return {_text(name): _text(values[-1]) for name, values in self._values.items()}


def _text(value: bytes) -> str:
    """As aiohttp reads it."""
    return value.decode("utf-8", "surrogateescape")


class Response:
    """`fields`: the headers, save for those that frame the body. `close`: the connection ends with it."""

    __slots__ = ("body", "close", "fields", "status")

    def __init__(
        self, status: int, fields: dict[str, str], body: bytes = b"", *, close: bool = False
    ) -> None:
        self.status = status
        self.fields = fields
        self.body = body
        self.close = close


def no_content() -> Response:
    return Response(204, {})


def lines_response(body: bytes) -> Response:
    """Lines for a sidecar or a gateway."""
    return Response(200, {"content-type": _LINES}, body)


def json_response(document: object, status: int = 200) -> Response:
    return Response(status, {"content-type": _JSON}, json.dumps(document).encode())


def error_response(error: DevrouteError, *, close: bool = False) -> Response:
    return Response(error.status, error_headers(error), error_body(error), close=close)


def failure(error: Exception, path: str) -> Response:
    """The response to a request whose handler has raised this. The only place where exceptions become
    responses; a defect must not close the port for others."""
    if isinstance(error, TimeoutError):
        return error_response(late_request(), close=True)
    if isinstance(error, DevrouteError):
        return error_response(error)
    log.error("control.failed", path=path, exc_info=error)
    return error_response(DevrouteError("devroute made a mistake; its log says more"))


def late_request() -> RequestTimeout:
    return RequestTimeout(f"the request was not complete after {REQUEST_SECONDS:g} s")
