"""What the page shows of a held message: redacted text, in which every secret is a numbered placeholder,
`[redacted-3]`, that becomes the original value again. Pure.

Where a secret cannot be separated from what surrounds it, the whole value is one placeholder, and a body can
be kept or replaced, but not edited.
"""

import json
import re
from typing import Final, NamedTuple

from devroute.errors import RequestMalformed
from devroute.http.message import Headers, split_fields
from devroute.inspector.capture import Body, as_text, inflate, text_of
from devroute.inspector.redaction import BodyFields, Redaction
from devroute.inspector.rules.settings import FRAMING

#: Bytes of a body without its content-encoding.
MAX_PLAIN_BYTES: Final = 8 * 1024 * 1024

#: Fields of one hop, which are not shown and stay as they are.
HIDDEN: Final = frozenset(name.encode() for name in FRAMING | {"te", "via", "expect"})

_MARKER: Final = re.compile(rb'"\[redacted\]"|\[redacted\]|%5Bredacted%5D')
_PLACEHOLDER: Final = re.compile(rb'("?)\[redacted-([0-9]{1,6})\]("?)')
_STRING: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_DECODER: Final = json.JSONDecoder()
_SCALAR: Final = re.compile(rb'[^\s"{}\[\],:]++')


class Mask:
    """The secrets of one message, by the numbers of their placeholders."""

    def __init__(self) -> None:
        self._secrets: list[bytes] = []

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def whole(self, original: bytes) -> bytes:
        """A placeholder for all of a text."""
        self._secrets.append(original)
        return b"[redacted-%d]" % len(self._secrets)

    def shown(self, original: bytes, redacted: bytes) -> bytes | None:
        """The redacted text with placeholders; None where the secrets cannot be found in the original, and
        for an original that has the form of a placeholder itself."""
        if _PLACEHOLDER.search(original):
            return None
        if original == redacted:
            return redacted
        markers = [*_MARKER.finditer(redacted)]
        edges = [(0, 0), *(marker.span() for marker in markers), (len(redacted),) * 2]
        pieces = [redacted[edges[n][1] : edges[n + 1][0]] for n in range(len(edges) - 1)]
        if not markers or not original.startswith(pieces[0]):
            return None
        at = len(pieces[0])
        text = original.decode("latin-1")
        found: list[bytes] = []
        for number, (marker, piece) in enumerate(zip(markers, pieces[1:], strict=True), 1):
            quoted, last = marker[0][:1] == b'"', number == len(markers)
            end = _secret_end(original, text, at, piece, quoted=quoted, last=last)
            if end < 0:
                return None
            found.append(original[at:end])
            at = end + len(piece)
        out = [pieces[0]]
        for marker, piece, secret in zip(markers, pieces[1:], found, strict=True):
            placeholder = self.whole(secret)
            out += (b'"%b"' % placeholder if marker[0][:1] == b'"' else placeholder, piece)
        return b"".join(out)

    def restored(self, text: bytes) -> bytes:
        """The text with the secrets for their placeholders. Raises RequestMalformed for an unknown one."""

        def secret(match: re.Match[bytes]) -> bytes:
            before, number, after = match.groups()
            if not 0 < int(number) <= len(self._secrets):
                raise RequestMalformed(f"there is no [redacted-{int(number)}] in this message")
            value = self._secrets[int(number) - 1]
            if value[:1] == value[-1:] == b'"' and len(value) > 1:
                return value if before and after else before + value[1:-1] + after
            is_json = before and after and _is_json(value)
            return value if is_json else before + value + after

        return _PLACEHOLDER.sub(secret, text)


def _is_json(value: bytes) -> bool:
    """Whether a secret is a number, true, false, null, a list or an object, whose placeholder has quotes."""
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _secret_end(original: bytes, text: str, at: int, piece: bytes, *, quoted: bool, last: bool) -> int:
    """Where the secret ends that begins at `at` and is followed by `piece`; -1 if that cannot be found.
    `text`: the original as Latin-1."""
    if quoted:
        end = _json_end(original, text, at)
        if end >= 0 and original.startswith(piece, end) and (not last or end + len(piece) == len(original)):
            return end
    if last:
        end = len(original) - len(piece)
        return end if end >= at and original.endswith(piece) else -1
    return original.find(piece, at) if piece else -1


def _json_end(data: bytes, text: str, at: int) -> int:
    """Where the JSON value ends that begins at `at`; -1 if there is none."""
    if data[at : at + 1] in (b"{", b"["):
        try:
            return _DECODER.raw_decode(text, at)[1]
        except (ValueError, RecursionError):
            return -1
    match = _STRING.match(data, at) or _SCALAR.match(data, at)
    return -1 if match is None else match.end()


class Shown(NamedTuple):
    """A message as the page shows it. `body` is None where it cannot be edited, for which `note` says why."""

    target: str
    headers: list[tuple[str, str]]
    body: str | None
    note: str
    mask: Mask
    plain: bytes


def show(redact: Redaction, raw: bytes, target: bytes, body: bytes, *, complete: bool) -> Shown:
    """`raw` is a head with its start line, `target` b"" for a response."""
    mask = Mask()
    cut = redact.target(target)
    shown_target = mask.shown(target, cut)
    if shown_target is None:
        path, _, query = target.partition(b"?")
        shown_target = path + b"?" + mask.whole(query) if cut.startswith(path) else mask.whole(target)
    redacted, fields = redact.head(raw[raw.find(b"\n") : -2])
    headers: Headers = []
    originals, safe_fields = split_fields(raw), split_fields(b"\r" + redacted)
    for (name, value), (_, safe) in zip(originals, safe_fields, strict=True):
        if name.lower() not in HIDDEN:
            value_shown = mask.shown(value, safe)
            headers.append((name, mask.whole(value) if value_shown is None else value_shown))
    text, note, plain = _shown_body(redact, fields, mask, body, complete=complete)
    return Shown(shown_target.decode("latin-1"), as_text(headers), text, note, mask, plain)


def _shown_body(
    redact: Redaction, fields: BodyFields, mask: Mask, body: bytes, *, complete: bool
) -> tuple[str | None, str, bytes]:
    """The text, or None and why; and the body without its content-encoding."""
    coding = fields.content_encoding.strip().lower()
    plain = body
    if coding in (b"gzip", b"x-gzip", b"deflate") and body:
        inflated = inflate(body, MAX_PLAIN_BYTES)
        if inflated is None or len(inflated) >= MAX_PLAIN_BYTES:
            return None, "it cannot be decompressed", body
        plain = inflated
    elif coding not in (b"", b"identity") and body:
        return None, f"its content-encoding '{coding.decode('latin-1')}' cannot be shown", body
    if not complete:
        return None, "it has not arrived as a whole, and passes unchanged", plain
    limit = 2 * len(plain) + 1024  # redaction can make it longer
    safe = Body(bytearray(plain), len(plain), complete=True)
    redact.body(safe, fields._replace(content_encoding=b""), limit)
    shown = mask.shown(plain, bytes(safe.data))
    if shown is None or safe.note:
        return None, "its redacted values cannot be separated from the rest", plain
    text = text_of(shown, cut=False)
    return text, "" if text is not None else "it is not text", plain
