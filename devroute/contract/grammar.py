"""The contract: which services' requests go elsewhere. Owns the grammar of `X-devroute` and is its only
parser; contract/options.py reads the options of an entry. Pure; never checks whether a target is permitted
(policy/policy.py) or online (routing/registry.py).

    {"b": "192.168.1.12:8001", "c.shop": "alice", "d": {"to": "version:v2", "methods": ["GET"]}}
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Final

from devroute.contract.correction import correct
from devroute.contract.name import is_named
from devroute.contract.options import OPTIONS, Fallback
from devroute.contract.strict_json import JsonObject, json_type, load
from devroute.contract.target import Malformed, Target, check_service, parse_target
from devroute.contract.trace_id import split_trace
from devroute.errors import ContractInvalid
from devroute.quoting import quote

#: Bytes of a contract. It travels in the request head, where servers commonly allow 8 KiB a field. A proxy's
#: settings may lower the limit, but not raise it: the sidecars' filter has the same one.
MAX_BYTES = 8 * 1024
#: Services in one contract, by default.
MAX_ENTRIES = 64
#: The highest value of that setting: about what fits into MAX_BYTES with names of usual length.
MAX_CONFIGURABLE_ENTRIES = 256

_NOT_PRINTABLE = re.compile(r"[^\t -~]")


@dataclass(frozen=True, slots=True)
class Entry:
    """One service in a contract. Empty `methods`, empty `callers` and a `path` of None match all requests.

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
    """Who signed a contract, and with which key. It is valid from `starts` to `expires`, in seconds since the
    epoch (contract/validity.py checks both)."""

    subject: str
    key: str
    starts: float
    expires: float


@dataclass(frozen=True, slots=True)
class Saved:
    """Of a contract that was found by its name: who saved it, and until when it is kept, in seconds since the
    epoch."""

    name: str
    owner: str
    expires: float


@dataclass(frozen=True, slots=True)
class Contract:
    """A parsed contract: `raw` as received but for a trace's id, `entries` by key as written. A `signature`
    was verified, but not its time."""

    raw: str
    entries: Mapping[str, Entry]
    signature: Signature | None = None
    saved: Saved | None = None

    def find(self, names: Sequence[str], namespace: str | None = None) -> Entry | None:
        """The entry for the first of `names` that has one; the most trusted name comes first.

        With a namespace, `b.namespace` is preferred to `b`. An entry's key always finds that entry.
        """
        for name in names:
            if namespace and (entry := self.entries.get(f"{name}.{namespace}")):
                return entry
            if entry := self.entries.get(name):
                return entry
        return None


@dataclass(frozen=True, slots=True)
class ContractLimits:
    """The size of a contract, in bytes and in services; a proxy's settings may set other limits."""

    max_bytes: int = MAX_BYTES
    max_entries: int = MAX_ENTRIES

    def check_size(self, raw: str) -> None:
        """Raises ContractInvalid."""
        if len(raw) > self.max_bytes:
            raise ContractInvalid(
                f"the contract has {len(raw)} characters; at most {self.max_bytes} are allowed"
            )


DEFAULT_LIMITS: Final = ContractLimits()
#: For readers that only show contracts: all that any proxy can be configured to accept.
WIDEST_LIMITS: Final = ContractLimits(MAX_BYTES, MAX_CONFIGURABLE_ENTRIES)


def is_signed(raw: str) -> bool:
    """Whether a contract looks like a compact JWS (RFC 7515 §7.1), which contract/verifier.py reads."""
    text = raw.strip(" \t")
    return text.startswith("ey") and text.count(".") == 2


def parse(raw: str, limits: ContractLimits = DEFAULT_LIMITS) -> Contract:
    """The contract in the value of an `X-devroute` header, without a trace's id; signed ones, and names of
    saved ones, are refused. Raises ContractInvalid naming the place, with the contract that was likely
    meant."""
    raw, _ = split_trace(raw)
    limits.check_size(raw)
    try:
        return _parse(raw, limits)
    except ContractInvalid as error:
        if error.hint == ContractInvalid.default_hint:
            _correct(raw, limits, error)
        raise


def _correct(raw: str, limits: ContractLimits, error: ContractInvalid) -> None:
    """Put what to do about a contract into its error, with a contract only if it is valid."""
    correction = correct(raw)
    parts = [correction.advice] if correction.advice else []
    if correction.contract is not None:
        try:
            _parse(correction.contract, limits)
        except ContractInvalid:
            return
        error.corrected = correction.contract
        parts.append(f"send X-devroute: {correction.contract}")
    if parts:
        error.hint = "; ".join(parts)


def _parse(raw: str, limits: ContractLimits) -> Contract:
    if odd := _NOT_PRINTABLE.search(raw):
        problem = "a control character" if odd[0] < "\x80" else "not ASCII"
        raise ContractInvalid(
            f"character {odd.start() + 1} (U+{ord(odd[0]):04X}) is {problem};"
            " a contract is one line of printable ASCII"
        )
    if is_signed(raw):
        raise ContractInvalid(
            "this is a signed contract, and this server does not accept signed contracts",
            hint='send the contract as JSON: {"SERVICE": "TARGET"}',
        )
    if is_named(raw):
        raise ContractInvalid(
            f"{quote(raw)} is the name of a saved contract, which only the server knows",
            hint="devroute contract show NAME shows it; devroute contract list shows all",
        )
    if not raw.strip(" \t"):
        raise ContractInvalid('the contract is empty; write {"SERVICE": "TARGET"}')
    return Contract(raw, entries_of(load(raw), limits))


def entries_of(document: object, limits: ContractLimits = DEFAULT_LIMITS) -> Mapping[str, Entry]:
    """The entries in a contract's JSON, as `load` returns it. Raises ContractInvalid naming the place."""
    if not isinstance(document, JsonObject):
        raise ContractInvalid(
            f'a contract is a JSON object, not {json_type(document)}; write {{"SERVICE": "TARGET"}}'
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


# --- entries ------------------------------------------------------------------------------------------------


def _entry(key: str, value: object) -> Entry:
    service, namespace = _service(key)
    if isinstance(value, str):
        return Entry(key, service, namespace, _target(key, value))
    if not isinstance(value, JsonObject):
        raise ContractInvalid(
            f"service '{key}': a target is a string or an object, not {json_type(value)};"
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
    try:
        service, dot, namespace = check_service(key).partition(".")
    except Malformed as problem:
        raise ContractInvalid(f"service {quote(key)}: {problem}") from None
    return service, namespace if dot else None


def _target(key: str, text: str) -> Target:
    try:
        return parse_target(text)
    except Malformed as problem:
        shown = quote(text)
        raise ContractInvalid(
            f"service '{key}': target {shown}: {problem}", service=key, target=shown.strip("'")
        ) from None


def _with_options(key: str, service: str, namespace: str | None, options: dict[str, object]) -> Entry:
    known = ", ".join(["to", *OPTIONS])
    chosen: dict[str, object] = {}
    target: Target | None = None
    for name, value in options.items():
        try:
            if name == "to":
                if not isinstance(value, str):
                    raise Malformed(f"write a target such as 192.168.1.12:8001, not {json_type(value)}")
                target = _target(key, value)
            elif name in OPTIONS:
                field, read = OPTIONS[name]
                chosen[field] = read(value)
            else:
                raise Malformed(f"no such option; the options are {known}")
        except Malformed as problem:
            raise ContractInvalid(f"service '{key}': option {quote(name)}: {problem}", service=key) from None
    if target is None:
        raise ContractInvalid(
            f"service '{key}': option 'to' is missing; write {{\"to\": \"192.168.1.12:8001\", ...}}",
            service=key,
        )
    entry = Entry(key, service, namespace, target, **chosen)  # type: ignore[arg-type]  # the readers return the right types
    if entry.mirror and (entry.abort_status is not None or entry.fallback == "fail"):
        other = "abort" if entry.abort_status is not None else "fallback"
        raise ContractInvalid(
            f"service '{key}': options 'mirror' and '{other}' contradict each other:"
            " with 'mirror' the real service responds; remove one of them",
            service=key,
        )
    return entry


# --- as JSON ------------------------------------------------------------------------------------------------


def as_document(contract: Contract) -> dict[str, object]:
    """The contract as JSON values, without options that have their default: the form that is signed."""
    return {key: _entry_document(entry) for key, entry in contract.entries.items()}


def _entry_document(entry: Entry) -> object:
    options: dict[str, object] = {}
    for name, (field, _) in OPTIONS.items():
        value = getattr(entry, field)
        if value != _DEFAULTS[field]:
            options[name] = list(value) if isinstance(value, tuple) else value
    return {"to": str(entry.target)} | options if options else str(entry.target)


_DEFAULTS = {field.name: field.default for field in fields(Entry)}
