"""The form of server-sent events."""

import json
from collections.abc import Mapping
from typing import Final

#: After so many seconds without events, a comment is sent, so that both sides notice a broken connection.
QUIET_SECONDS: Final = 15.0
KEEP_ALIVE: Final = b": keep-alive\n\n"
#: The first line of a stream: a page reconnects after so many milliseconds.
RETRY: Final = b"retry: 1000\n\n"


def as_event(name: str, document: Mapping[str, object]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()
