"""The two answers to a copied request, the real service's and the laptop's, until both are there. Pure.

Owns the pairs and their bounds. The sidecar tells of the one (POST /compare), upstream/mirror.py of the
other; whoever
owns the laptop is told of both. What differs between them is theirs to find (inspector/compare.py).
"""

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from devroute.errors import DevrouteError, RequestMalformed
from devroute.headers import COMPARE, CONTRACT, line_start
from devroute.http.message import Headers, RequestHead, ResponseHead, header_id

#: Bytes of an answer's body that are compared, as in lua/compare.lua.
MAX_BODY: Final = 32 * 1024
#: Pairs of which a half is missing, with 32 MiB of bodies at most; above, new ones are not compared.
MAX_PENDING: Final = 512
#: Seconds for the second half: nobody waits for it.
PAIR_SECONDS: Final = 60.0
#: Characters of an id (devroute.lua).
ID_LENGTH: Final = 32

_FIELD: Final = line_start(COMPARE)
_CONTRACT: Final = line_start(CONTRACT)
#: Headers whose values are secrets of people who know nothing of the laptop.
_SECRET: Final = frozenset(("set-cookie", "authorization", "www-authenticate", "proxy-authenticate"))
#: What stands for them, as in the inspector.
_REDACTED: Final = "[redacted]"


@dataclass(slots=True)
class ComparedResponse:
    """One side; `whole` unless there was more of the body. `error` is why there is no answer, or not all."""

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


def comparison_id(head: RequestHead) -> str | None:
    """By which a request's answers find each other; None where nobody will tell of the real one."""
    return header_id(head.wire, _FIELD, ID_LENGTH)


def parse_service_response(body: bytes, *, whole: bool) -> ComparedResponse:
    """The real service's answer, as lua/compare.lua writes it. Raises RequestMalformed."""
    head, separator, rest = body.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    word, _, status = first.partition(" ")
    if not separator or word != "status" or not status.isdigit() or len(status) != 3:
        raise RequestMalformed("this is not an answer that a sidecar tells of")
    fields = [line.partition(": ") for line in lines]
    return ComparedResponse(
        int(status), [(name.lower(), value) for name, _, value in fields], bytearray(rest[:MAX_BODY]), whole
    )


#: Told of a pair, as JSON.
Notify = Callable[[bytes], None]


@dataclass(slots=True)
class _Pair:
    """What is known of one request. `laptop` has begun where `done` is False; `contract`: it has one."""

    since: float
    service: str = ""
    method: str = ""
    target: str = ""
    contract: bool = True
    tell: Notify | None = None
    real: ComparedResponse | None = None
    laptop: ComparedResponse = field(default_factory=ComparedResponse)
    done: bool = False


class PendingComparisons:
    """All pairs of one proxy. `clock` gives seconds, and may be coarse."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._pairs: dict[str, _Pair] = {}

    def __len__(self) -> int:
        return len(self._pairs)

    def _pair(self, key: str) -> _Pair | None:
        pair = self._pairs.get(key)
        if pair is None:
            if len(self._pairs) >= MAX_PENDING:
                return None
            pair = self._pairs[key] = _Pair(self._clock())
        return pair

    def real(self, key: str, answer: ComparedResponse) -> None:
        """The real service has answered; it may do so before the copy has reached us."""
        pair = self._pair(key)
        if pair is not None and pair.real is None:
            pair.real = answer
            self._complete(key, pair)

    def expect(self, key: str, service: str, head: RequestHead, tell: Notify) -> "ResponseObserver | None":
        """A copy is on its way to a laptop, whose owner is told by `tell`."""
        pair = self._pair(key)
        if pair is None or pair.tell is not None:
            return None
        pair.service, pair.tell = service, tell
        pair.method, pair.target = head.method.decode("latin-1"), head.target.decode("latin-1")
        pair.contract = _CONTRACT in head.wire
        return ResponseObserver(self, key, pair)

    def _complete(self, key: str, pair: _Pair) -> None:
        if self._pairs.get(key) is not pair:
            return  # it took too long
        if pair.done and pair.real is not None and pair.tell is not None:
            del self._pairs[key]
            pair.tell(_as_json(pair, key))

    def expire(self) -> None:
        """Give up what waits too long: the owner of the laptop hears that there is nothing to compare."""
        oldest = self._clock() - PAIR_SECONDS
        for key, pair in list(self._pairs.items()):
            if pair.since <= oldest:
                del self._pairs[key]
                if pair.tell is not None:
                    pair.tell(_as_json(pair, key))


class ResponseObserver:
    """Sees a laptop's answer to a copy."""

    __slots__ = ("_comparisons", "_key", "_pair")

    def __init__(self, comparisons: PendingComparisons, key: str, pair: _Pair) -> None:
        self._comparisons = comparisons
        self._key = key
        self._pair = pair

    def on_head(self, head: ResponseHead) -> None:
        answer = self._pair.laptop
        answer.status = head.status
        answer.headers = _texts(head.end_to_end())

    def on_data(self, data: bytes) -> None:
        if self._pair.laptop.whole:
            self._pair.laptop.add(data)

    def on_end(self, trailers: Headers) -> None:
        self._pair.laptop.headers += _texts(trailers)
        self._over()

    def on_error(self, error: DevrouteError) -> None:
        self._pair.laptop.error = error
        self._over()

    def _over(self) -> None:
        self._pair.done = True
        self._comparisons._complete(self._key, self._pair)


def _texts(fields: Headers) -> list[tuple[str, str]]:
    return [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in fields]


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
