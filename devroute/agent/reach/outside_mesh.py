"""The upstream for names outside of the mesh (`--reach-direct`): connects from this laptop, as without
devroute.
"""

from devroute.agent.reach.mesh_port import MeshPort
from devroute.inspector.recorder import App
from devroute.upstream.dialer import Dialer
from devroute.upstream.negotiating import NegotiatingUpstream
from devroute.upstream.tcp import TcpUpstream


def app_outside_mesh(to: MeshPort) -> App:
    """To one host and port."""
    dialer = Dialer(to.host, to.port)
    return TcpUpstream(to.address, dialer) if to.tcp else NegotiatingUpstream(dialer)
