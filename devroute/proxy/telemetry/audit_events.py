"""The audit trail's events: their names, their fields, and what of an error may be told. Pure;
proxy/telemetry/audit.py
writes them. docs/audit.md describes each, with a JSON Schema that the tests hold every event against.

No event holds a secret, a header, a path, a query or a body, nor more of a contract than the entry of the
service that it is about.
"""

import json
from typing import Final, Literal, Protocol

from devroute.errors import ContractInvalid, DevrouteError, ServiceNotInContract
from devroute.routing.route import Route

#: Of the schema; a field that changes its meaning or goes makes another, a new one does not.
VERSION: Final = 1

Event = Literal["change", "detour", "leave", "omission", "refusal", "registration", "takeover"]

#: Refusals by status: what somebody was not allowed to do, and not what did not work (5xx).
REFUSAL_STATUSES: Final = range(400, 500)

#: Their words quote the contract, which names others' services and laptops.
_QUOTES_CONTRACT: Final = (ContractInvalid, ServiceNotInContract)


class RecordEvent(Protocol):
    """Takes an event to wherever the trail is kept."""

    def __call__(self, event: Event, /, **fields: object) -> None: ...


def discard_event(event: Event, /, **fields: object) -> None:
    """A RecordEvent that keeps nothing."""


def line(event: Event, stamp: str, fields: dict[str, object]) -> bytes:
    """An event as a line of JSON; `stamp` is RFC 3339 in UTC."""
    return json.dumps({"audit": VERSION, "time": stamp, "event": event, **fields}).encode() + b"\n"


def refusal_fields(error: DevrouteError) -> dict[str, object]:
    """The fields that say what was refused, and why."""
    if isinstance(error, _QUOTES_CONTRACT):
        return {"service": None, "target": None, "code": error.code, "reason": ""}
    return {
        "service": error.service,
        "target": error.target,
        "code": error.code,
        "reason": error.message,
    }


def route_members(route: Route) -> bytes:
    """What all events of one route have in common, as members of a JSON object."""
    members = {
        "service": route.service,
        "target": route.target,
        "signer": route.signer,
        "decision": route.result,
        "reason": route.reason,
    }
    return json.dumps(members)[1:-1].encode()
