"""Network namespaces on a bridge of their own, each with one address: pods and laptops.

All of them have names with the prefix of this run, `dvr<pid>`. The next run removes those of a run that was
killed. The host's own network is never touched: the bridge stands in a namespace as well.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

_NAMESPACES = Path("/run/netns")
#: `ip netns exec` shows /etc/netns/NAME/hosts as /etc/hosts.
_FILES = Path("/etc/netns")
_OURS = re.compile(r"dvr(\d+)-")
_CLONE_NEWNET = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace with one address: sockets of this process, and programs in it."""

    def __init__(self, name: str, address: str) -> None:
        self.name, self.address = name, address

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """The command line that runs a program in it, with its /etc/hosts."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def run(self, *arguments: str | Path) -> str:
        """The standard output of a short command in it. Raises CalledProcessError."""
        return _run(*self.command(*arguments))

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """A socket of this process that belongs to the namespace: the thread enters it for the one call."""
        with open("/proc/thread-self/ns/net") as host, open(_NAMESPACES / self.name) as target:
            _enter(target.fileno())
            try:
                return socket.socket(family, kind, proto)
            finally:
                _enter(host.fileno())

    def connect(self, host: str, port: int, within: float = 10) -> socket.socket:
        """A connected blocking socket; `host` is an address."""
        connection = self.open_socket()
        try:
            connection.settimeout(within)
            connection.connect((host, port))
        except BaseException:
            connection.close()
            raise
        return connection


def _enter(namespace: int) -> None:
    if _LIBC.setns(namespace, _CLONE_NEWNET) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@contextlib.contextmanager
def network(
    addresses: Mapping[str, str], routes: Iterable[str], hosts: str
) -> Iterator[dict[str, Namespace]]:
    """Namespaces by name, each with its address ("10.0.0.1/16") on one bridge, and `hosts` as /etc/hosts.

    `routes` are networks that each namespace sends to the bridge. With the block, the processes in them are
    ended and they are removed.
    """
    remove_abandoned()
    prefix = f"dvr{os.getpid()}-"
    try:
        bridge = f"{prefix}bridge"
        _run("ip", "netns", "add", bridge)
        _batch(bridge, "link set lo up", "link add br0 type bridge", "link set br0 up")
        made = {}
        for name, address in addresses.items():
            made[name] = _add(f"{prefix}{name}", address, bridge, routes, hosts)
        yield made
    finally:
        for name in _names():
            if name.startswith(prefix):
                _remove(name)


def remove_abandoned() -> None:
    """Namespaces of runs whose process is gone."""
    for name in _names():
        if (ours := _OURS.match(name)) and not Path(f"/proc/{ours[1]}").exists():
            _remove(name)


def _add(name: str, address: str, bridge: str, routes: Iterable[str], hosts: str) -> Namespace:
    link = f"e-{name.partition('-')[2]}"
    _run("ip", "netns", "add", name)
    _run("ip", "link", "add", link, "netns", bridge, "type", "veth", "peer", "name", "eth0", "netns", name)
    _batch(bridge, f"link set {link} master br0 up")
    _batch(name, "link set lo up", f"addr add {address} dev eth0", "link set eth0 up")
    _batch(name, *(f"route replace {route} dev eth0" for route in routes))
    namespace = Namespace(name, address.partition("/")[0])
    namespace.run("sysctl", "-qw", "net.ipv4.ip_unprivileged_port_start=0")
    (_FILES / name).mkdir(parents=True)
    (_FILES / name / "hosts").write_text(hosts)
    return namespace


def _remove(name: str) -> None:
    for process in _run("ip", "netns", "pids", name).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(process), signal.SIGKILL)
    _run("ip", "netns", "del", name)
    shutil.rmtree(_FILES / name, ignore_errors=True)


def _names() -> list[str]:
    return sorted(path.name for path in _NAMESPACES.iterdir()) if _NAMESPACES.is_dir() else []


def _batch(name: str, *commands: str) -> None:
    text = "".join(f"{command}\n" for command in commands)
    subprocess.run(["ip", "-n", name, "-batch", "-"], input=text, text=True, check=True)


def _run(*arguments: str | Path) -> str:
    return subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True).stdout
