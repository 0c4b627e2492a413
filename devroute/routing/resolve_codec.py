"""The body of a /resolve response: lines that a sidecar's Lua parses (routing/SIDECAR.md). Pure."""

import json
from typing import Final

from devroute.contract.grammar import Entry
from devroute.contract.offer_options import OfferOptions
from devroute.contract.target import Version
from devroute.quoting import printable
from devroute.routing.decision import TTL_MS, Decision
from devroute.routing.shadow.assignment import Assignment

#: The first line. A sidecar that does not know it leaves the request to the service.
VERSION_LINE: Final = "devroute 1"
#: Bytes of a body that sidecars read.
MAX_BYTES: Final = 64 * 1024
#: Bytes of all `copy` lines of one body. A laptop's line has 17 KiB at most, so some always fit.
MAX_COPY_BYTES: Final = 60 * 1024
#: The only key that may be repeated.
COPY: Final = "copy"

Fields = list[tuple[str, str]]


def encode(resolved: Decision | Assignment) -> bytes:
    return lines(_decision(resolved) if isinstance(resolved, Decision) else _assignment(resolved))


def decision_word(resolved: Decision | Assignment) -> str:
    """The value of `decision`: one of a few words."""
    return resolved.kind if isinstance(resolved, Decision) else "copy" if resolved.laptops else "service"


def lines(fields: Fields) -> bytes:
    """Lines of "key value" in ASCII, each ended by LF, after the line of the version."""
    return "\n".join([VERSION_LINE, *(f"{key} {value}" for key, value in fields), ""]).encode("ascii")


def _decision(decision: Decision) -> Fields:
    fields = [("decision", decision_word(decision)), ("ttl", str(decision.ttl_ms)), ("trace", "yes")]
    if decision.service:
        fields.append(("service", decision.service))
    if decision.reason:
        fields.append(("reason", printable(decision.reason)))
    if (entry := decision.entry) is not None:
        fields += _conditions(entry, decision.options)
        if decision.callers is not None:
            fields.append(("callers", ",".join(decision.callers)))
        fields += _offer(decision.options)
        if decision.owner:
            fields.append(("owner", decision.owner))
        if decision.kind == "version":
            fields += _version(entry)
    if decision.kind == "error" and decision.error is not None:
        fields.append(("status", str(decision.error.status)))
        fields.append(("body", json.dumps(decision.error.as_dict(), separators=(",", ":"))))
    return fields


def _conditions(entry: Entry, options: OfferOptions) -> Fields:
    """Which requests the decision is for, by contract and offer; all others go to the service."""
    fields = []
    methods, percent = tuple(entry.methods or ()), entry.percent
    if options.shadow is not None:
        percent *= options.shadow / 100
        methods = tuple(each for each in options.shadow_methods if not methods or each in methods)
        percent = percent if methods else 0.0
    if methods:
        fields.append(("methods", ",".join(methods)))
    if entry.path is not None:
        fields.append(("path", entry.path))
    if entry.callers:
        fields.append(("from", ",".join(entry.callers)))
    if percent < 100:
        fields.append(("percent", f"{percent:.6f}"))
    if entry.fallback == "fail":
        fields.append(("fallback", "fail"))
    return fields


def _offer(options: OfferOptions) -> Fields:
    """The paths that the laptop offers, and what the sidecar adds for failover and comparison."""
    fields = []
    if options.paths:
        fields.append(("only-paths", " ".join(options.paths)))
    if options.except_status:
        fields.append(("origin", "yes"))
    if options.shadow is not None:
        fields.append(("compare", "yes"))
    return fields


def _version(entry: Entry) -> Fields:
    """What the sidecar does itself, since the request does not pass the proxy."""
    assert isinstance(entry.target, Version)
    fields = [("version", entry.target.subset)]
    if entry.timeout_s is not None:
        fields.append(("timeout", str(max(1, round(entry.timeout_s * 1000)))))
    return fields


def _assignment(assignment: Assignment) -> Fields:
    """A `copy` line for each laptop: ticket, percentage of all requests, methods, and the prefixes of its
    paths unless it offers all. Lines that do not fit are left out."""
    fields = [("decision", decision_word(assignment)), ("ttl", str(TTL_MS))]
    if assignment.laptops:
        fields.append(("service", assignment.service))
    room = MAX_COPY_BYTES
    for target in assignment.laptops:
        options = target.laptop.options
        percent, methods = f"{options.shadow or 0:.6f}", ",".join(options.shadow_methods)
        value = " ".join((target.ticket, percent, methods, *options.paths))
        length = len(f"{COPY} {value}\n")
        if length <= room:
            room -= length
            fields.append((COPY, value))
    return fields
