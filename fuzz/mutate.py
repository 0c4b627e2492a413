"""Makes new inputs from the corpus. An input for which a target returns a new value joins the corpus."""

from collections.abc import Sequence
from random import Random

from .targets import MAX_INPUT

#: Inputs with a new value that are kept beside the seeds.
MAX_CORPUS = 3000


class Mutator:
    def __init__(self, seeds: Sequence[bytes], tokens: Sequence[bytes], random: Random) -> None:
        self._corpus = list(seeds)
        self._seeds = len(seeds)
        self._tokens = tokens
        self._random = random
        self._seen: set[object] = set()

    @property
    def kinds(self) -> int:
        return len(self._seen)

    def learn(self, data: bytes, value: object) -> None:
        key = repr(value)
        if key in self._seen or len(self._seen) >= MAX_CORPUS:
            return
        self._seen.add(key)
        self._corpus.append(data)

    def next(self) -> bytes:
        random = self._random
        data = bytearray(random.choice(self._corpus))
        for _ in range(1 << random.randrange(4)):
            self._step(data)
        return bytes(data[:MAX_INPUT])

    def _step(self, data: bytearray) -> None:
        random = self._random
        at = random.randrange(len(data) + 1)
        to = min(len(data), at + random.choice((1, 1, 2, 4, 16, 64)))
        match random.randrange(8):
            case 0 if data:
                data[at - 1] ^= 1 << random.randrange(8)
            case 1:
                data[at:at] = random.choice(self._tokens)
            case 2:
                data[at:to] = random.choice(self._tokens)
            case 3:
                del data[at:to]
            case 4:
                data[at:at] = data[at:to]
            case 5:
                other = random.choice(self._corpus)
                data[at:] = other[random.randrange(len(other) + 1) :]
            case 6:
                other = random.choice(self._corpus)
                start = random.randrange(len(other) + 1)
                data[at:at] = other[start : start + 64]
            case _:
                data[at:to] = data[at:to].swapcase()
