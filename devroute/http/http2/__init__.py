"""HTTP/2 for a gateway, on the library h2 (RFC 9113): bytes in, events out. Pure.

Start at protocol.py. streams: h2's state of a stream, shortened; headers: field lists to HTTP/1.1 heads and
back; hpack, field_blocks: compression; flood_guard: limits.
"""
