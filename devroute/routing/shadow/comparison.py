"""Comparisons of shadow requests: the service's and the laptop's response, until both have arrived. Pure.

Owns the pairs and their bounds. The sidecar reports the service's response (POST /compare), and
upstream/mirror.py the laptop's; the laptop gets both, and finds the differences (agent/comparisons.py).
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from devroute.errors import DevrouteError, RequestMalformed
from devroute.headers import COMPARE, CONTRACT, line_start
from devroute.http.message import Headers, RequestHead, ResponseHead, header_id
from devroute.http.secret_names import SecretNames

#: Bytes of a response's body that are compared.
MAX_BODY: Final = 32 * 1024
#: Pairs that lack a response, with 32 MiB of bodies at most; beyond it, new ones are not compared.
MAX_PENDING: Final = 512
#: Bytes of all of them: heads, which may have 64 KiB each, and bodies.
MAX_PENDING_BYTES: Final = 32 * 1024 * 1024
#: Fields of a response, the most that a sidecar takes from an app; further ones are not compared.
MAX_FIELDS: Final = 128
#: Seconds for the second response.
PAIR_SECONDS: Final = 60.0
#: Characters of an id (lua/parts/random.lua).
ID_LENGTH: Final = 32

#: Bytes that a field costs besides its text.
_FIELD_BYTES: Final = 200
_FIELD: Final = line_start(COMPARE)
_CONTRACT: Final = line_start(CONTRACT)
#: With two more, since these are secrets of people who do not know that a laptop receives their traffic.
_SECRET: Final = SecretNames(("www-authenticate", "proxy-authenticate"))
#: Replaces their values, as in the inspector.
_REDACTED: Final = "[redacted]"


@dataclass(slots=True)
class ComparedResponse:
    """One of the two responses. `whole` is false where the body was longer than MAX_BODY; `error` is why the
    response is missing or incomplete."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    whole: bool = True
    error: DevrouteError | None = None

    def add(self, data: bytes) -> None:
        room = MAX_BODY - len(self.body)
        if room < len(data):
            self.whole = False
        self.body += data[:room]

    def as_dict(self) -> dict[str, object]:
        return {
            "status": self.status,
            "headers": [[name, _REDACTED if name in _SECRET else value] for name, value in self.headers],
            "body": base64.b64encode(self.body).decode("ascii"),
            "whole": self.whole,
            "error": None if self.error is None else [self.error.code, self.error.message],
        }


def decode_response(body: bytes) -> ComparedResponse:
    """What `ComparedResponse.as_dict` was, as JSON of another replica. Raises ValueError, KeyError or
    TypeError."""
    found = json.loads(body)
    headers = [(str(name), str(value)) for name, value in found["headers"][:MAX_FIELDS]]
    compared = base64.b64decode(found["body"])[:MAX_BODY]
    return ComparedResponse(int(found["status"]), headers, bytearray(compared), bool(found["whole"]))


def comparison_id(head: bytes) -> str | None:
    """The id that joins the two responses to a request with this head; None where the sidecar will not report
    the service's."""
    return header_id(head, _FIELD, ID_LENGTH)


def parse_service_response(body: bytes, *, whole: bool) -> ComparedResponse:
    """The service's response, as lua/compare.lua writes it. Raises RequestMalformed."""
    head, separator, rest = body.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    word, _, status = first.partition(" ")
    if not separator or word != "status" or not status.isdigit() or len(status) != 3:
        raise RequestMalformed("the body is not a response in the form of POST /compare")
    fields = [line.partition(": ") for line in lines[:MAX_FIELDS]]
    return ComparedResponse(
        int(status), [(name.lower(), value) for name, _, value in fields], bytearray(rest[:MAX_BODY]), whole
    )


#: Takes a comparison as JSON.
Notify = Callable[[bytes], None]


@dataclass(slots=True)
class _Pair:
    """What is known of one request. `laptop` is incomplete until `done`; `contract`: the request has one."""

    since: float
    service: str = ""
    method: str = ""
    target: str = ""
    contract: bool = True
    notify: Notify | None = None
    real: ComparedResponse | None = None
    laptop: ComparedResponse = field(default_factory=ComparedResponse)
    done: bool = False
    size: int = 0


class PendingComparisons:
    """All pairs of one proxy. `clock` gives seconds, and may be coarse."""

    def __init__(self, clock: Callable[[], float]) -> None:
        #: Called with the key of a pair whose service's response has not come when the laptop's is complete.
        self.missing: Callable[[str], None] = lambda key: None
        self._clock = clock
        self._pairs: dict[str, _Pair] = {}
        self._refused: dict[str, None] = {}  # the newest MAX_PENDING keys, in their order
        self.size = 0  # in bytes

    def __len__(self) -> int:
        return len(self._pairs)

    def knows(self, key: str, pair: _Pair) -> bool:
        return self._pairs.get(key) is pair

    def _pair(self, key: str) -> _Pair | None:
        pair = self._pairs.get(key)
        if pair is None:
            if len(self._pairs) >= MAX_PENDING or self.size >= MAX_PENDING_BYTES:
                return None
            pair = self._pairs[key] = _Pair(self._clock())
        return pair

    def add_service_response(self, key: str, response: ComparedResponse) -> bool:
        """Returns whether it is expected here. It may arrive before the shadow request has, which then is not
        known here."""
        if key in self._refused:
            del self._refused[key]
            return True
        pair = self._pair(key)
        expected = pair is not None and pair.notify is not None
        if pair is not None and pair.real is None:
            pair.real = response
            self.grow(pair, _size(response.headers) + len(response.body))
            self.complete(key, pair)
        return expected

    def expects(self, key: str) -> bool:
        """Whether the shadow request came here, and the service's response has not."""
        pair = self._pairs.get(key)
        return key in self._refused or (pair is not None and pair.notify is not None and pair.real is None)

    def waiting(self, key: str) -> ComparedResponse | None:
        """A service's response whose shadow request has not come here."""
        pair = self._pairs.get(key)
        return None if pair is None or pair.notify is not None else pair.real

    def discard(self, key: str) -> None:
        """Another replica has it."""
        if self.waiting(key) is not None:
            self._remove(key, self._pairs[key])

    def refuse(self, key: str) -> None:
        """The shadow request is sent to no laptop: the service's response, which comes all the same, would
        wait for nothing, and leave no room for others."""
        if self.waiting(key) is not None:
            self._remove(key, self._pairs[key])
            return
        self._refused[key] = None
        if len(self._refused) > MAX_PENDING:
            del self._refused[next(iter(self._refused))]

    def expect(
        self, key: str, service: str, head: RequestHead, notify: Notify
    ) -> "LaptopResponseObserver | None":
        """A shadow request is sent to a laptop; `notify` takes its comparison. Returns what observes the
        laptop's response, or None where there is no room or the id is in use."""
        pair = self._pair(key)
        if pair is None or pair.notify is not None:
            return None
        pair.service, pair.notify = service, notify
        pair.method, pair.target = head.method.decode("latin-1"), head.target.decode("latin-1")
        pair.contract = _CONTRACT in head.wire
        # Room for the laptop's body, too, which arrives piece by piece.
        self.grow(pair, len(pair.target) + MAX_BODY)
        return LaptopResponseObserver(self, key, pair)

    def complete(self, key: str, pair: _Pair) -> None:
        if not self.knows(key, pair):
            return  # expired
        if pair.done and pair.real is not None and pair.notify is not None:
            self._remove(key, pair)
            pair.notify(_as_json(pair, key))

    def grow(self, pair: _Pair, size: int) -> None:
        pair.size += size
        self.size += size

    def _remove(self, key: str, pair: _Pair) -> None:
        del self._pairs[key]
        self.size -= pair.size

    def expire(self) -> None:
        """Send pairs that lack a response for too long as they are; to be called periodically."""
        oldest = self._clock() - PAIR_SECONDS
        for key, pair in list(self._pairs.items()):
            if pair.since <= oldest:
                self._remove(key, pair)
                if pair.notify is not None:
                    pair.notify(_as_json(pair, key))


class LaptopResponseObserver:
    """Records a laptop's response to a shadow request."""

    __slots__ = ("_comparisons", "_key", "_pair")

    def __init__(self, comparisons: PendingComparisons, key: str, pair: _Pair) -> None:
        self._comparisons = comparisons
        self._key = key
        self._pair = pair

    def on_head(self, head: ResponseHead) -> None:
        response = self._pair.laptop
        response.status = head.status
        self._add_fields(head.end_to_end())

    def on_data(self, data: bytes) -> None:
        if self._pair.laptop.whole:
            self._pair.laptop.add(data)

    def on_end(self, trailers: Headers) -> None:
        self._add_fields(trailers)
        self._finish()

    def on_error(self, error: DevrouteError) -> None:
        self._pair.laptop.error = error
        self._finish()

    def _add_fields(self, fields: Headers) -> None:
        pair = self._pair
        texts = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]
        pair.laptop.headers += texts[: MAX_FIELDS - len(pair.laptop.headers)]
        if self._comparisons.knows(self._key, pair):
            self._comparisons.grow(pair, _size(texts))

    def _finish(self) -> None:
        self._pair.done = True
        if self._pair.real is None and self._comparisons.knows(self._key, self._pair):
            self._comparisons.missing(self._key)
        self._comparisons.complete(self._key, self._pair)


def _size(fields: list[tuple[str, str]]) -> int:
    return sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields)


def _as_json(pair: _Pair, key: str) -> bytes:
    return json.dumps(
        {
            "id": key,
            "service": pair.service,
            "method": pair.method,
            "target": pair.target,
            "contract": pair.contract,
            "real": None if pair.real is None else pair.real.as_dict(),
            "laptop": pair.laptop.as_dict() if pair.done else None,
        },
        separators=(",", ":"),
    ).encode()
