"""The tunnel's protocol without I/O: bytes in, events out; calls in, bytes out. Pure.

Start at ../PROTOCOL.md, then session.py (receives) and sender.py (sends). frames, stream: the grammar;
windows, flood_guard: limits; handshake: HELLO, WELCOME, RENEWED; websocket: the envelope (RFC 6455).
"""
