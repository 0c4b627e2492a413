"""A cache whose memory is bounded by bytes, for what strangers can fill: a bound on the number of entries
leaves their size to them. Pure.
"""

from typing import Final, Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")

#: Bytes that an entry costs besides what it says of itself.
ENTRY_BYTES: Final = 256


class BoundedCache(Generic[K, V]):
    """Emptied when it is full: what is in use comes back at once."""

    def __init__(self, limit: int) -> None:
        """`limit` in bytes."""
        self._limit = limit
        self._entries: dict[K, V] = {}
        self.size = 0
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, key: K, value: V, size: int) -> None:
        """`size`: bytes of key and value together. One that is larger than the limit is not kept."""
        cost = size + ENTRY_BYTES
        if self.size + cost > self._limit:
            self.clear()
        if cost <= self._limit:
            self.size += cost
            self._entries[key] = value

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0
