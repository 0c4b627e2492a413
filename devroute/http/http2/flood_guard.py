"""How much a peer may send of what costs it nothing: streams taken back, frames that carry nothing. Pure."""

from typing import Final

#: Streams that the peer may reset, or open beyond MAX_STREAMS, at once and for each second: "rapid reset"
#: (CVE-2023-44487) makes work and takes it back. One connection carries the cancelled calls of many clients.
RESET_BURST: Final = 1000
RESETS_PER_SECOND: Final = 100

#: Frames that carry nothing (PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty DATA, unknown ones), at once and
#: for each second. gRPC measures its bandwidth by PINGs and opens windows as data flows, so frames that do
#: carry something earn more of them.
IDLE_BURST: Final = 1000
IDLE_PER_SECOND: Final = 100
IDLE_PER_FRAME: Final = 4
