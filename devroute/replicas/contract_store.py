"""The key of the saved contracts in Redis (REGISTRY.md), and the scripts that change it. Values are bytes.

PREFIX:contracts      hash: `g` a generation, another one where the key was made again; `v` a version that
                      grows with each change; `n:NAME` the contract NAME
PREFIX:changes        channel; a message is "@contracts", version, name and value, in lines

The key expires with its last contract. Single fields cannot expire in every Redis that is in use, so who
writes removes those that have.
"""

import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

from devroute.replicas.store import Store
from devroute.routing.named_contracts import MAX_CONTRACTS

#: The id in messages on the channel of changes: no replica has it.
SENDER: Final = "@contracts"
_KEY: Final = "contracts"
#: Milliseconds that the key outlives its last contract by: clocks differ.
_GRACE_MS: Final = 60_000
#: Contracts that have expired, removed by one write.
MAX_REAPED: Final = 100

# All scripts take the key, and the prefix first.
_COMMON: Final = f"""
local key, prefix = KEYS[1], ARGV[1]
local function keep_for(ms)
  if redis.call('PTTL', key) < tonumber(ms) + {_GRACE_MS} then
    redis.call('PEXPIRE', key, tonumber(ms) + {_GRACE_MS})
  end
end
local function changed(name, value)
  local version = redis.call('HINCRBY', key, 'v', 1)
  redis.call('PUBLISH', prefix .. ':changes', table.concat({{'{SENDER}', version, name, value}}, '\\n'))
  return version
end
"""
_STATE: Final = "return redis.call('HMGET', KEYS[1], 'g', 'v')"
#: Writes a contract (an empty value removes it) if its present value is the one that the caller has seen.
#: Names and values that follow have expired.
_WRITE: Final = f"""{_COMMON}
local known, fresh, name, seen, value, ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local generation = redis.call('HGET', key, 'g') or ''
if generation == '' and known ~= '' then return {{'absent'}} end
local there = redis.call('HGET', key, 'n:' .. name) or ''
if there ~= seen then return {{'changed', there}} end
for i = 8, #ARGV, 2 do
  if redis.call('HGET', key, 'n:' .. ARGV[i]) == ARGV[i + 1] then redis.call('HDEL', key, 'n:' .. ARGV[i]) end
end
if value == '' then
  redis.call('HDEL', key, 'n:' .. name)
else
  if there == '' and redis.call('HLEN', key) >= {MAX_CONTRACTS + 2} then return {{'full'}} end
  if generation == '' then redis.call('HSET', key, 'g', fresh) end
  redis.call('HSET', key, 'n:' .. name, value)
  keep_for(ms)
end
return {{'written', redis.call('HGET', key, 'g') or '', changed(name, value)}}
"""
#: Adds contracts that are not there; makes the key if there is none.
_MERGE: Final = f"""{_COMMON}
local added = 0
if redis.call('HSETNX', key, 'g', ARGV[2]) == 1 then added = 1 end
for i = 4, #ARGV, 2 do
  added = added + redis.call('HSETNX', key, 'n:' .. ARGV[i], ARGV[i + 1])
end
keep_for(ARGV[3])
if added > 0 then changed('', '') end
return 1
"""


class State(NamedTuple):
    """What has to be read again where it has changed. `generation` is "" where there is no key."""

    generation: str
    version: int


class ContractsMissing(Exception):
    """The key has gone from Redis: its contracts have to be written again."""


class Full(Exception):
    """There are as many contracts as there may be."""


class Rewritten(Exception):
    """Another value of the name is there than the caller has seen."""

    def __init__(self, value: bytes) -> None:
        super().__init__()
        self.value = value


class ContractKey:
    """Everything raises RegistryUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def state(self) -> State:
        generation, version = await self._store.run(_STATE, _KEY)
        return _state(generation, version)

    async def read(self) -> dict[str, bytes]:
        """All contracts by name."""
        return await self._store.scan(_KEY, "n:")

    async def write(
        self,
        known: str,
        name: str,
        seen: bytes,
        value: bytes,
        ttl_ms: int,
        expired: Mapping[str, bytes],
    ) -> State:
        """Write a contract, or remove it (b""), if its present value is `seen`. `known`: the generation that
        the caller knows. Raises ContractsMissing, Full or Rewritten."""
        reaped = [part for pair in list(expired.items())[:MAX_REAPED] for part in pair]
        outcome, *found = await self._store.run(
            _WRITE, _KEY, known, _new_generation(), name, seen, value, ttl_ms, *reaped
        )
        if outcome == b"absent":
            raise ContractsMissing
        if outcome == b"full":
            raise Full
        if outcome == b"changed":
            raise Rewritten(found[0])
        generation, version = found
        return State(generation.decode("utf-8", "replace"), version)

    async def merge(self, contracts: Mapping[str, bytes], ttl_ms: int) -> None:
        """Add those that are not there. `ttl_ms`: until the last of them expires."""
        await self._store.run(
            _MERGE, _KEY, _new_generation(), ttl_ms, *(part for pair in contracts.items() for part in pair)
        )


def _new_generation() -> str:
    return secrets.token_hex(8)


def _state(generation: bytes | None, version: bytes | None) -> State:
    number = int(version) if version is not None and version.isdigit() and len(version) < 16 else 0
    return State("" if generation is None else generation.decode("utf-8", "replace"), number)
