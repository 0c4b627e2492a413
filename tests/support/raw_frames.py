"""Frames of a test's own on the connection of a real link, for what the link's session would not send."""

import os

from devroute.tunnel.agent_link import AgentLink
from devroute.tunnel.link import Link
from devroute.tunnel.protocol.frames import HEADER
from devroute.tunnel.protocol.websocket import WebSocket


def frame(kind: int, stream: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return HEADER.pack(kind, flags, stream, len(payload)) + payload


def encoded(link: Link, *frames: bytes) -> bytes:
    """These frames in one WebSocket message, as this end of the link sends them."""
    websocket = WebSocket(client=isinstance(link, AgentLink), random=os.urandom)
    return bytes(websocket.encode(list(frames)))


def send(link: Link, *frames: bytes) -> None:
    link.transport.write(encoded(link, *frames))
