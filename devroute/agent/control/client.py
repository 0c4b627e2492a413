"""A client of the control API for commands: one request at a time, without an event loop.

Raises ServerUnreachable where the process has ended or does not respond, and the error in its response.
"""

import http.client
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from devroute.agent.control.running import Running, all_running
from devroute.agent.json_text import json_object
from devroute.errors import BY_CODE, DevrouteError, ServerUnreachable

#: Seconds for a connection, for a response (a change of services waits for the server), and for a status,
#: which waits for nothing.
CONNECT_SECONDS: Final = 2.0
RESPONSE_SECONDS: Final = 30.0
STATUS_SECONDS: Final = 3.0
#: Seconds without a byte after which events have ended: an empty line comes every 15.
QUIET_SECONDS: Final = 40.0
#: Bytes of a response, and of one event.
MAX_RESPONSE: Final = 8 * 1024 * 1024


class _Connection(http.client.HTTPConnection):
    def __init__(self, running: Running, seconds: float) -> None:
        super().__init__("127.0.0.1", running.port, timeout=seconds)
        self._running = running

    def connect(self) -> None:
        self.sock = self._running.connect(CONNECT_SECONDS)
        self.sock.settimeout(self.timeout)


def request(
    running: Running, method: str, path: str, document: Mapping[str, object] | None = None
) -> dict[str, Any]:
    """The JSON object in the response; `document` is the request's body."""
    return _document(_body(running, method, path, document))


def status(running: Running) -> dict[str, Any]:
    """What it says of itself. Raises ServerUnreachable within STATUS_SECONDS, also where it is stopped."""
    return _document(_body(running, "GET", "/v1", seconds=STATUS_SECONDS))


def statuses(state_folder: Path | None) -> list[dict[str, Any]]:
    """What each devroute up of this user says of itself. One that does not respond, as it is stopped, is
    there with `responding` false and what its file has; one that has just ended is not."""
    found: list[dict[str, Any]] = []
    for each in all_running(state_folder):
        try:
            found.append(status(each))
        except DevrouteError as error:
            if isinstance(error.__cause__, TimeoutError):
                known = ("pid", "started", "log", "server", "name")
                found.append({"responding": False} | {name: getattr(each, name) for name in known})
    return found


def data(running: Running, path: str) -> bytes:
    """The first MAX_RESPONSE bytes at a path."""
    return _body(running, "GET", path)


@contextmanager
def follow(running: Running, services: Sequence[str]) -> Iterator[Iterator[dict[str, Any]]]:
    """Have services added, written as c=8002, and removed when the block ends. Its value iterates over their
    events, until `running` ends."""
    document = {"services": list(services), "follow": True}
    with _response(running, "POST", "/v1/services", document) as response:
        yield _events(response)


def stop(running: Running, seconds: float) -> bool:
    """Have it end; whether it did, within so many seconds."""
    try:
        _body(running, "POST", "/v1/stop", quiet=seconds, seconds=seconds)
    except ServerUnreachable as error:  # it has ended meanwhile, or is stopped
        return not isinstance(error.__cause__, TimeoutError)
    return True


def _events(response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
    with suppress(OSError, http.client.HTTPException):
        while line := response.readline(MAX_RESPONSE):
            if line.strip():
                yield _document(line)


def _body(
    running: Running,
    method: str,
    path: str,
    document: Mapping[str, object] | None = None,
    quiet: float = QUIET_SECONDS,
    seconds: float = RESPONSE_SECONDS,
) -> bytes:
    """The first MAX_RESPONSE bytes of the response."""
    with _response(running, method, path, document, quiet, seconds) as response, _failures(running):
        return response.read(MAX_RESPONSE)


@contextmanager
def _response(
    running: Running,
    method: str,
    path: str,
    document: Mapping[str, object] | None,
    quiet: float = QUIET_SECONDS,
    seconds: float = RESPONSE_SECONDS,
) -> Iterator[http.client.HTTPResponse]:
    """`seconds` until its head has come, and `quiet` between any two of the bytes that follow."""
    connection = _Connection(running, seconds)
    headers = {"authorization": f"Bearer {running.token}"} if running.token else {}
    body = None if document is None else json.dumps(document).encode()
    if body is not None:
        headers["content-type"] = "application/json"
    try:
        with _failures(running):
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            refused = response.read(MAX_RESPONSE) if response.status >= 400 else None
        if refused is not None:
            raise _error(_document(refused), response.status)
        if connection.sock is not None:
            connection.sock.settimeout(quiet)
        yield response
    finally:
        connection.close()


@contextmanager
def _failures(running: Running) -> Iterator[None]:
    """Turns what a connection may fail with into ServerUnreachable."""
    try:
        yield
    except (OSError, http.client.HTTPException) as problem:
        raise ServerUnreachable(
            f"the devroute up of process {running.pid} does not respond: {problem or 'no reason'}",
            hint="devroute status shows which ones run",
        ) from problem


def _document(data: bytes) -> dict[str, Any]:
    document = json_object(data)
    if document is None:
        raise ServerUnreachable("the response of devroute up is no JSON object")
    return document


def _error(document: Mapping[str, Any], status: int) -> DevrouteError:
    kind = BY_CODE.get(str(document.get("code")), DevrouteError)
    message = str(document.get("message") or f"devroute up responded with {status}")
    return kind(message, hint=str(document.get("hint") or ""))
