"""The contract: which services a request wants answered elsewhere. Owns the whole grammar of `X-devroute`,
and is its only parser. Pure; never judges whether a target is allowed (policy.py) or there (registry.py).

    {"foo": "192.168.1.12:8001", "bar.shop": "alice", "baz": {"to": "version:v2", "methods": ["GET"]}}
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final, Literal, NoReturn

from devroute.errors import ContractInvalid
from devroute.target import Address, Laptop, Malformed, Target, Version, check_label, parse_target, quote

__all__ = [
    "Address",
    "Contract",
    "Entry",
    "Laptop",
    "Limits",
    "Pairs",
    "Signature",
    "Target",
    "Version",
    "as_document",
    "entries_of",
    "explain",
    "is_signed",
    "load",
    "parse",
]

#: Bytes of a whole contract: it shares the caller's request head, where servers commonly allow 8 KiB a field.
#: A server may take less, but not more: the sidecars' filter has the same number.
MAX_BYTES = 8 * 1024
#: Services in one contract: more are a mistake, and each is a line for somebody to read.
MAX_ENTRIES = 64
#: To how many a server may raise that: about what goes into MAX_BYTES with names as they are.
MOST_ENTRIES = 256
#: Methods or callers in one list.
MAX_LIST = 16
#: Bytes of a path prefix or of a caller's identity: ample, though a SPIFFE ID might have 2048.
MAX_TEXT = 1024
#: Seconds: longer than anybody waits at a breakpoint or wants to inject.
MAX_DURATION_S = 3600.0
#: Digits of a number; also keeps int() away from its own limit (and from quadratic work).
MAX_DIGITS = 20

Fallback = Literal["service", "fail"]

_NOT_PRINTABLE = re.compile(r"[^\t -~]")


@dataclass(frozen=True, slots=True)
class Entry:
    """What a contract says of one service. Empty `methods` and `callers` and a `path` of None match all.

    `percent` is 0 to 100; `timeout_s` and `delay_s` are seconds; `abort_status` is an HTTP status. `callers`
    is the option "from": mesh identities, `spiffe://…` or `namespace/serviceaccount`.
    """

    key: str
    service: str
    namespace: str | None
    target: Target
    methods: tuple[str, ...] = ()
    path: str | None = None
    callers: tuple[str, ...] = ()
    percent: float = 100.0
    mirror: bool = False
    fallback: Fallback = "service"
    timeout_s: float | None = None
    delay_s: float | None = None
    abort_status: int | None = None


@dataclass(frozen=True, slots=True)
class Signature:
    """Who vouches for a contract, and with which key. It holds from `starts` to `expires`, in seconds since
    the epoch (signed.py checks both)."""

    subject: str
    key: str
    starts: float
    expires: float


@dataclass(frozen=True, slots=True)
class Contract:
    """A parsed contract: `raw` as it was received, `entries` by key as written. With a `signature`, that was
    verified; its time was not."""

    raw: str
    entries: Mapping[str, Entry]
    signature: Signature | None = None

    def find(self, names: Sequence[str], namespace: str | None = None) -> Entry | None:
        """The entry for the first of `names` that has one; names come in order of trust.

        With a namespace, `foo.namespace` is preferred to `foo`. A key's own text always finds that key.
        """
        for name in names:
            if namespace and (entry := self.entries.get(f"{name}.{namespace}")):
                return entry
            if entry := self.entries.get(name):
                return entry
        return None


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a contract may be, in bytes and in services; a server's settings may say otherwise."""

    max_bytes: int = MAX_BYTES
    max_entries: int = MAX_ENTRIES

    def check_size(self, raw: str) -> None:
        """Raises ContractInvalid."""
        if len(raw) > self.max_bytes:
            raise ContractInvalid(
                f"the contract has {len(raw)} characters; at most {self.max_bytes} are allowed"
            )


USUAL: Final = Limits()
#: For readers that judge nothing: whatever some server takes.
WIDEST: Final = Limits(MAX_BYTES, MOST_ENTRIES)


class Pairs(list[tuple[str, object]]):
    """A JSON object with its duplicate keys still there."""


def is_signed(raw: str) -> bool:
    """Whether a contract has the shape of a compact JWS (RFC 7515 §7.1), which signed.py reads."""
    text = raw.strip(" \t")
    return text.startswith("ey") and text.count(".") == 2


def parse(raw: str, limits: Limits = USUAL) -> Contract:
    """The contract in the text of one `X-devroute` header, where it is not signed. Raises ContractInvalid
    naming the place."""
    limits.check_size(raw)
    if odd := _NOT_PRINTABLE.search(raw):
        kind = "a control character" if odd[0] < "\x80" else "not ASCII"
        raise ContractInvalid(
            f"character {odd.start() + 1} (U+{ord(odd[0]):04X}) is {kind};"
            " a contract is one line of printable ASCII"
        )
    if is_signed(raw):
        raise ContractInvalid(
            "this is a signed contract, and this server does not accept signed contracts",
            hint='send the contract as JSON: {"SERVICE": "TARGET"}',
        )
    if not raw.strip(" \t"):
        raise ContractInvalid('the contract is empty; write {"SERVICE": "TARGET"}')
    return Contract(raw, entries_of(load(raw), limits))


def entries_of(document: object, limits: Limits = USUAL) -> Mapping[str, Entry]:
    """The entries in a contract's JSON, as `load` gives it. Raises ContractInvalid naming the place."""
    if not isinstance(document, Pairs):
        raise ContractInvalid(
            f'a contract is a JSON object, not {_kind(document)}; write {{"SERVICE": "TARGET"}}'
        )
    if not document:
        raise ContractInvalid('the contract names no service; write {"SERVICE": "TARGET"}')
    if len(document) > limits.max_entries:
        raise ContractInvalid(
            f"the contract names {len(document)} services; at most {limits.max_entries} are allowed"
        )
    entries: dict[str, Entry] = {}
    for key, value in document:
        if key in entries:
            raise ContractInvalid(f"service {quote(key)} is named twice; keep one of them", service=key)
        entries[key] = _entry(key, value)
    return MappingProxyType(entries)


# --- JSON ---------------------------------------------------------------------------------------------------


def load(raw: str) -> object:
    """Strict JSON; objects are Pairs. Raises ContractInvalid naming the place."""
    try:
        return json.loads(
            raw,
            object_pairs_hook=Pairs,
            parse_constant=_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except json.JSONDecodeError as error:
        raise ContractInvalid(f"not valid JSON at character {error.pos + 1}: {_advice(raw, error)}") from None
    except RecursionError:
        raise ContractInvalid("the JSON is nested too deeply; an entry is a text or one object") from None


def _advice(raw: str, error: json.JSONDecodeError) -> str:
    rest = raw[error.pos :]
    if error.msg == "Extra data":
        if rest.lstrip(" \t").startswith(","):
            return "something follows the contract; send X-devroute once, with all services in one object"
        return f"{quote(rest)} follows the end of the contract; remove it"
    if rest.startswith("'"):
        return "JSON needs double quotes, not single ones"
    if error.pos == 0 or not rest.strip():
        return (
            'write {"SERVICE": "TARGET"}'
            if error.pos == 0
            else "the contract ends too early; is a brace missing?"
        )
    return f"{error.msg[0].lower()}{error.msg[1:]}"


def _constant(name: str) -> NoReturn:
    raise ContractInvalid(f"{name} is not a JSON value (RFC 8259, section 3)")


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ContractInvalid(f"the number {quote(digits)} has more than {MAX_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    if len(digits) > MAX_DIGITS or not math.isfinite(number := float(digits)):
        raise ContractInvalid(f"the number {quote(digits)} is out of range")
    return number


def _kind(value: object) -> str:
    if isinstance(value, Pairs):
        return "an object"
    kinds = {list: "a list", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


# --- entries ------------------------------------------------------------------------------------------------


def _entry(key: str, value: object) -> Entry:
    service, namespace = _service(key)
    if isinstance(value, str):
        return Entry(key, service, namespace, _target(key, value))
    if not isinstance(value, Pairs):
        raise ContractInvalid(
            f"service '{key}': a target is a text or an object, not {_kind(value)};"
            f' write {{"{key}": "192.168.1.12:8001"}} or {{"{key}": "alice"}}',
            service=key,
        )
    options: dict[str, object] = {}
    for name, option in value:
        if name in options:
            raise ContractInvalid(
                f"service '{key}': option {quote(name)} is given twice; keep one", service=key
            )
        options[name] = option
    return _with_options(key, service, namespace, options)


def _service(key: str) -> tuple[str, str | None]:
    service, dot, namespace = key.partition(".")
    if "." in namespace:
        short = ".".join(key.split(".")[:2])
        raise ContractInvalid(
            f"service {quote(key)}: a service is foo or foo.namespace; write {quote(short)}"
        )
    try:
        check_label(service, "a service's name")
        return service, check_label(namespace, "a namespace's name") if dot else None
    except Malformed as problem:
        raise ContractInvalid(f"service {quote(key)}: {problem}") from None


def _target(key: str, text: str) -> Target:
    try:
        return parse_target(text)
    except Malformed as problem:
        shown = quote(text)
        raise ContractInvalid(
            f"service '{key}': target {shown}: {problem}", service=key, target=shown.strip("'")
        ) from None


def _with_options(key: str, service: str, namespace: str | None, options: dict[str, object]) -> Entry:
    known = ", ".join(["to", *_OPTIONS])
    chosen: dict[str, object] = {}
    target: Target | None = None
    for name, value in options.items():
        try:
            if name == "to":
                if not isinstance(value, str):
                    raise Malformed(f"write a target such as 192.168.1.12:8001, not {_kind(value)}")
                target = _target(key, value)
            elif name in _OPTIONS:
                field, read = _OPTIONS[name]
                chosen[field] = read(value)
            else:
                raise Malformed(f"there is no such option; the options are {known}")
        except Malformed as problem:
            raise ContractInvalid(f"service '{key}': option {quote(name)}: {problem}", service=key) from None
    if target is None:
        raise ContractInvalid(
            f"service '{key}': option 'to' is missing; write {{\"to\": \"192.168.1.12:8001\", ...}}",
            service=key,
        )
    entry = Entry(key, service, namespace, target, **chosen)  # type: ignore[arg-type]  # the readers give the types
    if entry.mirror and (entry.abort_status is not None or entry.fallback == "fail"):
        other = "abort" if entry.abort_status is not None else "fallback"
        raise ContractInvalid(
            f"service '{key}': options 'mirror' and '{other}' contradict each other:"
            " with mirror the real service answers; remove one",
            service=key,
        )
    return entry


# --- options ------------------------------------------------------------------------------------------------


def _methods(value: object) -> tuple[str, ...]:
    methods = _texts(value, "POST")
    for method in methods:
        if not re.fullmatch(r"[A-Z][A-Z_-]{0,31}", method):
            advice = f"; write {method.upper()}" if re.fullmatch(r"[A-Za-z_-]{1,32}", method) else ""
            raise Malformed(f"{quote(method)} is not a method in capitals{advice}")
    return methods


def _path(value: object) -> str:
    if not isinstance(value, str) or not value.startswith("/"):
        raise Malformed("write a path's beginning with its slash, such as /api/")
    if len(value) > MAX_TEXT or not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
        raise Malformed(f"{quote(value)} is not a path (no spaces, no query, at most {MAX_TEXT} characters)")
    return value


def _callers(value: object) -> tuple[str, ...]:
    callers = _texts(value, "spiffe://cluster.local/ns/shop/sa/web")
    for caller in callers:
        spiffe = re.fullmatch(r"spiffe://[!-+\--~]+", caller)  # visible ASCII without the comma
        if len(caller) > MAX_TEXT or not (spiffe or re.fullmatch(r"[-a-z0-9]+/[-.a-z0-9]+", caller)):
            raise Malformed(
                f"{quote(caller)} is not a mesh identity; write namespace/serviceaccount"
                " or spiffe://cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT"
            )
    return callers


def _texts(value: object, example: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) and not isinstance(value, Pairs) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise Malformed(f'write a list of texts, such as ["{example}"]')
    if len(texts) > MAX_LIST:
        raise Malformed(f"{len(texts)} are listed; at most {MAX_LIST} are allowed")
    return tuple(texts)


def _percent(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
        raise Malformed("write a number from 0 to 100")
    return float(value)


def _mirror(value: object) -> bool:
    if not isinstance(value, bool):
        raise Malformed("write true or false")
    return value


def _fallback(value: object) -> Fallback:
    if value == "service":
        return "service"
    if value == "fail":
        return "fail"
    raise Malformed('write "service" (the real service answers, the default) or "fail" (an error answers)')


def _duration(value: object) -> float:
    """Seconds from 3, 0.5, "500ms" or "3s"."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(ms|s)", value)):
        seconds = float(match[1]) / (1000 if match[2] == "ms" else 1)
    if seconds is None:
        raise Malformed('write a time such as "500ms" or "3s", or a number of seconds')
    if not 0 < seconds <= MAX_DURATION_S:
        raise Malformed(f"a time is more than 0 and at most {MAX_DURATION_S:.0f}s")
    return seconds


def _abort(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise Malformed("write an HTTP status from 200 to 599, such as 503")
    return value


_OPTIONS: dict[str, tuple[str, Callable[[object], object]]] = {
    "methods": ("methods", _methods),
    "path": ("path", _path),
    "from": ("callers", _callers),
    "percent": ("percent", _percent),
    "mirror": ("mirror", _mirror),
    "fallback": ("fallback", _fallback),
    "timeout": ("timeout_s", _duration),
    "delay": ("delay_s", _duration),
    "abort": ("abort_status", _abort),
}


# --- as JSON ------------------------------------------------------------------------------------------------


def as_document(contract: Contract) -> dict[str, object]:
    """The contract as JSON values in one form of all that mean the same: what is signed."""
    return {key: _entry_document(entry) for key, entry in contract.entries.items()}


def _entry_document(entry: Entry) -> object:
    options: dict[str, object] = {}
    for name, (field, _) in _OPTIONS.items():
        value = getattr(entry, field)
        if value != _DEFAULTS[field]:
            options[name] = list(value) if isinstance(value, tuple) else value
    return {"to": str(entry.target)} | options if options else str(entry.target)


_DEFAULTS = {field.name: field.default for field in fields(Entry)}


# --- in words -----------------------------------------------------------------------------------------------


def explain(contract: Contract) -> list[str]:
    """The contract in plain English, one line an entry."""
    return [_sentence(entry) for entry in contract.entries.values()]


def _sentence(entry: Entry) -> str:
    which = [f"{'/'.join(entry.methods) or 'all'} requests for {entry.service}"]
    if entry.namespace:
        which.append(f"in namespace {entry.namespace}")
    if entry.path is not None:
        which.append(f"under {entry.path}")
    if entry.callers:
        which.append(f"from {' or '.join(entry.callers)}")
    if entry.percent < 100:
        which.insert(0, f"{entry.percent:g}% of")
    return f"{' '.join(which)} {_verb(entry)}{''.join(f'; {line}' for line in _consequences(entry))}"


def _verb(entry: Entry) -> str:
    where = {
        Address: f"the address {entry.target}",
        Laptop: f"the laptop {entry.target}",
        Version: f"version {getattr(entry.target, 'name', '')} of the service",
    }[type(entry.target)]
    if entry.abort_status is not None:
        return f"are answered {entry.abort_status} at once, without asking {where}"
    return f"are copied to {where}, while the real service answers" if entry.mirror else f"go to {where}"


def _consequences(entry: Entry) -> list[str]:
    lines = []
    if entry.delay_s is not None:
        lines.append(f"each is delayed by {_time(entry.delay_s)}")
    if entry.timeout_s is not None:
        lines.append(f"each may take at most {_time(entry.timeout_s)}")
    if not entry.mirror and entry.abort_status is None:
        lines.append(
            f"if that fails, {'an error' if entry.fallback == 'fail' else 'the real service'} answers"
        )
    return lines


def _time(seconds: float) -> str:
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"
