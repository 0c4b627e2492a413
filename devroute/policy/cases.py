"""Test cases for a policy (`devroute policy test`): requests and registrations, each with the expected
result. Owns the format of the file (docs/policy.md) and the comparison. Pure.

    - {caller: qa/runner, service: b, target: alice, expect: allow}
    - {subject: bob, groups: [payments], service: b, expect: deny, code: not-permitted}
    - {subject: bob, reach: "tcp://orders-db.data:5432", expect: deny, code: reach-denied}
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from devroute.contract import grammar
from devroute.contract.destination import parse_destination
from devroute.contract.target import Address, Malformed, parse_address
from devroute.errors import BY_CODE, ConfigInvalid, DevrouteError
from devroute.policy.file import load, place_of, problem_of
from devroute.policy.policy import Policy, permit_contract
from devroute.quoting import quote

#: Cases in one file: far more than anyone writes by hand.
MAX_CASES = 10_000
#: The trust domain of callers that are written as namespace/serviceaccount: Istio's default.
TRUST_DOMAIN = "cluster.local"


def _text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Text = Annotated[str, BeforeValidator(_text)]


class Case(BaseModel):
    """A request from `caller` for `service` whose contract names `target`; or, with a `subject`, the
    registration of `service` (at the address `target`, if given), or what its laptop wants to `reach`.
    `resolves`: the addresses of a name."""

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    name: _Text | None = None
    action: Literal["detour", "register"] | None = None
    caller: _Text | None = None
    subject: _Text | None = None
    groups: tuple[_Text, ...] = ()
    service: _Text | None = None
    reach: _Text | None = None
    target: _Text | None = None
    resolves: tuple[str, ...] = ()
    signed: bool = False
    expect: Literal["allow", "deny"]
    code: str | None = None
    reason: str | None = None

    @property
    def registers(self) -> bool:
        named = self.subject is not None and self.reach is None
        return self.action == "register" or (self.action is None and named)

    @property
    def title(self) -> str:
        if self.name is not None:
            return self.name
        if self.reach is not None:
            return f"{self.subject} reaches {self.reach}"
        if self.registers:
            return f"{self.subject} registers {self.service}"
        return f"{self.caller or 'a caller without identity'}: {self.service} to {self.target}"


class _Table(BaseModel):
    cases: Annotated[tuple[Case, ...], Field(max_length=MAX_CASES)]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """The policy's decision about a case. `error`: why it denies, None if it allows. `problem`: how the
    decision differs from the expected one, None if it does not."""

    place: str
    title: str
    expected: str
    error: DevrouteError | None
    problem: str | None

    def as_dict(self) -> dict[str, object]:
        error = self.error
        return {
            "place": self.place,
            "name": self.title,
            "expected": self.expected,
            "got": "allow" if error is None else "deny",
            "passed": self.problem is None,
            "problem": self.problem,
            **{name: getattr(error, name, None) for name in ("code", "message", "hint")},
        }


def run(policy: Policy, text: str, source: str) -> list[CaseResult]:
    """Evaluate each case in a file's text. Raises ConfigInvalid for an invalid file."""
    document, node = load(text, source)
    if not isinstance(document, list) or not document:
        raise ConfigInvalid(
            f"{source}: write a list of cases, such as - {{service: b, target: alice, expect: allow}}"
        )
    try:
        cases = _Table.model_validate({"cases": document}).cases
    except ValidationError as error:
        (_, *place), problem = problem_of(error, _Table)
        raise ConfigInvalid(f"{place_of(node, tuple(place), source)}: {problem}") from None
    results = []
    for at, case in enumerate(cases):
        where = place_of(node, (at,), source)
        if (contradiction := _contradiction(case)) is not None:
            raise ConfigInvalid(f"{where}: {contradiction}")
        results.append(_result(case, _decision(policy, case), where.rpartition(": ")[0]))
    return results


def _contradiction(case: Case) -> str | None:
    if case.reach is not None:
        if case.subject is None or case.service or case.target or case.caller or case.signed or case.action:
            return "reach needs a subject, and has only groups and resolves beside it"
        try:  # one that is malformed would pass as denied
            parse_destination(case.reach)
        except Malformed as problem:
            return f"reach: {problem}"
    elif case.service is None:
        return "service: it is missing"
    elif case.registers and (case.subject is None or case.caller is not None or case.resolves):
        return "a registration needs a subject, and has no caller and no resolves"
    elif not case.registers and (case.target is None or case.subject is not None or case.groups):
        return "a request needs a target, and has no subject and no groups"
    if case.expect == "allow" and (case.code is not None or case.reason is not None):
        return "code and reason are for cases with expect: deny"
    if case.code is not None and case.code not in BY_CODE:
        return f"code: there is no error code {quote(case.code)}"
    return None


def _decision(policy: Policy, case: Case) -> DevrouteError | None:
    try:
        if case.reach is not None:
            _reach(policy, case, case.reach)
        elif case.registers:
            _register(policy, case, str(case.service))
        else:
            _detour(policy, case)
    except DevrouteError as error:
        return error
    return None


def _reach(policy: Policy, case: Case, text: str) -> None:
    destination = parse_destination(text)
    policy.permit_reach(str(case.subject), frozenset(case.groups), destination)
    for ip in case.resolves:
        policy.permit_reached_address(ip, destination)


def _register(policy: Policy, case: Case, service: str) -> None:
    policy.permit_registration(str(case.subject), frozenset(case.groups), service)
    if case.target is not None:
        try:
            address = parse_address(case.target)
        except Malformed as problem:
            raise ConfigInvalid(f"target {quote(case.target)}: {problem}") from None
        policy.permit_target(address, service=service)


def _detour(policy: Policy, case: Case) -> None:
    parsed = grammar.parse(json.dumps({case.service: case.target}))
    if not case.signed:
        permit_contract(parsed, policy, 0.0)
    (entry,) = parsed.entries.values()
    policy.permit(entry)
    if isinstance(entry.target, Address) and not entry.target.is_literal:
        for ip in case.resolves:
            policy.permit_address(ip, entry.target.port, service=entry.service)
    policy.permit_caller(entry, _identity(case.caller or ""))


def _identity(caller: str) -> str:
    namespace, slash, account = caller.partition("/")
    if not slash or "://" in caller:
        return caller
    return f"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}"


def _result(case: Case, error: DevrouteError | None, place: str) -> CaseResult:
    problem = None
    if error is None:
        if case.expect == "deny":
            problem = "expected deny, but policy allows it"
    elif case.expect == "allow":
        problem = f"expected allow, but policy denies it ({error.code}): {error.message}"
    elif case.code is not None and case.code != error.code:
        problem = f"expected code {case.code}, but policy denies it with {error.code}: {error.message}"
    elif case.reason is not None and case.reason not in error.message:
        problem = f"expected {quote(case.reason)} in the reason, but it is: {error.message}"
    return CaseResult(place, case.title, case.expect, error, problem)


def as_text(results: Sequence[CaseResult]) -> list[str]:
    """One line for each failed case, and a summary."""
    failed = [each for each in results if each.problem is not None]
    lines = [f"{each.place}: {each.title}: {each.problem}" for each in failed]
    return [*lines, f"{len(results)} cases: {len(results) - len(failed)} passed, {len(failed)} failed"]


def as_json(results: Sequence[CaseResult]) -> dict[str, object]:
    failed = sum(each.problem is not None for each in results)
    return {
        "passed": len(results) - failed,
        "failed": failed,
        "cases": [each.as_dict() for each in results],
    }
