"""Subjects that an administrator has blocked for a time. Pure: `now` is in seconds since the epoch.

Each replica has all blocks in its memory, and they agree by themselves: of two changes of one subject's block
the later one counts, in whatever order they arrive. A lifted block is kept until its time is over, so that no
replica brings it back.
"""

from dataclasses import dataclass, replace
from typing import Annotated, Final

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from devroute.contract.target import check_subject
from devroute.errors import RequestMalformed, SubjectBlocked
from devroute.timestamps import rfc3339

#: The shortest and the longest block, in seconds. Longer than a month: revoke the token.
MIN_SECONDS: Final = 60
MAX_SECONDS: Final = 31 * 86_400
#: Characters of a reason.
MAX_REASON: Final = 200
#: Blocked subjects: all blocks go from one replica to another in one message.
MAX_BLOCKS: Final = 100
#: The least time between two changes of one block, in seconds; a float of the epoch has a finer one.
CHANGE_SECONDS: Final = 1e-3


_Time = Annotated[float, Field(ge=0, lt=1e11, allow_inf_nan=False)]


@dataclass(frozen=True, slots=True)
class Block:
    """`until`, `changed`: seconds since the epoch. `by`: the administrator. `lifted`: it is none any more."""

    subject: Annotated[str, AfterValidator(check_subject)]
    until: _Time
    by: Annotated[str, AfterValidator(check_subject)]
    reason: Annotated[str, Field(max_length=MAX_REASON)]
    changed: _Time
    lifted: bool = False

    def is_in_force(self, now: float) -> bool:
        return not self.lifted and self.until > now

    @property
    def ends(self) -> str:
        """RFC 3339, in UTC."""
        return rfc3339(self.until)

    def as_dict(self) -> dict[str, object]:
        """For the API."""
        return {"subject": self.subject, "until": self.ends, "by": self.by, "reason": self.reason}

    def as_error(self) -> SubjectBlocked:
        why = f": {self.reason}" if self.reason else ""
        return SubjectBlocked(f"'{self.by}' has blocked '{self.subject}' until {self.ends}{why}")


_BLOCKS: Final = TypeAdapter(Annotated[tuple[Block, ...], Field(max_length=MAX_BLOCKS)])


class Blocks:
    """The blocks by subject, lifted ones too."""

    def __init__(self) -> None:
        self._known: dict[str, Block] = {}

    def check(self, subject: str, now: float) -> None:
        """Raises SubjectBlocked."""
        block = self._known.get(subject)
        if block is not None and block.is_in_force(now):
            raise block.as_error()

    def current(self, now: float) -> list[Block]:
        """Those in force, by subject."""
        known = sorted(self._known.items())
        return [block for _, block in known if block.is_in_force(now)]

    def add(self, subject: str, seconds: float, by: str, reason: str, now: float) -> Block:
        """Block a subject, or change its block. Raises RequestMalformed."""
        block = Block(subject, now + seconds, by, reason, self._after_known(subject, now))
        if not self._put(block, now):
            raise RequestMalformed(f"{MAX_BLOCKS} subjects are blocked already")
        return block

    def lift(self, subject: str, by: str, now: float) -> Block | None:
        """None if the subject is not blocked."""
        block = self._known.get(subject)
        if block is None or not block.is_in_force(now):
            return None
        changed = self._after_known(subject, now)
        lifted = self._known[subject] = replace(block, by=by, changed=changed, lifted=True)
        return lifted

    def encode(self) -> bytes:
        """All of them, for other replicas."""
        return _BLOCKS.dump_json(tuple(self._known.values()))

    def merge(self, raw: bytes, now: float) -> list[Block]:
        """Take over what another replica has; returns the blocks that are new here. Ignores what no replica
        would send."""
        try:
            theirs = _BLOCKS.validate_json(raw)
        except ValidationError:
            return []
        changed = [each for each in theirs if self._is_later(each) and self._put(each, now)]
        return [each for each in changed if not each.lifted]

    def _after_known(self, subject: str, now: float) -> float:
        """The time of a change that is made now: after the one known, by a replica whose clock may be
        ahead."""
        known = self._known.get(subject)
        return now if known is None else max(now, known.changed + CHANGE_SECONDS)

    def _is_later(self, block: Block) -> bool:
        known = self._known.get(block.subject)
        return known is None or (block.changed, block.until) > (known.changed, known.until)

    def _put(self, block: Block, now: float) -> bool:
        """False if there are too many, or it is over."""
        for subject in [each for each, known in self._known.items() if known.until <= now]:
            del self._known[subject]
        if block.until <= now or (block.subject not in self._known and len(self._known) >= MAX_BLOCKS):
            return False
        self._known[block.subject] = block
        return True
