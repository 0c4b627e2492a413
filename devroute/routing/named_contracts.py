"""The contracts that people have saved under a name, all of them, in memory. Pure.

Owns what a name stands for, who may change it, and how many there are. Never waits: where replicas share the
set, replicas/shared_contracts.py puts into it what the others have saved.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Final, Literal

from devroute.bounded_cache import BoundedCache
from devroute.contract.explain import explain
from devroute.contract.grammar import Contract, Saved
from devroute.contract.name import SIGN, is_named, parse_name
from devroute.contract.trace_id import split_trace
from devroute.contract.validity import duration
from devroute.contract.verifier import read_any
from devroute.errors import ContractNotOwned, ContractsUnavailable, ContractUnknown, TooManyContracts
from devroute.token_bucket import TokenBucket

#: Contracts, and bytes of all of them: one listing and one reading of Redis carry them all.
MAX_CONTRACTS: Final = 2048
MAX_BYTES: Final = 4 * 1024 * 1024
#: Contracts of one subject, and bytes of them: 64 subjects together reach the bounds above.
MAX_PER_SUBJECT: Final = 64
MAX_BYTES_PER_SUBJECT: Final = 64 * 1024
#: Seconds that a contract is kept: a day of work by default, a month at most.
DEFAULT_TTL_S: Final = 8 * 3600
MAX_TTL_S: Final = 30 * 24 * 3600
#: Names that were deleted or have expired, for errors that say so, and seconds that they are remembered for.
MAX_GONE: Final = 256
GONE_SECONDS: Final = 24 * 3600.0
#: Names that are compared with one that is unknown, and bytes of such results that are remembered: every
#: sidecar asks again each second.
MAX_COMPARED: Final = 16
#: Unknown names that are compared at once, and further ones a second. Anyone can send some, and people can
#: save names for which each takes some 6 ms.
COMPARE_BURST: Final = 20
COMPARED_PER_SECOND: Final = 5
_MAX_NEAR_BYTES: Final = 256 * 1024
_SIMILAR: Final = 0.7


@dataclass(frozen=True, slots=True)
class NamedContract:
    """`text` is what the name stands for, as it may stand in `X-devroute`; `saved` and `expires` are seconds
    since the epoch. `contract` is its content for people: a signature is verified when it is used."""

    name: str
    text: str
    owner: str
    saved: float
    expires: float
    contract: Contract

    @classmethod
    def of(cls, name: str, text: str, owner: str, saved: float, expires: float) -> "NamedContract":
        """Raises ContractInvalid or ContractUntrusted."""
        return cls(name, text, owner, saved, expires, read_any(text))

    @property
    def services(self) -> dict[str, str]:
        """The targets by service."""
        return {key: str(entry.target) for key, entry in self.contract.entries.items()}

    def explanation(self) -> list[str]:
        return explain(self.contract)


@dataclass(frozen=True, slots=True)
class _Gone:
    owner: str
    at: float
    how: Literal["expired", "was deleted"]


class NamedContracts:
    """`complete` is False while others' contracts may not be known yet: then an unknown name is no error of
    who sent it. `observers` are called with each name that no longer stands for what it did."""

    def __init__(self) -> None:
        self.complete = True
        self.observers: list[Callable[[str], None]] = []
        self._by_name: dict[str, NamedContract] = {}
        self._count: Counter[str] = Counter()  # by owner
        self._size: Counter[str] = Counter()  # bytes, by owner
        self._gone: OrderedDict[str, _Gone] = OrderedDict()
        self._near = BoundedCache[str, list[str]](_MAX_NEAR_BYTES)  # of unknown names
        self._allowance = TokenBucket(COMPARE_BURST, COMPARED_PER_SECOND, 0.0)
        self._next_expiry = float("inf")

    def get(self, name: str, now: float) -> NamedContract | None:
        found = self._by_name.get(name)
        return found if found is not None and now < found.expires else None

    def find(self, name: str, now: float) -> NamedContract:
        """`now`: seconds since the epoch. Raises ContractUnknown, or ContractsUnavailable while the set is
        not complete."""
        found = self.get(name, now)
        if found is not None:
            return found
        self.expire(now)
        if not self.complete:
            raise ContractsUnavailable(f"the contract '{SIGN}{name}' is not known to this replica yet")
        raise self._unknown(name, now)

    def listing(self, now: float) -> list[NamedContract]:
        """By name."""
        return [each for _, each in sorted(self._by_name.items()) if now < each.expires]

    # --- changes

    def permit_change(self, name: str, subject: str, now: float, *, admin: bool) -> NamedContract | None:
        """The contract of that name, if there is one. Raises ContractNotOwned."""
        found = self.get(name, now)
        if found is not None and found.owner != subject and not admin:
            raise ContractNotOwned(
                f"the contract '{SIGN}{name}' is {found.owner}'s, until it expires in"
                f" {duration(found.expires - now)}",
                hint=f"use another name, such as {subject}-{name}, or ask {found.owner} or an administrator",
            )
        return found

    def permit_save(self, draft: NamedContract, now: float, *, admin: bool) -> NamedContract | None:
        """The contract that the draft is to replace, if there is one. Raises ContractNotOwned or
        TooManyContracts."""
        self.expire(now)
        before = self.permit_change(draft.name, draft.owner, now, admin=admin)
        own = before is not None and before.owner == draft.owner
        count = self._count[draft.owner] + (not own)
        size = self._size[draft.owner] + len(draft.text) - (len(before.text) if before and own else 0)
        if count > MAX_PER_SUBJECT:
            raise TooManyContracts(f"{draft.owner} has {MAX_PER_SUBJECT} saved contracts, which is the limit")
        if size > MAX_BYTES_PER_SUBJECT:
            raise TooManyContracts(
                f"the saved contracts of {draft.owner} would have {size} bytes, of {MAX_BYTES_PER_SUBJECT}"
            )
        if not self.has_room(draft):
            raise TooManyContracts(
                f"{len(self._by_name)} contracts are saved; there is no room for more",
                hint="ask others to delete some, or wait for one to expire: devroute contract list",
            )
        return before

    def has_room(self, contract: NamedContract) -> bool:
        """Whether all of them together stay within the bounds with this one."""
        before = self._by_name.get(contract.name)
        size = sum(self._size.values()) + len(contract.text) - (len(before.text) if before else 0)
        return size <= MAX_BYTES and (before is not None or len(self._by_name) < MAX_CONTRACTS)

    def put(self, contract: NamedContract) -> None:
        before = self._take(contract.name)
        self._by_name[contract.name] = contract
        self._count[contract.owner] += 1
        self._size[contract.owner] += len(contract.text)
        self._next_expiry = min(self._next_expiry, contract.expires)
        self._gone.pop(contract.name, None)
        if before is not None:
            self._changed(contract.name)

    def remove(self, name: str, now: float) -> None:
        """Nothing happens if there is none of that name."""
        before = self._take(name)
        if before is None:
            return
        expired = now >= before.expires
        self._gone[name] = _Gone(
            before.owner, min(now, before.expires), "expired" if expired else "was deleted"
        )
        self._gone.move_to_end(name)
        if len(self._gone) > MAX_GONE:
            self._gone.popitem(last=False)
        self._changed(name)

    def expire(self, now: float) -> None:
        """Remove what has expired; cheap while nothing has."""
        if now < self._next_expiry:
            return
        for name in [name for name, each in self._by_name.items() if now >= each.expires]:
            self.remove(name, now)
        self._next_expiry = min((each.expires for each in self._by_name.values()), default=float("inf"))

    def _take(self, name: str) -> NamedContract | None:
        self._near.clear()
        before = self._by_name.pop(name, None)
        if before is not None:
            self._count[before.owner] -= 1
            self._size[before.owner] -= len(before.text)
            if not self._count[before.owner]:
                del self._count[before.owner], self._size[before.owner]
        return before

    def _changed(self, name: str) -> None:
        for observer in self.observers:
            observer(name)

    # --- unknown names

    def _unknown(self, name: str, now: float) -> ContractUnknown:
        gone = self._gone.get(name)
        if gone is not None and now - gone.at < GONE_SECONDS:
            return ContractUnknown(
                f"the contract '{SIGN}{name}' of {gone.owner} {gone.how} {duration(now - gone.at)} ago",
                hint=f"ask {gone.owner} to save it again: devroute contract save {name} CONTRACT",
            )
        names = self._near.get(name)
        if names is None and not self._allowance.spend(now):
            names = []
        elif names is None:
            names = _near(name, self._by_name)
            self._near.put(name, names, sum(map(len, (name, *names))))
        near = [self._by_name[each] for each in names]
        meant = " or ".join(f"{SIGN}{each.name} (of {each.owner})" for each in near)
        return ContractUnknown(
            f"no contract is saved as '{SIGN}{name}'",
            hint=f"did you mean {meant}? {ContractUnknown.default_hint}"
            if meant
            else f"ask who gave you the name, or save it: devroute contract save {name} CONTRACT;"
            f" {ContractUnknown.default_hint}",
        )


def _near(name: str, known: Iterable[str]) -> list[str]:
    """Up to three names that may have been meant. Anyone can send unknown names, and comparing is slow: it is
    done for a few that begin or end alike."""
    alike = []
    for each in known:
        ends_alike = each[:2] == name[:2] or each[-2:] == name[-2:]
        if ends_alike and abs(len(each) - len(name)) <= len(name) // 2:
            alike.append(each)
            if len(alike) == MAX_COMPARED:
                break
    return get_close_matches(name, alike, 3, _SIMILAR)


class ContractReader:
    """Reads contracts, also those that a name stands for."""

    def __init__(
        self, read: Callable[[str], Contract], names: NamedContracts, clock: Callable[[], float]
    ) -> None:
        """`read` reads all others; `clock` gives seconds since the epoch."""
        self._read = read
        self._names = names
        self._clock = clock

    def __call__(self, raw: str) -> Contract:
        """The contract without a trace's id, its signature verified but not its time. Raises ContractInvalid,
        ContractUntrusted, ContractUnknown, ContractsUnavailable or KeysUnavailable."""
        raw, _ = split_trace(raw)
        if not is_named(raw):
            return self._read(raw)
        found = self._names.find(parse_name(raw), self._clock())
        contract = self._read(found.text)
        saved = Saved(found.name, found.owner, found.expires)
        return Contract(raw, contract.entries, contract.signature, saved)
