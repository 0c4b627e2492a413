"""Limits on frames that are cheap to send: resets, and control frames. Constants only."""

from typing import Final

#: Streams that the peer may reset, or open beyond MAX_STREAMS, at once and for each second: "rapid reset"
#: (CVE-2023-44487) starts work and cancels it. One connection carries the cancelled calls of many clients.
RESET_BURST: Final = 1000
RESETS_PER_SECOND: Final = 100

#: Control frames (PING, SETTINGS, WINDOW_UPDATE, PRIORITY, empty DATA, unknown types, any for a stream that
#: has ended), at once and for each second. gRPC measures its bandwidth by PINGs and opens windows as data
#: flows, so each frame with a head or data earns more of them.
CONTROL_BURST: Final = 1000
CONTROL_PER_SECOND: Final = 100
CONTROL_PER_FRAME: Final = 4

#: Of these, as many as a peer may send while it does not read: most have a reply of 17 bytes, so 272 KiB
#: wait.
UNREAD_CONTROL: Final = 16 * 1024
