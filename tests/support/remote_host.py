"""Another host, as a network namespace: the pair of interfaces between it and this one can be cut."""

import contextlib
import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import host_network


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


@dataclass
class RemoteHost:
    """Its namespace, and the network of both ends; its own interface is `wifi`."""

    name: str
    net: str

    @property
    def proxy(self) -> str:
        """This end's address."""
        return f"{self.net}.1"

    @property
    def address(self) -> str:
        return f"{self.net}.2"

    @property
    def inside(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.name)

    def connect(self) -> None:
        ours = f"{self.name}h"
        with host_network.changes():
            run("ip", "link", "add", ours, "type", "veth", "peer", "name", "wifi", "netns", self.name)
            run("ip", "link", "set", ours, "addrgenmode", "none")  # no IPv6 address that would follow later
            run("ip", "addr", "add", f"{self.proxy}/24", "dev", ours)
            run("ip", "link", "set", ours, "up")
        self.ip("addr", "add", f"{self.address}/24", "dev", "wifi")
        self.ip("link", "set", "lo", "up")
        self.ip("link", "set", "wifi", "up")

    def ip(self, *arguments: str) -> None:
        run("ip", "-n", self.name, *arguments)

    @property
    def etc(self) -> Path:
        """Files that replace those of /etc inside."""
        folder = Path("/etc/netns", self.name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def remove(self) -> None:
        if Path("/etc/netns", self.name).exists():
            self.etc.rmdir()
        with host_network.changes():
            for what in (("link", "del", f"{self.name}h"), ("netns", "del", self.name)):
                with contextlib.suppress(OSError):
                    run("ip", *what)


_HOSTS = itertools.count()


@contextlib.contextmanager
def remote_host() -> Iterator[RemoteHost]:
    """Addresses by process, so that parallel tests have their own. Skips the test where none can be made."""
    number = os.getpid() * 16 + next(_HOSTS)
    host = RemoteHost(f"dr{number % 1_000_000}", f"10.{200 + number // 250 % 50}.{number % 250}")
    try:
        run("ip", "netns", "add", host.name)  # fails where it is another test's
        try:
            host.connect()
        except OSError:
            host.remove()
            raise
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    try:
        yield host
    finally:
        host.remove()
