"""What laptops reach in the mesh: each stream that an agent opens is judged by policy, and sent on.

Start at egress.py. mesh_http: HTTP, through the proxy's own sidecar; tcp: bytes, to an address that policy
has judged; watched: open streams; interface: what a laptop's link needs of all this.
"""
