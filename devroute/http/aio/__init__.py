"""Connections on asyncio, for clients and upstreams alike: receive buffers, batched writes, flow control, and
the streams of HTTP/2. The part of http/ that is not pure.

Start at connection.py. What a request is, and where it goes, is known in downstream/ and upstream/, which
build on this.
"""
