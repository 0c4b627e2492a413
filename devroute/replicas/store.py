"""The registry's keys in Redis (REGISTRY.md), and the scripts that change them. Knows no laptop: values are
bytes.

PREFIX:replicas       set of replica ids
PREFIX:replica:ID     hash that expires unless its replica refreshes it: `@` the replica itself, `v` a version
                      that grows with each change, `n:NAME` the processes of the laptop NAME at this replica
PREFIX:changes        channel; a message is id, version, name and value, in lines
PREFIX:contracts      saved contracts (contract_store.py)

One key holds all of a replica, so that all of it expires at once. The prefix has braces, so that a cluster
keeps all keys in one slot, where one script can see them.
"""

import asyncio
import hashlib
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from devroute.errors import DevrouteError
from devroute.replicas.redis_url import connect

#: Seconds after which a replica is gone that has not refreshed its key.
TTL_SECONDS: Final = 15
#: Replicas that are looked at; a mesh has a few.
MAX_REPLICAS: Final = 64
#: A version fits a double, in which Redis's Lua counts.
_VERSION_DIGITS: Final = 16
#: Fields that are read at once.
_PIECE: Final = 200
#: Names in one write.
_BATCH: Final = 200

#: Seconds without a change, after which the connection is tested, and after which it counts as lost. Not
#: Final, since tests wait less.
LISTEN_SECONDS = 5.0

# All scripts take the key of the replica, and the prefix first.
_IDS: Final = f"""
local prefix, own = ARGV[1], ARGV[2]
local ids = redis.call('SMEMBERS', prefix .. ':replicas')
table.sort(ids)
while #ids > {MAX_REPLICAS} do table.remove(ids) end
local function field(id, name)
  local value = redis.pcall('HGET', prefix .. ':replica:' .. id, name)
  return type(value) == 'string' and value or nil
end
local function put(name, value)
  if value == '' then
    redis.call('HDEL', KEYS[1], 'n:' .. name)
  else
    redis.call('HSET', KEYS[1], 'n:' .. name, value)
  end
end
local function change(name, value)
  put(name, value)
  local version = redis.call('HINCRBY', KEYS[1], 'v', 1)
  redis.call('PUBLISH', prefix .. ':changes', table.concat({{own, version, name, value}}, '\\n'))
end
"""
#: Refreshes the own key; returns whether it was there, then of each replica id, version and the milliseconds
#: until its key expires.
_REFRESH: Final = f"""{_IDS}
local found = {{redis.call('EXPIRE', KEYS[1], {TTL_SECONDS})}}
for _, id in ipairs(ids) do
  local version = field(id, 'v')
  if version then
    found[#found + 1] = id
    found[#found + 1] = version
    found[#found + 1] = redis.call('PTTL', prefix .. ':replica:' .. id)
  else
    redis.call('SREM', prefix .. ':replicas', id)
  end
end
return found
"""
#: Writes names and values, if the own key is there; returns whether it is.
_WRITE: Final = f"""{_IDS}
if not field(own, '@') then return 0 end
for i = 3, #ARGV, 2 do change(ARGV[i], ARGV[i + 1]) end
return 1
"""
#: Writes a value if all replicas' values of its name are those that the caller has seen, by their digest;
#: else returns them. No change of the replica yet: another one that knew of it would send requests here
#: before the caller has read this reply.
_CLAIM: Final = f"""{_IDS}
local seen, name, value, found = ARGV[3], ARGV[4], ARGV[5], {{}}
for _, id in ipairs(ids) do
  local there = field(id, 'n:' .. name)
  if there then
    found[#found + 1] = id
    found[#found + 1] = there
  end
end
if redis.sha1hex(table.concat(found, '\\n')) ~= seen then return {{'changed', unpack(found)}} end
if not field(own, '@') then return {{'absent'}} end
put(name, value)
return {{'written'}}
"""
#: Writes all of a replica, instead of what its key held.
_ANNOUNCE: Final = f"""{_IDS}
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], '@', ARGV[3], 'v', ARGV[4])
for i = 5, #ARGV, 2 do redis.call('HSET', KEYS[1], 'n:' .. ARGV[i], ARGV[i + 1]) end
redis.call('EXPIRE', KEYS[1], {TTL_SECONDS})
redis.call('SADD', prefix .. ':replicas', own)
redis.call('PUBLISH', prefix .. ':changes', own .. '\\n' .. ARGV[4] .. '\\n\\n')
return 1
"""
_WITHDRAW: Final = f"""{_IDS}
redis.call('DEL', KEYS[1])
redis.call('SREM', prefix .. ':replicas', own)
redis.call('PUBLISH', prefix .. ':changes', own .. '\\n0\\n\\n')
return 1
"""


class RegistryUnavailable(DevrouteError, code="registry-unavailable", status=503):
    """Redis cannot be reached, or refuses what a replica needs."""


class Change(NamedTuple):
    """A replica has changed a name; without a name, all of it may have changed. `value` b"": nothing left."""

    id: str
    version: int
    name: str
    value: bytes


class Seen(NamedTuple):
    """The key of a replica: its version, and the seconds since the replica has refreshed it."""

    version: int
    age: float


class Whole(NamedTuple):
    """All that a replica has: its record, its version, and values by name."""

    record: bytes
    version: int
    names: dict[str, bytes]


class OwnKeyMissing(Exception):
    """The own key has gone from Redis: all has to be announced again."""


class Store:
    """The keys of one registry, as the replica `own` sees them. Everything raises RegistryUnavailable."""

    def __init__(self, url: str, prefix: str, own: str) -> None:
        """Raises ConfigInvalid."""
        self._client: Any = connect(url)  # redis-py's types differ between its kinds of clients
        self._prefix = f"{{{prefix}}}"
        self._own = own

    async def close(self) -> None:
        with _Failures():
            await self._client.aclose()

    async def _run(self, script: str, *arguments: bytes | str | int) -> Any:
        with _Failures():
            key = f"{self._prefix}:replica:{self._own}"
            return await self._client.eval(script, 1, key, self._prefix, self._own, *arguments)

    async def run(self, script: str, key: str, *arguments: bytes | str | int) -> Any:
        """Run a script on a key of the registry; it gets the prefix as its first argument."""
        with _Failures():
            return await self._client.eval(script, 1, f"{self._prefix}:{key}", self._prefix, *arguments)

    async def scan(self, key: str, start: str) -> dict[str, bytes]:
        """The fields of a hash that begin with `start`, without that; in pieces, so that requests go on
        meanwhile."""
        found, cursor = dict[str, bytes](), 0
        with _Failures():
            while True:
                cursor, fields = await self._client.hscan(
                    f"{self._prefix}:{key}", cursor, match=f"{start}*", count=_PIECE
                )
                found.update((_text(name[len(start) :]), value) for name, value in fields.items())
                if not cursor:
                    return found

    async def refresh(self) -> tuple[bool, dict[str, Seen]]:
        """Keep the own key; whether it was there, and what there is of each replica, by id."""
        there, *found = await self._run(_REFRESH)
        keys = zip(found[::3], found[1::3], found[2::3], strict=True)
        return bool(there), {
            _text(id_): Seen(_version(version), TTL_SECONDS - left / 1000) for id_, version, left in keys
        }

    async def announce(self, record: bytes, version: int, names: Mapping[str, bytes]) -> None:
        """Write all of this replica, instead of what its key held."""
        await self._run(_ANNOUNCE, record, version, *(each for pair in names.items() for each in pair))

    async def withdraw(self) -> None:
        await self._run(_WITHDRAW)

    async def write(self, values: Sequence[tuple[str, bytes]]) -> None:
        """Raises OwnKeyMissing."""
        for start in range(0, len(values), _BATCH):
            batch = values[start : start + _BATCH]
            if not await self._run(_WRITE, *(each for pair in batch for each in pair)):
                raise OwnKeyMissing

    async def claim(self, name: str, value: bytes, seen: Mapping[str, bytes]) -> dict[str, bytes] | None:
        """Write what this replica has under a name, unless other values of it than `seen` (by replica) are
        there: returns those then, else None. The others learn of it by `write`. Raises OwnKeyMissing."""
        known = [part for id_ in sorted(seen) for part in (id_.encode(), seen[id_])]
        digest = hashlib.sha1(b"\n".join(known), usedforsecurity=False).hexdigest()
        outcome, *found = await self._run(_CLAIM, digest, name, value)
        if outcome == b"absent":
            raise OwnKeyMissing
        return None if outcome == b"written" else _by_replica(found)

    async def look(self, name: str) -> dict[str, bytes]:
        """All replicas' values of a name."""
        return _by_replica((await self._run(_CLAIM, "", name, b""))[1:])

    async def read(self, id_: str) -> Whole | None:
        """All that a replica has; None if it is gone. In pieces, so that requests go on meanwhile: what is
        changed after the first one has a later version, whether it is in the others or not."""
        with _Failures():
            version, record = await self._client.hmget(f"{self._prefix}:replica:{id_}", "v", "@")
        names = await self.scan(f"replica:{id_}", "n:")
        return None if version is None else Whole(record or b"", _version(version), names)

    @asynccontextmanager
    async def changes(self) -> AsyncIterator[AsyncIterator[Change]]:
        """Subscribes; what is changed after the block was entered arrives."""
        with _Failures():
            async with self._client.pubsub(ignore_subscribe_messages=True) as subscription:
                with _Failures():  # of its own: a cancellation that got lost would wait for changes
                    await subscription.subscribe(f"{self._prefix}:changes")
                yield self._changes(subscription)

    async def _changes(self, subscription: Any) -> AsyncIterator[Change]:
        pinged = False
        while True:
            with _Failures():
                message = await subscription.get_message(
                    ignore_subscribe_messages=True, timeout=LISTEN_SECONDS
                )
            if message is not None:
                pinged = False
                if message["type"] == "message" and (change := _parsed(message["data"])) is not None:
                    yield change
            elif pinged:
                raise RegistryUnavailable(f"Redis has sent nothing for {2 * LISTEN_SECONDS:g} s")
            else:
                pinged = True
                with _Failures():
                    await subscription.ping()


def _parsed(data: bytes) -> Change | None:
    """None for what no replica has sent."""
    parts = data.split(b"\n", 3)
    if len(parts) != 4:
        return None
    return Change(_text(parts[0]), _version(parts[1]), _text(parts[2]), parts[3])


def _version(raw: bytes) -> int:
    """0, which no replica has, for what is no version."""
    return int(raw) if raw.isdigit() and len(raw) < _VERSION_DIGITS else 0


def _by_replica(found: list[bytes]) -> dict[str, bytes]:
    return {_text(id_): there for id_, there in zip(found[::2], found[1::2], strict=True)}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class _Failures:
    """Turns what redis-py raises into RegistryUnavailable, and raises a cancellation that got lost: redis-py
    sends by asyncio.wait_for, which before Python 3.12 returns if one arrives when all is sent
    (https://github.com/python/cpython/issues/86296)."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        from redis.exceptions import RedisClusterException, RedisError

        task = asyncio.current_task()
        if error is None and task is not None and task.cancelling():
            raise asyncio.CancelledError
        if isinstance(error, RedisError | RedisClusterException | OSError | asyncio.TimeoutError):
            raise RegistryUnavailable(f"Redis: {_in_words(error)}") from None


def _in_words(error: BaseException) -> str:
    """redis-py's own words, which name host and port, except for a certificate."""
    reason: BaseException | None = error
    while reason is not None:
        if isinstance(reason, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted: {reason.verify_message}; for a private CA, name its file in"
                " the URL: ?ssl_ca_certs=FILE"
            )
        reason = reason.__cause__ or reason.__context__
    return str(error) or type(error).__name__
