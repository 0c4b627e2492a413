"""The tunnel between a proxy and a laptop: PROTOCOL.md says what travels, in the order of these modules.

frames -> streams -> session    sans-I/O: bytes in, events and bytes out; no clock, no socket
websocket                       sans-I/O: RFC 6455, the envelope around the frames
hello                           what the two ends tell each other first
link -> proxy_end, agent_end    the asyncio shell: one connection, one session, its streams
accept, dial                    how the proxy gets a link, and how the agent makes one
"""
