"""State that the pages of all replicas share: codes and sessions, blocks, and activity. It goes over the
links between replicas and stays in memory; nothing of it is written to Redis.

A code stays where it was made, and is taken from there once. A session is known where it began and, at once,
to all replicas that are linked; others ask for it when a browser brings its cookie.
"""

import time
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from devroute.auth.blocks import Block, Blocks
from devroute.auth.sessions import Session, SessionTable, decode_session
from devroute.errors import NotFound
from devroute.replicas.node import TEAM
from devroute.tasks import TaskOwner
from devroute.token_bucket import TokenBucket

#: Unknown codes and cookies for which the other replicas are asked at once, and further ones a second: anyone
#: may send some.
ASK_BURST: Final = 50
ASKS_PER_SECOND: Final = 10


class _Question:
    """What one replica asks another; the last four are followed by the digest of a code or cookie."""

    ACTIVITY: Final = "activity"
    BLOCKS: Final = "blocks"
    CODE: Final = "code/"
    FIND: Final = "session/"
    PUT: Final = "put/"
    END: Final = "end/"


class Peers(Protocol):
    """The other replicas (devroute/replicas/peers.py)."""

    @property
    def linked(self) -> frozenset[str]: ...

    async def ask_all(self, question: bytes, body: bytes = b"") -> list[bytes]: ...


class SharedTeam:
    """Implements access.SharedSessions. `activity()` encodes that of this replica; `blocked(block)` is called
    for each block that another replica has made. `peers` is None where there is one replica."""

    def __init__(
        self, blocks: Blocks, activity: Callable[[], bytes], blocked: Callable[[Block], None]
    ) -> None:
        self.codes = SessionTable()
        self.sessions = SessionTable()
        self.peers: Peers | None = None
        self._blocks = blocks
        self._activity = activity
        self._blocked = blocked
        self._linked: frozenset[str] = frozenset()
        # One for each, so that a flood of invented cookies does not keep people from opening links.
        self._codes_allowed = TokenBucket(ASK_BURST, ASKS_PER_SECOND, time.monotonic())
        self._sessions_allowed = TokenBucket(ASK_BURST, ASKS_PER_SECOND, time.monotonic())
        self._tasks = TaskOwner()

    async def close(self) -> None:
        await self._tasks.close()

    # --- to other replicas

    async def take_code(self, key: str) -> Session | None:
        return await self._session(_Question.CODE, key, self._codes_allowed)

    async def find_session(self, key: str) -> Session | None:
        return await self._session(_Question.FIND, key, self._sessions_allowed)

    async def _session(self, question: str, key: str, allowed: TokenBucket) -> Session | None:
        if self.peers is None or not allowed.spend(time.monotonic()):
            return None
        found = await self._ask_all(question + key)
        return next(filter(None, map(decode_session, found)), None)

    def publish(self, key: str, session: Session) -> None:
        self._tasks.start(self._ask_all(_Question.PUT + key, session.encode()))

    def end(self, key: str) -> None:
        self._tasks.start(self._ask_all(_Question.END + key))

    async def activities(self) -> list[bytes]:
        return await self._ask_all(_Question.ACTIVITY)

    def spread_blocks(self) -> None:
        """They have changed here."""
        self._tasks.start(self._exchange_blocks())

    def exchange_if_newly_linked(self) -> None:
        """With replicas that have just been linked; to be called periodically."""
        linked = frozenset[str]() if self.peers is None else self.peers.linked
        if not linked <= self._linked:
            self._tasks.start(self._exchange_blocks())
        self._linked = linked

    async def _exchange_blocks(self) -> None:
        self._take_over(await self._ask_all(_Question.BLOCKS, self._blocks.encode()))

    async def _ask_all(self, question: str, body: bytes = b"") -> list[bytes]:
        return [] if self.peers is None else await self.peers.ask_all(TEAM + question.encode(), body)

    # --- from other replicas

    def answer(self, question: str, body: bytes) -> bytes:
        """Raises NotFound."""
        now = time.time()
        kind, _, key = question.partition("/")
        found: Session | None = None
        match f"{kind}/" if key else kind:
            case _Question.ACTIVITY:
                return self._activity()
            case _Question.BLOCKS:
                self._take_over([body])
                return self._blocks.encode()
            case _Question.CODE:
                found = self.codes.take(key, now)
            case _Question.FIND:
                found = self.sessions.get(key, now)
            case _Question.PUT if (session := decode_session(body)) is not None:
                self.sessions.put(key, session, now)
                return b"kept"
            case _Question.END:
                found = self.sessions.take(key, now)
        if found is None:
            raise NotFound("this replica does not know it")
        return found.encode()

    def _take_over(self, blocks: Iterable[bytes]) -> None:
        for raw in blocks:
            for block in self._blocks.merge(raw, time.time()):
                self._blocked(block)
