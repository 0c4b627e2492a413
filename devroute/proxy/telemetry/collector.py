"""One batch of spans to a collector by OTLP/HTTP, and what became of it. Needs the extra `otel`.

A collector is not trusted: its response is read up to a limit, in a limited time, and means nothing unless it
is what OTLP specifies.
"""

import json
import os
from typing import Final, NamedTuple

import aiohttp
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from devroute.quoting import printable

#: Seconds for a batch, from the connection to the end of the response.
SECONDS: Final = 10.0
#: Bytes of a response: a number and a message.
MAX_RESPONSE: Final = 64 * 1024
#: Seconds that a collector may ask to be left alone.
MAX_RETRY_AFTER: Final = 60.0
#: Statuses after which OTLP permits another attempt.
RETRYABLE: Final = frozenset({429, 502, 503, 504})

# Why spans were dropped, for the counter.
QUEUE_FULL: Final = "queue-full"
UNREACHABLE: Final = "unreachable"
REFUSED: Final = "refused"
INVALID: Final = "invalid-response"
REJECTED: Final = "rejected"
STOPPED: Final = "stopped"
REASONS: Final = (QUEUE_FULL, UNREACHABLE, REFUSED, INVALID, REJECTED, STOPPED)

_HEADERS: Final = {"content-type": "application/x-protobuf", "accept-encoding": "identity"}


class Delivery(NamedTuple):
    """`reason` is "" if the collector took the batch, REJECTED if it did without some spans, `rejected` by
    its own count. `again`: another attempt may succeed, `after` so many seconds (None: it did not say)."""

    reason: str = ""
    problem: str = ""
    rejected: int = 0
    again: bool = False
    after: float | None = None


class Collector:
    """`url` is the one that traces are posted to. Follows no redirect, and uses no forward proxy."""

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        self._url = url
        self._timeout = aiohttp.ClientTimeout(total=seconds)
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def send(self, body: bytes) -> Delivery:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=self._timeout,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                connector=aiohttp.TCPConnector(limit=1),
            )
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False) as response:
                found = bytearray()
                while len(found) <= MAX_RESPONSE and (chunk := await response.content.readany()):
                    found += chunk
                if len(found) > MAX_RESPONSE:
                    response.close()
                retry_after = response.headers.get("retry-after", "")
                return judge(response.status, response.content_type, bytes(found), retry_after)
        except TimeoutError:
            problem = f"the collector did not respond within {self._seconds:g} s"
        except aiohttp.ClientResponseError as error:
            return Delivery(INVALID, f"the collector's response is not HTTP: {printable(error.message, 200)}")
        except (aiohttp.ClientError, OSError) as error:
            problem = printable(f"the collector cannot be reached: {_cause(error)}", 300)
        return Delivery(UNREACHABLE, problem, again=True)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def judge(status: int, content_type: str, body: bytes, retry_after: str) -> Delivery:
    """What a response means (OTLP specification, "OTLP/HTTP response"). `body` may be cut off; `retry_after`
    is the header's value, "" without one."""
    if not 200 <= status < 300:
        again = status in RETRYABLE
        return Delivery(REFUSED, f"the collector responded {status}", 0, again, _seconds(retry_after))
    try:
        if len(body) > MAX_RESPONSE:
            raise ValueError("too long")
        if content_type == "application/json":
            partial = json.loads(body).get("partialSuccess") or {}
            rejected, message = int(partial.get("rejectedSpans", 0)), str(partial.get("errorMessage", ""))
        else:
            success = ExportTraceServiceResponse.FromString(body).partial_success
            rejected, message = success.rejected_spans, success.error_message
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError, DecodeError):
        return Delivery(INVALID, f"the collector responded {status}, but not as OTLP specifies")
    if rejected > 0:
        return Delivery(REJECTED, f"the collector rejected spans: {printable(message, 200)}", rejected)
    return Delivery()


def _seconds(retry_after: str) -> float | None:
    """A date counts as absent: collectors send seconds (RFC 9110 §10.2.3)."""
    if not retry_after.isascii() or not retry_after.isdigit():
        return None
    return min(float(retry_after[:9]), MAX_RETRY_AFTER)


def _cause(error: Exception) -> str:
    """Of a connection that failed, without the TLS context and the call that aiohttp's own texts name."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return f"the name '{error.host}' does not resolve"
    errno = getattr(getattr(error, "os_error", error), "errno", None)
    return os.strerror(errno) if errno is not None and errno > 0 else str(error) or type(error).__name__
