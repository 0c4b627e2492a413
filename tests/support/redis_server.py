"""A real redis-server of the test's own, on a socket in a folder: Debian's package."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

SERVER = shutil.which("redis-server")
NEEDED = "needs redis-server (apt-get install redis-server)"
needs_redis = pytest.mark.skipif(SERVER is None, reason=NEEDED)


class RedisServer:
    """`url` is that of the setting `registry`, `socket` the path of its socket."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        """`arguments` may have it listen on a port as well."""
        self._arguments = arguments
        self.socket = str(folder / "redis.sock")
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://{self.socket}"
        self.client = redis.Redis.from_url(self.url, socket_timeout=10)

    def start(self) -> None:
        """Empty; returns once it accepts connections."""
        assert SERVER is not None
        Path(self.socket).unlink(missing_ok=True)
        self._process = subprocess.Popen(
            # In this order: the first of `arguments` may be a file.
            (
                SERVER,
                *(self._arguments if self._arguments else ("--port", "0")),
                *("--unixsocket", self.socket, "--save", "", "--loglevel", "warning"),
            ),
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not self._accepts():
            assert self._process.poll() is None, "redis-server ended"

    def _accepts(self) -> bool:
        try:
            return bool(self.client.ping())
        except redis.AuthenticationError:
            return True
        except redis.ConnectionError:
            return False

    def everything(self) -> bytes:
        """The names of all keys, and all that they hold."""
        found = []
        for key in self.client.scan_iter():
            found.append(key)
            match self.client.type(key):
                case b"string":
                    found.append(self.client.get(key))
                case b"hash":
                    found.extend(part for pair in self.client.hgetall(key).items() for part in pair)
                case b"set":
                    found.extend(self.client.smembers(key))
                case b"list":
                    found.extend(self.client.lrange(key, 0, -1))
                case b"zset":
                    found.extend(self.client.zrange(key, 0, -1))
                case other:
                    raise NotImplementedError(other)
        return b"\n".join(found)

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        self.client.close()


@contextmanager
def running_redis(folder: Path, *arguments: str) -> Iterator[RedisServer]:
    """Skips the test where there is none."""
    if SERVER is None:
        pytest.skip(NEEDED)
    server = RedisServer(folder, *arguments)
    try:
        server.start()
        yield server
    finally:
        server.stop()
