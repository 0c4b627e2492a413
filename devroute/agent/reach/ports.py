"""The local ports of forwards: the same from run to run, so that a URL written into an app's settings stays
valid. That of the first time, else one that follows from the destination, else the next one that is free.
"""

import errno
import hashlib
import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from devroute import private_files
from devroute.agent.reach.mesh_port import Forward, MeshPort
from devroute.errors import ConfigInvalid
from devroute.platforms import listen

HOST: Final = "127.0.0.1"
#: Ports of HTTP destinations: below those that systems give to outgoing connections and Kubernetes to nodes.
FIRST: Final = 20000
COUNT: Final = 8000
#: The port for SOCKS and HTTP proxies, or the first free one after it.
PROXY_PORT: Final = 1080
#: Ports that are tried after one that is taken.
TRIES: Final = 20
#: Destinations whose port is remembered, the latest ones.
MAX_REMEMBERED: Final = 256
#: Bytes of the file that are read.
_MAX_FILE: Final = 64 * 1024
#: Below it, a port may need privileges, and is rarely free.
_LEAST: Final = 1024
_CHOOSE_PROXY_PORT: Final = "devroute reach --port PORT, or reach_port: PORT in devroute.yaml"


class LocalPorts:
    """`folder`: of the state, None to remember nothing; `server`: each has ports of its own."""

    def __init__(self, folder: Path | None, server: str) -> None:
        self._file = None if folder is None else folder / "reach.json"
        self._server = server

    def bind(self, forward: Forward) -> tuple[socket.socket, int]:
        """A bound socket, and the port that was wanted in the first place. Raises ConfigInvalid where none is
        free."""
        if forward.port is not None:
            return _bound_to(forward.port, f"--reach PORT={forward.to}"), forward.port
        key = f"{self._server} {forward.to}"
        wanted = self._remembered().get(key) or derived(forward.to)
        for port in _from(wanted):
            with suppress(OSError):
                bound = listen(HOST, port)
                self._remember(key, port)
                return bound, wanted
        raise ConfigInvalid(
            f"reach: '{forward.to}': {TRIES} ports from {wanted} on are in use",
            hint=f"choose one: --reach PORT={forward.to}",
        )

    @staticmethod
    def bind_proxy(port: int | None) -> socket.socket:
        """The socket for SOCKS and HTTP proxies; None for the first free port from PROXY_PORT on. Raises
        ConfigInvalid."""
        if port is not None:
            return _bound_to(port, _CHOOSE_PROXY_PORT)
        for each in _from(PROXY_PORT):
            with suppress(OSError):
                return listen(HOST, each)
        raise ConfigInvalid(
            f"reach: {TRIES} ports from {PROXY_PORT} on are in use", hint=f"choose one: {_CHOOSE_PROXY_PORT}"
        )

    def _remembered(self) -> dict[str, int]:
        """What is not as it was written counts as nothing."""
        if self._file is None:
            return {}
        with suppress(OSError, ValueError), self._file.open("rb") as stream:
            found = json.loads(stream.read(_MAX_FILE))
            if isinstance(found, dict):
                return {name: port for name, port in found.items() if _is_port(port)}
        return {}

    def _remember(self, key: str, port: int) -> None:
        # A port that is taken today, as by another devroute up, is the wanted one again tomorrow.
        if self._file is None or key in (known := self._remembered()):
            return
        latest = [*known.items(), (key, port)][-MAX_REMEMBERED:]
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            private_files.replace(self._file, json.dumps(dict(latest), indent=1).encode())


def derived(to: MeshPort) -> int:
    """For bytes the service's own port, which is its clients' default; for HTTP, where that is rarely free,
    one that follows from the name."""
    if to.tcp and to.port >= _LEAST:
        return to.port
    digest = hashlib.sha256(str(to).encode()).digest()
    return FIRST + int.from_bytes(digest[:4], "big") % COUNT


def _from(port: int) -> Iterator[int]:
    return (each for each in range(port, port + TRIES) if each < 65536)


def _bound_to(port: int, flag: str) -> socket.socket:
    """Raises ConfigInvalid."""
    try:
        return listen(HOST, port)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        hint = f"leave it out, or choose another: {flag}"
        raise ConfigInvalid(f"reach: port {port} {why}", hint=hint) from None


def _is_port(value: object) -> bool:
    return isinstance(value, int) and 0 < value < 65536
