"""The body of a /contract response: what a contract says, for a gateway's Lua (routing/SIDECAR.md). Pure."""

from collections.abc import Callable
from typing import Final

from devroute.contract.explain import explain
from devroute.contract.grammar import Contract
from devroute.errors import ContractInvalid, DevrouteError
from devroute.policy.policy import Policy, permit_contract
from devroute.quoting import printable
from devroute.routing.decision import TTL_MS, seconds_left
from devroute.routing.resolve_codec import MAX_BYTES, Fields, lines

#: Bytes of all entries; the other lines have less than the rest.
_MAX_ENTRIES: Final = MAX_BYTES - 4096
#: Bytes of a hint: a proposed contract, and what is wrong with the one that came.
_MAX_HINT: Final = 2048


def report_contract(raw: str, read: Callable[[str], Contract], policy: Policy, now: float) -> bytes:
    """Lines of "key value" in ASCII: a `problem` with what else its error states, or an `entry` for each
    service and, of a signed contract, its `signer`, of a named one who it was `saved-by`, and of both the
    seconds until it `expires`. `now` is in seconds since the epoch."""
    try:
        contract = read(raw)
        permit_contract(contract, policy, now)
    except DevrouteError as error:
        return lines([("ttl", str(TTL_MS)), *_problem(error)])
    fields, ttl_ms, ends = [], TTL_MS, []
    if (signature := contract.signature) is not None:
        fields.append(("signer", printable(signature.subject)))
        ends.append(signature.expires)
    if contract.saved is not None:
        fields.append(("saved-by", contract.saved.owner))
        ends.append(contract.saved.expires)
    if (left := seconds_left(contract, now)) is not None:
        fields.append(("expires", str(max(0, int(min(ends) - now)))))
        ttl_ms = min(ttl_ms, int(left * 1000))
    room = _MAX_ENTRIES
    for sentence in explain(contract):
        line = printable(sentence)
        room -= len(f"entry {line}\n")
        if room >= 0:
            fields.append(("entry", line))
    return lines([("ttl", str(ttl_ms)), *fields])


def _problem(error: DevrouteError) -> Fields:
    fields = [("problem", printable(error.message)), ("code", error.code), ("status", str(error.status))]
    if error.hint:
        fields.append(("hint", printable(error.hint, _MAX_HINT)))
    if isinstance(error, ContractInvalid) and error.corrected is not None:
        fields.append(("corrected", error.corrected))
    return fields
