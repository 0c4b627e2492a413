"""The audit trail's events: names, fields, and what of an error they may contain. Pure.

docs/audit.md describes each event, with a JSON Schema by which the tests validate it. No event contains a
secret, header, path, query or body, nor more of a contract than the entry of the service that it is about.
"""

import json
from typing import Final, Literal, Protocol

from devroute.errors import ContractInvalid, DevrouteError, ServiceNotInContract
from devroute.proxy.telemetry.line_writer import members
from devroute.quoting import shortened
from devroute.routing.route import Route

#: Version of the schema: another once a field changes its meaning or is removed, not for a new field.
VERSION: Final = 1

Event = Literal[
    "admin",
    "change",
    "contract",
    "detour",
    "leave",
    "login",
    "omission",
    "reach",
    "refusal",
    "registration",
    "takeover",
]

#: Statuses of refusals: what was not permitted, as against what failed (5xx).
REFUSAL_STATUSES: Final = range(400, 500)

#: Characters of a caller: those of the longest SPIFFE id (SPIFFE-ID §2.3).
MAX_CALLER: Final = 2048

#: Errors whose message quotes the contract, which names other people's services and laptops.
_QUOTES_CONTRACT: Final = (ContractInvalid, ServiceNotInContract)


class RecordEvent(Protocol):
    """Writes an event to the audit trail."""

    def __call__(self, event: Event, /, **fields: object) -> None: ...


def discard_event(event: Event, /, **fields: object) -> None:
    """A RecordEvent for a proxy without an audit trail."""


def line(event: Event, stamp: str, fields: dict[str, object]) -> bytes:
    """An event as a line of JSON; `stamp` is RFC 3339 in UTC."""
    return json.dumps({"audit": VERSION, "time": stamp, "event": event, **fields}).encode() + b"\n"


def refusal_fields(
    error: DevrouteError,
    *,
    subject: str | None = None,
    peer: str | None = None,
    caller: str | None = None,
    request_id: str | None = None,
) -> dict[str, object]:
    """The fields of a refusal, but for `at`."""
    quotes = isinstance(error, _QUOTES_CONTRACT)
    body = error.as_dict()
    return {
        "subject": subject,
        "peer": peer,
        "caller": None if caller is None else shortened(caller, MAX_CALLER),
        "service": None if quotes else body["service"],
        "target": None if quotes else body["target"],
        "code": error.code,
        "reason": "" if quotes else body["message"],
        "request_id": request_id,
    }


def route_members(route: Route) -> bytes:
    """What all events of one route have in common; kept in the route, so that it is rendered once."""
    fields = {"service": route.service, "target": route.target, "signer": route.signer}
    route.audit_members = members({**fields, "decision": route.result, "reason": route.reason})
    return route.audit_members
