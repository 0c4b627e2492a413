"""The tunnel between a proxy and a laptop: PROTOCOL.md says what travels, in the order of these modules.

frames -> streams -> events, sending -> session   sans-I/O: bytes in, events out; calls in, bytes out
websocket                                         sans-I/O: RFC 6455, the envelope around the frames
hello                                             what the two ends tell each other first
link -> stream_end -> proxy_end, agent_end        the asyncio shell: one connection and its streams
accept, dial                                      how the proxy gets a link, how the agent makes one
"""
