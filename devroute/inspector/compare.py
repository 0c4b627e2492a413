"""Finds the differences between two responses to one request: status, headers, body, trailers. Pure.

Values that differ between any two responses are ignored (dates, trace ids, values of cookies), and so are
those that IgnoreRules name. A redacted value equals every value.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import islice
from typing import Any, Final, NamedTuple

from devroute.errors import ConfigInvalid
from devroute.headers import PREFIX
from devroute.inspector.capture import REDACTED, Body, Capture, Fields, readable, text_of
from devroute.inspector.json_diff import MISSING, DiffTooLarge, JsonDiff, parse_json
from devroute.inspector.json_path import JsonPath, Location, PathMatcher, format_path

#: Differences that are listed.
MAX_DIFFERENCES: Final = 100

#: Bytes of a decoded body that are compared.
MAX_COMPARED_BYTES: Final = 4 * 1024 * 1024

#: Characters of a value that are shown.
MAX_SHOWN: Final = 200

#: Lines that are aligned, and steps that this may take, some hundredths of a second: it looks at all pairs of
#: equal lines, again for each run of equal lines. Texts of 400 lines that repeat little take fewer.
MAX_ALIGNED_LINES: Final = 400
MAX_ALIGNING_STEPS: Final = 1_000_000

#: Headers that differ between any two responses, or that connections, hops or the mesh set.
IGNORED_HEADERS: Final = frozenset((
    "date", "server", "age", "via", "expires", "last-modified", "connection", "keep-alive",
    "transfer-encoding", "content-encoding", "trailer", "x-request-id", "x-correlation-id", "request-id",
    "traceparent", "tracestate", "baggage", "b3", "x-runtime", "x-response-time", "server-timing", "alt-svc",
    "report-to", "nel", "cf-ray", "x-powered-by",
))  # fmt: skip
_IGNORED_PREFIXES: Final = (
    "x-b3-", "x-envoy-", f"{PREFIX}-", "x-datadog-", "x-amzn-trace", "x-cloud-trace", "uber-",
)  # fmt: skip

#: Headers that are derived from the body. If the bodies differ, these need no mention.
_DERIVED: Final = frozenset((
    "content-length", "etag", "content-md5", "digest", "content-digest", "repr-digest",
))  # fmt: skip


class Difference(NamedTuple):
    """`where`: "status", "header NAME", "trailer NAME", "body $.path", "body line N" or "body", after
    "request " for differences between the requests. A side is None if it has no value there."""

    where: str
    left: str | None
    right: str | None


class ResponseParts(NamedTuple):
    """`body` is decoded; `truncated`: the body is longer. `unknown`: why nothing of it can be compared."""

    status: int
    headers: Fields
    body: bytes = b""
    truncated: bool = False
    trailers: Fields = []  # noqa: RUF012  # never modified
    unknown: str = ""


class Documents(NamedTuple):
    """A request's and its response's body as JSON, where that is not what was stored: messages of gRPC."""

    request: bytes
    response: bytes


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """Differences to ignore: headers by name, and JSON values by path, with everything below them."""

    headers: frozenset[str] = frozenset()
    paths: tuple[JsonPath, ...] = ()

    @classmethod
    def parse(cls, ignore: Iterable[str]) -> "IgnoreRules":
        """`$.timestamp`, `$.items[*].id`, or a header's name. Raises ConfigInvalid naming the rule."""
        headers: set[str] = set()
        paths: list[JsonPath] = []
        for rule in ignore:
            if rule.startswith("$"):
                paths.append(JsonPath.parse(rule))
            elif rule and all(char.isalnum() or char in "-_" for char in rule):
                headers.add(rule.lower())
            else:
                raise ConfigInvalid(
                    f"{rule!r} is neither a path nor a header's name",
                    hint="write $.timestamp, $..id, or x-header",
                )
        return cls(frozenset(headers), tuple(paths))


IGNORE_NOTHING: Final = IgnoreRules()


def differences(
    left: ResponseParts, right: ResponseParts, rules: IgnoreRules = IGNORE_NOTHING
) -> list[Difference]:
    """The differences in the order status, headers, body, trailers; empty if the responses are the same."""
    found = list(islice(_all(left, right, rules), MAX_DIFFERENCES + 1))
    if len(found) > MAX_DIFFERENCES:
        found[MAX_DIFFERENCES:] = [Difference("more", None, f"only the first {MAX_DIFFERENCES} are listed")]
    return found


def response_of(capture: Capture) -> ResponseParts:
    """The response of a capture, as far as it was stored."""
    body, whole = _plain(capture.response_body, capture.response_headers)
    unknown = capture.response_body.missing
    headers = capture.response_headers
    return ResponseParts(capture.status or 0, headers, body, not whole, capture.trailers, unknown)


def compare_captures(
    left: Capture,
    right: Capture,
    rules: IgnoreRules = IGNORE_NOTHING,
    decoded: tuple[Documents, Documents] | None = None,
) -> list[Difference]:
    """The differences between the requests and between the responses. `decoded`: their bodies, left and
    right."""
    found = []
    for name in ("service", "method", "target"):
        values = getattr(left, name), getattr(right, name)
        if values[0] != values[1]:
            found.append(Difference(f"request {name}", *values))
    requests, responses = [], []
    for index, each in enumerate((left, right)):
        body, whole = _plain(each.request_body, each.request_headers)
        unknown = each.request_body.missing
        request = ResponseParts(0, each.request_headers, body, not whole, unknown=unknown)
        response = response_of(each)
        if decoded is not None:
            request = request._replace(body=decoded[index].request, truncated=False, unknown="")
            response = response._replace(body=decoded[index].response, truncated=False, unknown="")
        requests.append(request)
        responses.append(response)
    found += [
        each._replace(where=f"request {each.where}") for each in differences(requests[0], requests[1], rules)
    ]
    return found + differences(responses[0], responses[1], rules)


def _plain(body: Body, headers: Fields) -> tuple[bytes, bool]:
    plain = readable(body, headers, MAX_COMPARED_BYTES, unchecked=True)
    return plain, body.complete and not body.truncated and len(plain) < MAX_COMPARED_BYTES


def _all(left: ResponseParts, right: ResponseParts, rules: IgnoreRules) -> Iterator[Difference]:
    if left.status != right.status:
        yield Difference("status", str(left.status), str(right.status))
    unknown = left.unknown or right.unknown
    same_bytes = not unknown and left.body == right.body and left.truncated == right.truncated
    yield from _fields("header", left.headers, right.headers, rules, derived=same_bytes)
    if unknown:
        yield Difference("body", _known(left), _known(right))
    elif not same_bytes:
        yield from _bodies(left, right, rules)
    yield from _fields("trailer", left.trailers, right.trailers, rules, derived=False)


# --- headers ------------------------------------------------------------------------------------------------


def _fields(
    section: str, left: Fields, right: Fields, rules: IgnoreRules, *, derived: bool
) -> Iterator[Difference]:
    sides = _grouped(left), _grouped(right)
    for name in sorted(sides[0].keys() | sides[1].keys()):
        if name in IGNORED_HEADERS or name in rules.headers or name.startswith(_IGNORED_PREFIXES):
            continue
        a, b = sides[0].get(name), sides[1].get(name)
        if name in _DERIVED and (not derived or a is None or b is None):
            continue
        if a != b and not (a and b and (REDACTED in a or REDACTED in b)):
            yield Difference(f"{section} {name}", _cut(a), _cut(b))


def _grouped(fields: Fields) -> dict[str, str]:
    """Values by name in lower case; of Set-Cookie, only the names of the cookies."""
    grouped: dict[str, list[str]] = {}
    for name, value in fields:
        name = name.lower()
        if name == "set-cookie":
            value = value.partition("=")[0].strip()
            value = "" if value == REDACTED else value
        elif name == "content-type":
            value = value.lower().replace(" ", "")
        grouped.setdefault(name, []).append(value)
    cookies = grouped.get("set-cookie")
    if cookies is not None:
        grouped["set-cookie"] = [REDACTED] if "" in cookies else sorted(cookies)
    return {name: ", ".join(values) for name, values in grouped.items()}


# --- bodies -------------------------------------------------------------------------------------------------


def _bodies(left: ResponseParts, right: ResponseParts, rules: IgnoreRules) -> Iterator[Difference]:
    a, b = left.body, right.body
    cut = left.truncated or right.truncated
    if cut:  # compare the part that both have
        size = min(len(a), len(b))
        if left.truncated != right.truncated and len(a if left.truncated else b) > size:
            yield Difference("body", _digest(a, left.truncated), _digest(b, right.truncated))
            return
        a, b = a[:size], b[:size]
        if a == b:
            return
    else:
        documents = parse_json(a), parse_json(b)
        if documents[0] is not MISSING and documents[1] is not MISSING:
            try:
                found_in = JsonDiff(PathMatcher(rules.paths).matches).values(documents[0], documents[1], ())
                found = [_difference(*each) for each in islice(found_in, MAX_DIFFERENCES + 1)]
            except (RecursionError, DiffTooLarge):
                found = [Difference("body", _digest(a, False), _digest(b, False))]
            yield from found
            return
    texts = text_of(a, cut=cut), text_of(b, cut=cut)
    if texts[0] is None or texts[1] is None:
        yield Difference("body", _digest(a, left.truncated), _digest(b, right.truncated))
    else:
        yield from _lines(texts[0].splitlines(), texts[1].splitlines(), a, b)


def _known(parts: ResponseParts) -> str:
    return parts.unknown or _digest(parts.body, parts.truncated)


def _digest(data: bytes, truncated: bool) -> str:
    digest = hashlib.sha256(data).hexdigest()[:12]
    return f"{'the first ' if truncated else ''}{len(data)} bytes, sha256 {digest}…"


def _difference(location: Location, left: Any, right: Any) -> Difference:
    return Difference(f"body {format_path(location)}", _shown(left), _shown(right))


def _shown(value: Any) -> str | None:
    return None if value is MISSING else _cut(json.dumps(value, ensure_ascii=False))


def _cut(text: str | None) -> str | None:
    if text is None or len(text) <= MAX_SHOWN:
        return text
    return f"{text[:MAX_SHOWN]}… ({len(text)} characters)"


def _lines(left: Sequence[str], right: Sequence[str], a: bytes, b: bytes) -> Iterator[Difference]:
    shorter = min(len(left), len(right))
    first = next((i for i in range(shorter) if left[i] != right[i]), shorter)
    last = next((i for i in range(shorter - first) if left[-1 - i] != right[-1 - i]), shorter - first)
    left, right = left[first : len(left) - last], right[first : len(right) - last]
    if not left and not right:
        yield Difference("body", _digest(a, False), _digest(b, False))  # only the line endings differ
    elif max(len(left), len(right)) > MAX_ALIGNED_LINES or _aligning_steps(left, right) > MAX_ALIGNING_STEPS:
        yield Difference(
            f"body from line {first + 1} on", f"{len(left)} other lines", f"{len(right)} other lines"
        )
    else:
        for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
            if tag != "equal":
                texts = (
                    "\n".join(left[i1:i2]) if i2 > i1 else None,
                    "\n".join(right[j1:j2]) if j2 > j1 else None,
                )
                yield Difference(f"body line {first + i1 + 1}", _cut(texts[0]), _cut(texts[1]))


def _aligning_steps(left: Sequence[str], right: Sequence[str]) -> int:
    """The most that SequenceMatcher takes without autojunk: by cubes of the lines where all are equal."""
    counts = Counter(right)
    return sum(counts[line] for line in left) * min(len(left), len(right))
