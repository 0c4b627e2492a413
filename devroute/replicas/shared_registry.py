"""Several replicas, one registry: what each registers is written to Redis, and what the others have written
is put into this one's registry, whole, in memory. No request and no /resolve waits for Redis.

Changes arrive by pub/sub. What counts is the keys: every second each replica refreshes its own, compares the
others' versions with what it knows, and reads again those that differ. If its own key has gone (Redis was
emptied, or has come back), it writes all of it again.

Longer than 350 lines: all that changes what this replica knows of Redis, and its order, stand in one place.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Final, TypeVar

import structlog

from devroute import __version__
from devroute.errors import NameTaken, TooManyLinks
from devroute.replicas.certificate import Certificate
from devroute.replicas.contract_store import SENDER
from devroute.replicas.local_laptops import LocalLaptops
from devroute.replicas.node import REPORTS, Node
from devroute.replicas.node_links import NodeLinks
from devroute.replicas.own_laptops import AT_ONCE, OwnLaptops
from devroute.replicas.peers import Answer, Peers
from devroute.replicas.record import ID_LENGTH, ReplicaRecord, decode_replica
from devroute.replicas.remote_laptops import Arrived, Known, RemoteLaptops
from devroute.replicas.reports import Reported, SharedReports
from devroute.replicas.shared_contracts import SharedContracts
from devroute.replicas.store import MAX_REPLICAS, Change, OwnKeyMissing, RegistryUnavailable, Store
from devroute.routing.named_contracts import NamedContracts
from devroute.routing.registration import Displaced, Registration
from devroute.tasks import TaskOwner

#: Seconds between two refreshes.
REFRESH_SECONDS: Final = 1.0
#: Seconds that a replica is known for without a key and without a link: Redis was emptied, and it is about to
#: write its key again.
MISSING_SECONDS: Final = 3.0
#: Seconds without a refresh of its key, after which a replica without a link is frozen or lost: it refreshes
#: every second, and waits 2 s for Redis.
LOST_SECONDS: Final = 4.0
#: Seconds that a replica which starts waits for the others to dial it, before it takes requests.
LINKED_SECONDS: Final = 5.0
#: Attempts to take a name that others change at the same time.
MAX_CLAIMS: Final = 16

T = TypeVar("T")

log = structlog.stdlib.get_logger("devroute.replicas")


class SharedRegistry:
    """`problem`: why Redis cannot be used, None while it can. `answers`: to questions of the other replicas,
    beside those about laptops and reports, by their prefix."""

    def __init__(
        self,
        url: str,
        prefix: str,
        laptops: LocalLaptops,
        reported: Reported,
        arrived: Arrived,
        names: NamedContracts,
        answers: Mapping[bytes, Answer] = {},
    ) -> None:
        """Raises ConfigInvalid."""
        registry = laptops.registry
        self.id = secrets.token_hex(ID_LENGTH // 2)
        self.problem: str | None = None
        self._registry = registry
        self._laptops = laptops
        self._store = Store(url, prefix, self.id)
        self.contracts = SharedContracts(names, self._store)
        self._certificate = Certificate(self.id)
        self.remote = RemoteLaptops(registry, arrived)
        self.peers = Peers(self._nodes)
        self.reports = SharedReports(reported, self.peers)
        answers = {REPORTS: self.reports.answer, **answers}
        self._links = NodeLinks(self._certificate, laptops, answers, self._ended, self._linked)
        self._own = OwnLaptops(registry, self._store, self._try)
        self._behind = False  # something could not be written
        self._others = asyncio.Lock()  # what is known of the others; taken after that of `_own`
        self._tasks = TaskOwner()
        self._started: float | None = None
        self._was_ready = False
        self._refreshed = time.monotonic()  # when _refresh last found Redis

    async def listen(self, host: str, port: int) -> int:
        """The port for other replicas. Raises ConfigInvalid."""
        return await self._links.listen(host, port)

    async def start(self, data: str, peer: str) -> None:
        """`data` and `peer`: the addresses at which others reach those ports. Returns once all that Redis has
        is known, or it turns out that Redis cannot be reached."""
        self._registry.owner = data
        self._own.record = ReplicaRecord(
            id=self.id,
            data=data,
            peer=peer,
            version=__version__,
            started=time.time(),
            certificate=self._certificate.der,
        )
        await self._surviving(self._try(self._refresh()))
        self._started = time.monotonic()
        self._tasks.start(self._keep_refreshed())
        self._tasks.start(self._listen())

    async def stop(self) -> None:
        """Withdraw from Redis, and end the links to the others."""
        await self._tasks.close()
        await self._own.close()
        with contextlib.suppress(RegistryUnavailable):
            await self._store.withdraw()
        await self._links.close()
        await self._laptops.tasks.close()
        await self.reports.close()
        with contextlib.suppress(RegistryUnavailable):
            await self._store.close()

    @property
    def replicas(self) -> int:
        """That are known, this one included."""
        return 1 + sum(not known.node.dead for known in self.remote.known.values())

    @property
    def lag(self) -> float:
        """Seconds since this replica last compared all that it knows with Redis."""
        return time.monotonic() - self._refreshed

    @property
    def ready(self) -> bool:
        """Whether requests for the others' laptops can be forwarded: the others dial, so a replica that has
        just started cannot yet. One that another does not reach is ready after LINKED_SECONDS. Once ready,
        it stays so: what fails later is no reason to take its laptops' requests away."""
        if not self._was_ready and self._started is not None:
            linked = all(node.link is not None or node.dead for node in self._nodes())
            self._was_ready = linked or time.monotonic() - self._started > LINKED_SECONDS
        return self._was_ready

    def _nodes(self) -> list[Node]:
        return [known.node for known in self.remote.known.values()]

    # --- taking a name

    async def register(
        self, name: str, draft: Callable[[], Registration]
    ) -> tuple[Registration, list[Displaced]]:
        """Register what `draft` makes, if the registry permits it as it is when the name is written: `draft`
        is called again if that has changed. Without Redis it is registered here, and written later.

        Raises what `draft` raises, LinkReplaced, and TooManyLinks if others have registered meanwhile.
        """
        async with self._own.lock:
            try:
                registration = await self._claim(name, draft)
                self._registry.check_room(registration)
                return registration, self._registry.add(registration)
            finally:
                self._own.write_soon(name)  # the others hear of it once it is registered here

    async def _claim(self, name: str, draft: Callable[[], Registration]) -> Registration:
        seen, looked = self._seen(name), False
        for _ in range(MAX_CLAIMS):
            try:
                registration = draft()
            except (NameTaken, TooManyLinks):
                if looked:
                    raise
                looked = True
                seen = await self._try(self._look(name)) or seen  # what is known may be older
                continue
            if self.problem is not None:
                break
            value = self._own.value(name, registration)
            found = await self._try(self._write_claim(name, value, seen))
            if found is None:  # written, or Redis has just failed
                break
            seen = found
        return registration

    async def _write_claim(self, name: str, value: bytes, seen: dict[str, bytes]) -> dict[str, bytes] | None:
        """None once it is written; else all values of the name."""
        try:
            found = await self._store.claim(name, value, seen)
        except OwnKeyMissing:
            await self._own.announce()
            return self._seen(name)
        if found is None:
            self._own.written[name] = value
            self._own.claimed.add(name)
            return None
        await self._learn(name, found)
        return found

    def _seen(self, name: str) -> dict[str, bytes]:
        own = self._own.written
        return {**self.remote.values_of(name), **({self.id: own[name]} if name in own else {})}

    async def _look(self, name: str) -> dict[str, bytes]:
        found = await self._store.look(name)
        await self._learn(name, found)
        return found

    async def _learn(self, name: str, found: dict[str, bytes]) -> None:
        """What all replicas have written under a name."""
        for id_ in found.keys() - self.remote.known.keys() - {self.id}:
            await self._read(id_)
        for id_, known in list(self.remote.known.items()):
            self.remote.put(known, name, found.get(id_, b""))

    # --- what the others have

    async def _keep_refreshed(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_SECONDS)
            await self._surviving(self._try(self._refresh()))

    async def _refresh(self) -> None:
        now = time.monotonic()  # before Redis looks, so that no refresh seems newer than it is
        there, seen = await self._store.refresh()
        if self._behind or not there:
            async with self._own.lock:
                await self._own.announce()
            self._behind = False
        for id_, known in list(self.remote.known.items()):
            if id_ in seen:
                known.missing_since = None
                self._judge(known.node, now, seen[id_].age)
                continue
            known.missing_since = known.missing_since or now
            if now - known.missing_since > MISSING_SECONDS and known.node.link is None:
                self._remove(id_)
        for id_, key in seen.items():
            there_before = self.remote.known.get(id_)
            if id_ != self.id and (there_before is None or there_before.version != key.version):
                await self._read(id_)
        await self.contracts.refresh()
        self._refreshed = time.monotonic()

    def _judge(self, node: Node, now: float, age: float) -> None:
        """Whether a replica lives whose key was refreshed `age` seconds ago."""
        if node.dead_since is None:
            if node.link is None and age > LOST_SECONDS:
                log.warning("replica.lost", replica=node.record.id, address=node.record.data)
                self.remote.bury(node, now)
        elif now - age > node.dead_since:
            self._back(node)

    async def _listen(self) -> None:
        while True:
            with contextlib.suppress(RegistryUnavailable):  # _refresh reports it
                async with self._store.changes() as changes:
                    async for change in changes:
                        await self._surviving(self._apply(change))
            await asyncio.sleep(REFRESH_SECONDS)

    async def _apply(self, change: Change) -> None:
        if change.id == SENDER:
            await self.contracts.apply(change)
            return
        if change.id == self.id:
            return
        if not change.version:
            if change.id in self.remote.known:
                self._remove(change.id)
        elif not await self._follows(change):
            await self._read(change.id)

    async def _follows(self, change: Change) -> bool:
        """Whether all is known with this change, which is put in if it is the next one. Those before it were
        in what has been read since they were sent: after thousands of registrations there are as many."""
        async with self._others:
            known = self.remote.known.get(change.id)
            if known is None or not change.name or change.version > known.version + 1:
                return False
            if change.version == known.version + 1:
                known.version = change.version
                self.remote.put(known, change.name, change.value)
            return True

    async def _read(self, id_: str) -> None:
        """All that a replica has written."""
        async with self._others:
            whole = await self._store.read(id_)
            if whole is None:
                return
            if (known := self.remote.known.get(id_) or self._met(id_, whole.record)) is None:
                return
            gone = known.values.keys() - whole.names.keys()
            for at, (name, value) in enumerate([*((name, b"") for name in gone), *whole.names.items()]):
                self.remote.put(known, name, value)
                if at % AT_ONCE == 0:
                    await asyncio.sleep(0)
            known.version = whole.version

    def _met(self, id_: str, raw: bytes) -> Known | None:
        """A replica that was not known; None for what is none."""
        if len(self.remote.known) >= MAX_REPLICAS:
            return None
        try:
            record = decode_replica(raw)
            if record.id != id_:
                raise ValueError("the record of another replica")
            node = Node(record)
            self._links.add(node)
        except ValueError as error:
            log.debug("registry.unreadable", replica=id_, reason=str(error).partition("\n")[0])
            return None
        log.info("replica.joined", replica=id_, address=record.data, version=record.version)
        return self.remote.add(id_, node)

    def _remove(self, id_: str) -> None:
        node = self.remote.known[id_].node
        self.remote.remove(id_)
        self._links.remove(node)
        log.info("replica.left", replica=id_, address=node.record.data)

    def _ended(self, node: Node) -> None:
        """Its peer port refuses connections. If a rule of the network does that, it goes on refreshing its
        key."""
        log.warning("replica.ended", replica=node.record.id, address=node.record.data)
        self.remote.bury(node, time.monotonic())

    def _linked(self, node: Node) -> None:
        if node.dead:
            self._back(node)

    def _back(self, node: Node) -> None:
        log.info("replica.back", replica=node.record.id, address=node.record.data)
        self.remote.revive(node)

    # --- whether Redis can be used

    async def _surviving(self, work: Coroutine[None, None, None]) -> None:
        """In tasks that have to go on: others may write to Redis what no test has thought of. Raises
        RegistryUnavailable."""
        try:
            await work
        except RegistryUnavailable:
            raise
        except Exception as error:  # the last resort: without a refresh, this replica would be gone for all
            log.error("registry.failed", exc_info=error)

    async def _try(self, work: Coroutine[None, None, T]) -> T | None:
        """What `work` returns; None if Redis cannot be used, which is reported once."""
        try:
            done = await work
        except RegistryUnavailable as error:
            self._behind = True
            if self.problem is None:
                log.error("registry.unavailable", reason=error.message)
            self.problem = error.message
            return None
        if self.problem is not None:
            log.info("registry.available")
        self.problem = None
        return done
