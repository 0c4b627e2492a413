"""The limits of HTTP on the control port and the admin port, whichever server reads a request."""

from typing import Final

#: Bytes of one header field: a contract has 8 KiB, and baggage may carry it once more among other members;
#: Envoy itself takes 60 KiB of headers.
MAX_FIELD_BYTES: Final = 64 * 1024
#: Bytes of a head: a contract, and baggage that repeats it among other members.
MAX_HTTP_HEAD: Final = 128 * 1024
#: Seconds for a head to arrive, and for the token of a tunnel's to be verified.
HEAD_SECONDS: Final = 10.0
#: Fields of one head: Envoy's own default is 100.
MAX_FIELDS: Final = 128
#: No request of a sidecar, an agent or the CLI has a larger body; a larger one is not read.
MAX_BODY_BYTES: Final = 64 * 1024
#: For a whole request, its body included. Only /resolve waits for something else: a connection to a target.
REQUEST_SECONDS: Final = 20.0
#: Longer than the hour for which Envoy keeps an idle connection: closing it first could lose a request.
KEEP_ALIVE_SECONDS: Final = 3630.0
