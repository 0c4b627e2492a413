"""What a collector's response means (OTLP specification, "OTLP/HTTP response")."""

import pytest

from devroute.proxy.telemetry.collector import (
    INVALID,
    MAX_RESPONSE,
    REFUSED,
    REJECTED,
    judge,
)
from tests.support.otlp import partial, partial_json

PROTOBUF, JSON, HTML = "application/x-protobuf", "application/json", "text/html"

RESPONSES: list[tuple[int, str, bytes, str, str, int]] = [
    # status, content type, body, Retry-After; then the reason, and how many were rejected
    (200, PROTOBUF, b"", "", "", 0),
    (200, PROTOBUF, partial(0, "a warning"), "", "", 0),
    (200, PROTOBUF, partial(7), "", REJECTED, 7),
    (200, PROTOBUF, partial(-7), "", "", 0),
    (200, PROTOBUF, partial(2**62), "", REJECTED, 2**62),
    (200, "application/octet-stream", b"", "", "", 0),
    (202, PROTOBUF, b"", "", "", 0),
    (200, JSON, b"{}", "", "", 0),
    (200, JSON, b'{"partialSuccess": {}}', "", "", 0),
    (200, JSON, b'{"partialSuccess": null}', "", "", 0),
    (200, JSON, partial_json("7"), "", REJECTED, 7),
    (200, JSON, partial_json([]), "", INVALID, 0),
    (200, JSON, b'{"partialSuccess": {"rejectedSpans": 1e999}}', "", INVALID, 0),
    (200, JSON, b'{"partialSuccess": {"rejectedSpans": -1e999}}', "", INVALID, 0),
    (200, JSON, b"[]", "", INVALID, 0),
    (200, JSON, b"", "", INVALID, 0),
    (200, JSON, b"[" * 60_000, "", INVALID, 0),
    (200, JSON, b"\xff", "", INVALID, 0),
    (200, HTML, b"<html>Welcome to the hotel's network</html>", "", INVALID, 0),
    (200, PROTOBUF, b"\xff" * 64, "", INVALID, 0),
    (200, PROTOBUF, b"\x00" * (MAX_RESPONSE + 1), "", INVALID, 0),
    (301, HTML, b"", "", REFUSED, 0),
    (400, PROTOBUF, b"", "", REFUSED, 0),
    (413, PROTOBUF, b"", "1", REFUSED, 0),
    (500, PROTOBUF, b"", "", REFUSED, 0),
]


@pytest.mark.parametrize(("status", "kind", "body", "retry_after", "reason", "rejected"), RESPONSES)
def test_responses_that_end_a_batch(
    status: int, kind: str, body: bytes, retry_after: str, reason: str, rejected: int
) -> None:
    found = judge(status, kind, body, retry_after)
    assert (found.reason, found.rejected, found.again) == (reason, rejected, False)
    assert bool(found.problem) is bool(reason)
    assert found.problem.isprintable()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        ("", None),
        ("0", 0.0),
        ("7", 7.0),
        ("9" * 500, 60.0),
        ("-1", None),
        ("1.5", None),
        ("²", None),
        ("Wed, 21 Oct 2065 07:28:00 GMT", None),
    ],
)
def test_responses_after_which_another_attempt_may_succeed(
    status: int, retry_after: str, seconds: float | None
) -> None:
    found = judge(status, HTML, b"busy", retry_after)
    assert (found.reason, found.again, found.after) == (REFUSED, True, seconds)
