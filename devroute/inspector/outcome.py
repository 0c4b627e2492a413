"""What came of an exchange, in words: statuses of HTTP and gRPC, close codes of WebSocket, and whether it is
noise. Pure.
"""

import re
from typing import Final, Literal

from devroute.http.grpc import status_name
from devroute.inspector.capture import Capture, Message

#: Determines the colour of an exchange, and `status:` in queries.
StatusClass = Literal["1xx", "2xx", "3xx", "4xx", "5xx", "failed", "open"]

#: https://www.iana.org/assignments/websocket: the registered close codes.
CLOSE_CODES: Final = {
    1000: "normal closure",
    1001: "going away",
    1002: "protocol error",
    1003: "unsupported data",
    1005: "no status",
    1006: "connection lost without a close frame",
    1007: "invalid data",
    1008: "policy violation",
    1009: "message too big",
    1010: "extension missing",
    1011: "internal error",
    1012: "service restart",
    1013: "try again later",
    1014: "bad gateway",
    1015: "TLS handshake failed",
}
#: The codes after which nothing is wrong; what an app's own codes (from 3000) mean is not known.
_GOOD_CODES: Final = frozenset((1000, 1001, 1005))

_NOISE_CALLS: Final = ("/grpc.reflection.v1.", "/grpc.reflection.v1alpha.", "/grpc.health.v1.Health/")
#: Paths that are for health checks by convention.
_HEALTH_PATH: Final = re.compile(
    r"/(?:-/|_|actuator/|api/|management/)?"
    r"(?:health(?:z|y|check)?|live(?:z|ness)?|ready(?:z)?|readiness|startupz?|ping|heartbeat)"
    r"(?:/(?:live(?:ness)?|ready|readiness|startup|db|full))?/?"
)
#: What the user agents of health checks start with.
_PROBES: Final = (b"kube-probe/", b"googlehc/", b"elb-healthchecker/", b"envoy/hc", b"consul health")


def status_class(capture: Capture) -> StatusClass:
    """A gRPC call counts by its own status, and a WebSocket that was closed for an error as failed."""
    if capture.error is not None:
        return "failed"
    if capture.status is None:
        return "open"
    if capture.kind == "grpc" and capture.state == "done" and capture.grpc_status != 0:
        unknown = capture.grpc_status is None and capture.is_grpc_web and capture.status == 200
        return "2xx" if unknown else "failed"
    code = close_code(capture)
    if code is not None and code < 3000 and code not in _GOOD_CODES:
        return "failed"
    return f"{min(max(capture.status // 100, 1), 5)}xx"  # type: ignore[return-value]  # one of the five


def status_text(capture: Capture) -> str:
    """A few characters for the list, such as "200", "NOT_FOUND" or "failed"; "" without a response yet."""
    grpc = capture.grpc_status
    if grpc is not None:
        return status_name(grpc)
    if capture.status is None:
        return "" if capture.error is None else "failed"
    if capture.kind == "grpc":
        if capture.status != 200:
            return f"HTTP {capture.status}"
        if capture.is_grpc_web:
            return "200"
        return "no status" if capture.state == "done" else ""
    code = close_code(capture)
    return str(capture.status) if code is None else f"closed {code}"


def close_code(capture: Capture) -> int | None:
    """The close code of a WebSocket, of the side that closed first; None while it is open."""
    if capture.kind != "websocket":
        return None
    first = next((each for each in capture.messages[-4:] if each.opcode == "close"), None)
    return None if first is None else code_of(first)


def code_of(message: Message) -> int:
    """The code in a close frame (RFC 6455 §7.1.5)."""
    return int.from_bytes(message.data[:2], "big") if len(message.data) >= 2 else 1005


def close_words(message: Message) -> str:
    """A close frame in words: its code, what that means, and the reason that the sender gave."""
    code = code_of(message)
    meaning = CLOSE_CODES.get(code, "a code of the app" if code >= 3000 else "a code without a meaning")
    reason = message.data[2:].decode("utf-8", "replace")
    return f"{code} {meaning}: {reason}" if reason else f"{code} {meaning}"


def is_noise(capture: Capture) -> bool:
    """Whether it is gRPC reflection or a health check."""
    target = capture.target
    if target.startswith(_NOISE_CALLS):
        return True
    if capture.method not in ("GET", "HEAD"):
        return False
    if _HEALTH_PATH.fullmatch(target.partition("?")[0]):
        return True
    raw = capture.request_head.raw
    # A pattern without regard to case takes ten times as long.
    at = max(raw.find(b"ser-agent:"), raw.find(b"ser-Agent:"))
    return at >= 0 and raw[at + 10 : at + 40].strip().lower().startswith(_PROBES)
