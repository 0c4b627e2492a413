"""The laptop's end of a comparison (`up --shadow`): what the proxy tells of a pair becomes a verdict.

Owns the service of the agent that the proxy tells (routing/shadow/notifier.py), and finds what differs. What
is shown and kept was redacted as captures are. Pure.
"""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from devroute.errors import BodyTooLarge, DevrouteError, RequestMalformed
from devroute.headers import COMPARE, LOST
from devroute.http.http1.response import parse_response_head
from devroute.http.message import Headers, RequestHead
from devroute.inspector.capture import Body, Capture, as_lines
from devroute.inspector.compare import IgnoreRules, differences, response_of
from devroute.inspector.redaction import Redaction
from devroute.inspector.store import CaptureStore
from devroute.upstream.interface import ResponseSink

#: Bytes of one message: two bodies of 32 KiB in base64, and their heads.
MAX_MESSAGE: Final = 512 * 1024
#: Captures that are looked through for the laptop's answer, the newest first.
MAX_LOOKED_AT: Final = 2000

_LOST: Final = LOST.encode()
_TAKEN: Final = b"HTTP/1.1 204 No Content\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """`differences` between the real service's answer and ours, empty for the same; None where there was
    nothing to compare. `contract`: the request had one, and is not ordinary traffic."""

    service: str
    method: str
    target: str
    differences: list[dict[str, str | None]] | None
    contract: bool = True


class ComparisonReceiver:
    """Implements devroute.upstream.Upstream. Each verdict goes to `show`, and to the capture of the request,
    if there is one; `settled` has what was captured just now put among the captures."""

    def __init__(
        self,
        rules: IgnoreRules,
        redact: Redaction,
        show: Callable[[ComparisonResult, int], None],
        captures: CaptureStore | None = None,
        settled: Callable[[], None] | None = None,
    ) -> None:
        """`show` is also told how many comparisons were lost before this one."""
        self._rules = rules
        self._cleanser = CaptureStore(redact=redact)
        self._show = show
        self._captures = captures
        self._settled = settled

    def open(self, head: RequestHead, sink: ResponseSink) -> "_Message":
        return _Message(self, head, sink)

    async def close(self) -> None:
        """There is nothing that would have to end."""

    def take(self, document: bytes, lost: int) -> None:
        """Raises RequestMalformed."""
        try:
            told = json.loads(document)
            key = str(told["id"])
            method, target = str(told["method"]), str(told["target"])
            contract = bool(told.get("contract", True))  # older proxies copy nothing else
            real, laptop = (
                self._answer(told[side], told["service"], method, target) for side in ("real", "laptop")
            )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            raise RequestMalformed("this is not a comparison") from None
        found: list[dict[str, str | None]] | None
        if real is None or laptop is None:
            found = None
        elif laptop.error is not None:
            code, message = laptop.error
            found = [{"where": "answer", "left": str(real.status), "right": f"{code}: {message}"}]
        else:
            found = [
                each.as_dict() for each in differences(response_of(real), response_of(laptop), self._rules)
            ]
        target = target if real is None else real.target
        self._show(ComparisonResult(str(told["service"]), method, target, found, contract), lost)
        if found is not None and (exchange := self._capture(key)) is not None and self._captures is not None:
            self._captures.set_comparison(exchange, found)

    def _answer(self, told: Any, service: str, method: str, target: str) -> Capture | None:
        """One side, with its secrets taken out."""
        if told is None:
            return None
        exchange = Capture(service, method, target, 0.0, 0.0)
        fields = [(str(name), str(value)) for name, value in told["headers"]]
        if any(char in text for field in fields for text in field for char in "\r\n"):
            raise ValueError
        exchange.raw_response = as_lines(fields)
        exchange.status = int(told["status"])
        exchange.state = "done"
        data = base64.b64decode(told["body"], validate=True)
        exchange.response_body = Body(bytearray(data))
        exchange.response_body.truncated = not told["whole"]
        exchange.response_body.complete = bool(told["whole"])
        if told["error"] is not None:
            code, message = told["error"]
            exchange.error = str(code), str(message)
        self._cleanser.add(exchange)
        self._cleanser.drop(exchange)
        return exchange

    def _capture(self, key: str) -> Capture | None:
        if self._captures is None or not key.isalnum():
            return None
        found = self._find(key)
        if found is None and self._settled is not None:
            self._settled()
            found = self._find(key)
        return found

    def _find(self, key: str) -> Capture | None:
        assert self._captures is not None
        field = f"{COMPARE}: {key}\r\n".encode("ascii")
        newest = islice(self._captures.newest_first(), MAX_LOOKED_AT)
        return next((each for each in newest if field in each.raw_request), None)


class _Message:
    """One comparison on its way in."""

    def __init__(self, verdicts: ComparisonReceiver, head: RequestHead, sink: ResponseSink) -> None:
        self._verdicts = verdicts
        self._head = head
        self._sink = sink
        self._document = bytearray()
        self._over = False

    def send_data(self, data: bytes) -> None:
        if self._over:
            return
        self._document += data
        if len(self._document) > MAX_MESSAGE:
            self._fail(BodyTooLarge(f"a comparison is longer than {MAX_MESSAGE} bytes"))

    def send_end(self, trailers: Headers) -> None:
        if self._over:
            return
        lost = next((value for name, value in self._head.headers if name == _LOST), b"0")
        try:
            self._verdicts.take(bytes(self._document), int(lost) if lost.isdigit() else 0)
        except DevrouteError as error:
            self._fail(error)
            return
        self._over = True
        self._sink.on_head(parse_response_head(_TAKEN, self._head.method))
        self._sink.on_end([])

    def _fail(self, error: DevrouteError) -> None:
        self._over = True
        self._sink.on_error(error)

    def cancel(self) -> None:
        self._over = True

    def pause_response(self) -> None: ...
    def resume_response(self) -> None: ...
