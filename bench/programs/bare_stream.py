"""devroute with the tunnel's frames on the bare upgraded connection, for the price of WebSocket framing.

bare_stream.py ARGUMENTS... is `devroute ARGUMENTS...` with the envelope taken off, on both ends.
"""

from devroute.cli.main import main
from devroute.tunnel.protocol.websocket import WebSocket


def encode(self, pieces):
    return b"".join(pieces)


def frame(self, pieces):
    return pieces


def receive(self, data, whole=None):
    return [memoryview(data)]


if __name__ == "__main__":
    WebSocket.encode, WebSocket.frame, WebSocket.receive = encode, frame, receive
    main()
