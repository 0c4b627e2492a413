"""Comparisons of the service's responses with the laptop's (`up --shadow`), as the proxy reports them.

Owns the agent's service to which routing/shadow/notifier.py sends them, and finds the differences. What is
shown and kept is redacted as captures are. Pure.
"""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from devroute.agent.message_receiver import MessageReceiver
from devroute.errors import RequestMalformed
from devroute.headers import COMPARE, LOST
from devroute.http.message import RequestHead
from devroute.inspector.capture import Body, Capture, CapturedHead
from devroute.inspector.compare import IgnoreRules, differences, response_of
from devroute.inspector.recorder import Recorder
from devroute.inspector.redaction import Redaction
from devroute.inspector.store import CaptureStore

#: Bytes of one message: two bodies of 32 KiB in base64, and their heads.
MAX_MESSAGE: Final = 512 * 1024
#: Captures that are searched for the laptop's response, the newest first.
MAX_SEARCHED: Final = 2000

_LOST: Final = LOST.encode()


@dataclass(frozen=True, slots=True)
class ComparisonResult:
    """`differences` between the service's response and the laptop's: empty if they are equal, None if one of
    them is missing. `contract`: the request had one, and is not ordinary traffic."""

    service: str
    method: str
    target: str
    differences: list[dict[str, str | None]] | None
    contract: bool = True


@dataclass(eq=False)
class ComparisonReceiver(MessageReceiver):
    """Each result goes to `show`, with the count of comparisons that were lost before it, and to the capture
    of the request, if `recorder` has recorded it."""

    max_message = MAX_MESSAGE

    rules: IgnoreRules
    redact: Redaction
    show: Callable[[ComparisonResult, int], None]
    recorder: Recorder | None = None

    def __post_init__(self) -> None:
        self._redactor = CaptureStore(redact=self.redact)

    def receive(self, head: RequestHead, document: bytes) -> None:
        lost = next((value for name, value in head.headers if name == _LOST), b"0")
        self.take(document, int(lost) if lost.isdigit() else 0)

    def take(self, document: bytes, lost: int) -> None:
        """Raises RequestMalformed."""
        try:
            message = json.loads(document)
            key = str(message["id"])
            method, target = str(message["method"]), str(message["target"])
            contract = bool(message.get("contract", True))  # older proxies mirror nothing else
            real, laptop = (
                self._response(message[side], message["service"], method, target)
                for side in ("real", "laptop")
            )
        except (ValueError, KeyError, TypeError, AttributeError, binascii.Error):
            raise RequestMalformed("not a comparison") from None
        found: list[dict[str, str | None]] | None
        if real is None or laptop is None:
            found = None
        elif laptop.error is not None:
            code, reason = laptop.error
            found = [{"where": "answer", "left": str(real.status), "right": f"{code}: {reason}"}]
        else:
            found = [
                each._asdict() for each in differences(response_of(real), response_of(laptop), self.rules)
            ]
        target = self.redact.target_text(target)
        self.show(ComparisonResult(str(message["service"]), method, target, found, contract), lost)
        if found is not None and self.recorder is not None and key.isalnum():
            capture = _find(self.recorder.store, key)
            if capture is None:  # it may have been captured just now
                self.recorder.flush()
                capture = _find(self.recorder.store, key)
            if capture is not None:
                self.recorder.store.set_comparison(capture, found)

    def _response(self, side: Any, service: str, method: str, target: str) -> Capture | None:
        """One side of the comparison, redacted."""
        if side is None:
            return None
        capture = Capture(service, method, target, 0.0, 0.0)
        fields = [(str(name), str(value)) for name, value in side["headers"]]
        if any(char in text for field in fields for text in field for char in "\r\n"):
            raise ValueError
        capture.response_head = CapturedHead.of(fields)
        capture.status = int(side["status"])
        capture.state = "done"
        data = base64.b64decode(side["body"], validate=True)
        capture.response_body = Body(bytearray(data))
        capture.response_body.truncated = not side["whole"]
        capture.response_body.complete = bool(side["whole"])
        if side["error"] is not None:
            code, reason = side["error"]
            capture.error = str(code), str(reason)
        self._redactor.add(capture)
        self._redactor.drop(capture)
        return capture


def _find(captures: CaptureStore, key: str) -> Capture | None:
    field = f"{COMPARE}: {key}\r\n".encode("ascii")
    newest = islice(captures.newest_first(), MAX_SEARCHED)
    return next((each for each in newest if field in each.request_head.raw), None)
