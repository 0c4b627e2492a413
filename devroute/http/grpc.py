"""What gRPC adds to HTTP/2: status codes, status trailers, deadlines. Pure.

From gRPC's "PROTOCOL-HTTP2" (grpc-status, grpc-message, grpc-timeout) and "statuscodes" documents.
"""

import re
from typing import Final

from devroute.errors import DevrouteError
from devroute.http.message import Headers

#: The names of the status codes, in their order.
NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE",
    "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
DEADLINE_EXCEEDED: Final = 4
UNKNOWN: Final = 2

#: gRPC's code for each HTTP status of the error tree. Errors that may pass in a moment are UNAVAILABLE, which
#: clients may retry.
CODES: Final = {
    400: 3,  # INVALID_ARGUMENT
    403: 7,  # PERMISSION_DENIED
    408: 4,  # DEADLINE_EXCEEDED
    431: 8,  # RESOURCE_EXHAUSTED
    499: 1,  # CANCELLED
    500: 13,  # INTERNAL
    501: 12,  # UNIMPLEMENTED
    502: 14,  # UNAVAILABLE
    503: 14,
    504: DEADLINE_EXCEEDED,
    508: 9,  # FAILED_PRECONDITION
}

_TIMEOUT = re.compile(rb"\ngrpc-timeout:[ \t]*([0-9]{1,8})([HMSmun])\r")
_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_ENCODED = re.compile(rb"[^ -$&-~]")


def status_name(code: int) -> str:
    """The name of a status code; a code without a name, as "gRPC 17"."""
    return NAMES[code] if 0 <= code < len(NAMES) else f"gRPC {code}"


def timeout_of(head: bytes) -> float | None:
    """The deadline in a request's head, in seconds from its arrival. None without one, and for a malformed
    one, which the app has to refuse."""
    match = _TIMEOUT.search(head)
    return None if match is None else int(match[1]) * _UNITS[match[2]]


def read_status(value: bytes) -> int | None:
    """The value of grpc-status, which other lines of a head may follow; None for a malformed one."""
    digits = value.partition(b"\r")[0].strip()
    return int(digits) if digits.isdigit() and len(digits) < 4 else None


def status_trailers(error: DevrouteError) -> Headers:
    """grpc-status and grpc-message for an error."""
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    message = _ENCODED.sub(lambda byte: b"%%%02X" % byte[0][0], text.encode())
    return [(b"grpc-status", b"%d" % CODES.get(error.status, UNKNOWN)), (b"grpc-message", message)]
