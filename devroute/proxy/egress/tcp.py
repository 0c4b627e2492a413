"""What a laptop reaches by TCP: the proxy connects to the address that policy has judged."""

from collections.abc import Callable

from devroute.contract.destination import Destination
from devroute.errors import DevrouteError, MeshTlsRequired, ReachDenied
from devroute.upstream.dialer import Dialer
from devroute.upstream.interface import ResponseSink
from devroute.upstream.tcp import TcpConnection, TcpStream, TcpUpstream


class MeshTcp(TcpUpstream):
    """One destination; implements Upstream."""

    def __init__(self, destination: Destination, dialer: Dialer) -> None:
        super().__init__(str(destination), dialer)
        self._destination = destination

    def stream(self, sink: ResponseSink) -> TcpStream:
        return MeshTcpStream(self._destination, sink)

    def objection(self, connection: TcpConnection) -> DevrouteError | None:
        if not is_own_machine(connection.transport.get_extra_info):
            return None
        message = f"{self._destination} leads to the proxy itself: no laptop may reach that"
        return ReachDenied(message, hint="name another service", service=str(self._destination))


def is_own_machine(info: Callable[[str], object]) -> bool:
    """Whether a connection leads to the machine that it comes from: both ends have one address. `info`:
    get_extra_info of its transport."""
    own, peer = info("sockname"), info("peername")
    return isinstance(own, tuple) and isinstance(peer, tuple) and own[0] == peer[0]


class MeshTcpStream(TcpStream):
    """A service that accepts the mesh's TLS only closes a connection at its first bytes."""

    __slots__ = ("_destination",)

    def __init__(self, destination: Destination, sink: ResponseSink) -> None:
        super().__init__(str(destination), sink)
        self._destination = destination

    def refused(self) -> DevrouteError | None:
        where = self._destination
        return MeshTlsRequired(
            f"{where} closed the connection at its first bytes, as under STRICT mTLS",
            hint="it may accept the mesh's TLS only (PeerAuthentication STRICT): the platform team exempts"
            " the port (portLevelMtls), or it is reached by HTTP; or it expected another protocol",
            service=str(where),
        )
