"""Environment variables by which a child of `devroute up` finds what it reaches in the mesh. Pure."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from devroute.agent.reach.mesh_port import MeshPort

#: What does not go through the proxy port: the app's own other parts.
_NOT_PROXIED: Final = "localhost,127.0.0.1,::1"
_NOT_IN_A_VARIABLE: Final = re.compile(r"[^A-Z0-9]+")


def variables(places: Iterable[tuple[MeshPort, int]]) -> list[dict[str, str]]:
    """The environment variables of each destination, from its local port: C_SHOP_URL for HTTP, else
    ORDERS_DB_ADDR; and for both _HOST and _PORT. Where two have the same name, the later one's has its port
    in it."""
    taken: set[str] = set()
    found = []
    for to, port in places:
        prefix = _prefix(to.host)
        if prefix in taken:
            prefix = f"{prefix}_{to.port}"
        taken.add(prefix)
        address = f"127.0.0.1:{port}"
        first = {f"{prefix}_ADDR": address} if to.tcp else {f"{prefix}_URL": f"http://{address}"}
        found.append(first | {f"{prefix}_HOST": "127.0.0.1", f"{prefix}_PORT": str(port)})
    return found


def _prefix(host: str) -> str:
    """That of c.shop for c.shop.svc.cluster.local, too."""
    labels = host.split(".")
    if labels[2:3] == ["svc"]:
        labels = labels[:2]
    name = _NOT_IN_A_VARIABLE.sub("_", ".".join(labels).upper())
    return f"_{name}" if name[0].isdigit() else name


def proxy_variables(port: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Those that have programs use the proxy port: curl and most libraries, Node from 22.21 on, and the JVM,
    which keeps what JAVA_TOOL_OPTIONS had."""
    # ALL_PROXY is not socks5h://, with which httpx fails at its start unless it has its SOCKS extra.
    found = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), f"http://127.0.0.1:{port}")
    found["NO_PROXY"] = _NOT_PROXIED
    found |= {name.lower(): value for name, value in found.items()}
    java = [f"-D{scheme}.proxyHost=127.0.0.1 -D{scheme}.proxyPort={port}" for scheme in ("http", "https")]
    java.append(f"-DsocksProxyHost=127.0.0.1 -DsocksProxyPort={port}")
    java.append("-Dhttp.nonProxyHosts=localhost|127.*|[::1]")
    options = " ".join(filter(None, [environment.get("JAVA_TOOL_OPTIONS"), *java]))
    return found | {"NODE_USE_ENV_PROXY": "1", "JAVA_TOOL_OPTIONS": options}
