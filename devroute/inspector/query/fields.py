"""The fields of a query: what their values mean, and which values there are.

A field of another feature is an entry of FIELDS, a state of an exchange one of STATES.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Final, NamedTuple

from devroute.http.grpc import NAMES
from devroute.inspector.capture import Body, Capture, Fields, readable, redacted_parts, value_of
from devroute.inspector.outcome import is_noise, status_class, status_text
from devroute.inspector.protobuf.frames import payloads

#: Bytes of a decoded body that are searched.
MAX_SEARCHED: Final = 1024 * 1024

#: Whether a capture matches a value.
Test = Callable[[Capture], bool]


class Field(NamedTuple):
    """`words` explain it in completion. `test` makes the test for a value, and raises a ValueError that says
    what it takes. `values`: those that captures have, the most frequent first. `deep`: it reads bodies."""

    words: str
    test: Callable[[str], Test]
    values: Callable[[Iterable[Capture]], Iterable[str]]
    deep: bool = False


# --- states -------------------------------------------------------------------------------------------------

#: The values of `is:`, with what they mean.
STATES: Final[dict[str, tuple[str, Test]]] = {
    "http": ("plain HTTP", lambda each: each.kind == "http"),
    "grpc": ("gRPC", lambda each: each.kind == "grpc"),
    "websocket": ("WebSocket", lambda each: each.kind == "websocket"),
    "sse": ("a stream of events", lambda each: each.kind == "sse"),
    "upgrade": ("another upgraded connection", lambda each: each.kind == "upgrade"),
    "open": ("still in flight", lambda each: each.state == "open"),
    "failed": (
        "no response, a gRPC error, or a broken connection",
        lambda each: status_class(each) == "failed",
    ),
    "replay": ("a replayed request", lambda each: each.replay_of is not None),
    "ruled": ("a rule of this laptop did something", lambda each: bool(each.rules)),
    "shadow": ("shadow traffic", lambda each: each.comparison is not None),
    "same": ("shadow traffic: the same as the service's response", lambda each: each.comparison == []),
    "different": ("shadow traffic: not the service's response", lambda each: bool(each.comparison)),
    "noise": ("gRPC reflection and health checks", is_noise),
    "redacted": ("a part of the request was redacted", lambda each: bool(redacted_parts(each))),
}


#: The values of `direction:`, with what they mean.
DIRECTIONS: Final[dict[str, tuple[str, Test]]] = {
    "in": ("to an app of this laptop", lambda each: each.direction == "in"),
    "out": ("from this laptop to a service of the mesh", lambda each: each.direction == "out"),
}

#: The fields whose values have words about each.
_EXPLAINED: Final = {"is": STATES, "direction": DIRECTIONS}


def _one_of(tests: dict[str, tuple[str, Test]]) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        try:
            return tests[value.lower()][1]
        except KeyError:
            raise ValueError("one of " + ", ".join(tests)) from None

    return test


# --- statuses, times and sizes ------------------------------------------------------------------------------

_BOUND = re.compile(r"(>=|<=|>|<)([0-9]{1,12}(?:\.[0-9]{1,6})?)([a-z]*)")
_BOUNDS: Final[dict[str, Callable[[float, float], bool]]] = {
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
}
_TIMES: Final = {"ms": 1e-3, "": 1e-3, "s": 1.0, "m": 60.0}
_SIZES: Final = {"b": 1.0, "": 1.0, "kb": 1e3, "k": 1e3, "mb": 1e6, "m": 1e6}


def _bound(value: str, units: dict[str, float], of: Callable[[Capture], float | None]) -> Test | None:
    """The test of `>=N`, None for another value."""
    match = _BOUND.fullmatch(value.lower())
    if match is None or match[3] not in units:
        return None
    compare, limit = _BOUNDS[match[1]], float(match[2]) * units[match[3]]

    def test(capture: Capture) -> bool:
        number = of(capture)
        return number is not None and compare(number, limit)

    return test


def _status(value: str) -> Test:
    low = value.lower()
    if re.fullmatch(r"[1-5]xx", low) or low in ("failed", "open"):
        return lambda each: status_class(each) == low
    if re.fullmatch(r"[1-9][0-9][0-9]", low):
        number = int(low)
        return lambda each: each.status == number
    if low.upper() in NAMES:
        code = NAMES.index(low.upper())
        return lambda each: each.grpc_status == code
    test = _bound(low, {"": 1.0}, lambda each: each.status)
    if test is None:
        raise ValueError("a status such as 404, 5xx, >=400, NOT_FOUND, failed or open")
    return test


def _statuses(captures: Iterable[Capture]) -> list[str]:
    listed = list(captures)
    return _frequent(map(status_class, listed)) + _frequent(map(status_text, listed))


def _time(value: str) -> Test:
    test = _bound(value, _TIMES, lambda each: each.duration)
    if test is None:
        raise ValueError("a time such as >500ms or <2s")
    return test


def _size(value: str) -> Test:
    test = _bound(value, _SIZES, lambda each: each.response_body.size)
    if test is None:
        raise ValueError("a size of the response such as >10kb or <1mb")
    return test


# --- texts --------------------------------------------------------------------------------------------------


def _needle(value: str) -> bytes:
    """Captures are compared as bytes, in which only the letters of ASCII have two cases."""
    return value.encode("utf-8", "surrogatepass").lower()


def _holds(text: str, needle: bytes) -> bool:
    return needle in _needle(text)


def _method(value: str) -> Test:
    upper = value.upper()
    return lambda each: each.method.upper() == upper


def _contains(of: Callable[[Capture], str]) -> Callable[[str], Test]:
    def test(value: str) -> Test:
        needle = _needle(value)
        return lambda each: _holds(of(each), needle)

    return test


def _in_body(body: Body, headers: Fields, needle: bytes) -> bool:
    return bool(body.data) and needle in readable(body, headers, MAX_SEARCHED, unchecked=True).lower()


def _bodies_hold(capture: Capture, needle: bytes) -> bool:
    return (
        _in_body(capture.request_body, capture.request_headers, needle)
        or _in_body(capture.response_body, capture.response_headers, needle)
        or any(needle in message.data.lower() for message in capture.messages)
        or any(needle in data.lower() for data in _decompressed(capture))
    )


def _decompressed(capture: Capture) -> Iterator[bytes]:
    """The gRPC messages that were compressed."""
    if capture.kind == "grpc" and any(message.compressed for message in capture.messages):
        for payload in payloads(capture, 0):
            if payload.encoding:
                yield payload.plain().data


def _heads_hold(capture: Capture, needle: bytes) -> bool:
    return (
        needle in capture.request_head.raw.lower()
        or needle in capture.response_head.raw.lower()
        or any(_holds(f"{name}: {value}", needle) for name, value in capture.trailers)
    )


def _body(value: str) -> Test:
    needle = _needle(value)
    return lambda each: _bodies_hold(each, needle)


def _header(value: str) -> Test:
    needle = _needle(value)
    return lambda each: _heads_hold(each, needle)


def anywhere(value: str) -> Test:
    """The test of a text without a field: in the start line, the service, heads, bodies and messages."""
    needle = _needle(value)

    def test(each: Capture) -> bool:
        line = f"{each.method} {each.target} {status_text(each)} {each.service} {each.caller}"
        return _holds(line, needle) or _heads_hold(each, needle) or _bodies_hold(each, needle)

    return test


def _type(capture: Capture) -> str:
    sides = (capture.response_headers, capture.request_headers)
    return " ".join(value_of(headers, "content-type") for headers in sides)


def _media_types(captures: Iterable[Capture]) -> list[str]:
    types = (value_of(each.response_headers, "content-type") for each in captures)
    return _frequent(each.partition(";")[0].strip() for each in types)


# --- values -------------------------------------------------------------------------------------------------


def _frequent(values: Iterable[str]) -> list[str]:
    return [value for value, _ in Counter(filter(None, values)).most_common()]


def _of(name: str) -> Callable[[Iterable[Capture]], list[str]]:
    return lambda captures: _frequent(getattr(each, name) for each in captures)


def _paths(captures: Iterable[Capture]) -> list[str]:
    return _frequent(each.target.partition("?")[0] for each in captures)


def _always(*values: str) -> Callable[[Iterable[Capture]], Iterable[str]]:
    return lambda captures: values


FIELDS: Final[dict[str, Field]] = {
    "status": Field("404, 5xx, >=400, NOT_FOUND, failed, open", _status, _statuses),
    "method": Field("GET, POST, …", _method, _of("method")),
    "path": Field("text in the path and query", _contains(lambda each: each.target), _paths),
    "body": Field("text in a body or a message", _body, _always(), deep=True),
    "header": Field("text in a header or trailer, as name: value", _header, _always(), deep=True),
    "from": Field("the caller", _contains(lambda each: each.caller), _of("caller")),
    "service": Field("the service", _contains(lambda each: each.service), _of("service")),
    "is": Field("grpc, websocket, replay, noise, …", _one_of(STATES), _always(*STATES)),
    "direction": Field("in: to this laptop, out: from it", _one_of(DIRECTIONS), _always(*DIRECTIONS)),
    "type": Field("text in the content type", _contains(_type), _media_types),
    "time": Field(">500ms, <2s", _time, _always(">100ms", ">1s", ">10s")),
    "size": Field("of the response: >10kb, <1mb", _size, _always(">10kb", ">100kb", ">1mb")),
}

#: Names that people try instead.
OTHER_NAMES: Final = {
    "caller": "from", "source": "from", "code": "status", "grpc-status": "status", "verb": "method",
    "url": "path", "uri": "path", "query": "path", "kind": "is", "protocol": "is", "content": "body",
    "message": "body", "text": "body", "headers": "header", "mime": "type", "content-type": "type",
    "duration": "time", "svc": "service", "host": "service", "dir": "direction", "way": "direction",
}  # fmt: skip


def values_of(field: str, captures: Iterable[Capture]) -> list[tuple[str, str]]:
    """The values of a field in these captures, with words about each, "" without any."""
    words = {name: meaning for name, (meaning, _) in _EXPLAINED.get(field, {}).items()}
    values = dict.fromkeys(chain(FIELDS[field].values(captures)))
    return [(value, words.get(value, "")) for value in values]
