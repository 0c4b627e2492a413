"""The tunnel between a proxy and a laptop. PROTOCOL.md defines what travels; the modules follow its order.

protocol/   sans-I/O: bytes in, events out; calls in, bytes out
            frames -> stream -> events, sender -> session
            flood_guard, windows: limits; websocket: the envelope (RFC 6455)
            handshake: HELLO, WELCOME, RENEWED
link        the asyncio shell of one connection, with liveness
link_stream -> opened_stream, served_stream: a request at the end that sends it, and where it is served
exchange_link -> proxy_link, agent_link: what streams mean at the two ends
dial        how the agent gets a link; the proxy gets its own from proxy/control/
"""
