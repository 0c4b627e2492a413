"""What became of every request, and what explains it. Judges; sends nothing and kills nothing."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

#: A laptop that is back may be thought away for so long: the sidecars keep answers, and its kill may be
#: noticed a little late on a machine with much to do.
AFTERMATH_S = 1.5
#: Shown of what went wrong.
MAX_SHOWN = 20


@dataclass
class Outages:
    """When whose laptop was not there, or the machine did not get to run us."""

    _spans: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))

    def down(self, who: str) -> None:
        self._spans[who].append([time.monotonic(), float("inf")])

    def up(self, who: str) -> None:
        if self._spans[who]:
            self._spans[who][-1][1] = time.monotonic()

    def stalled(self, who: str, since: float, until: float) -> None:
        self._spans[who].append([since, until])

    def was(self, who: str, since: float) -> bool:
        """Whether one touches the time from `since` to now."""
        now = time.monotonic()
        return any(down <= now and up + AFTERMATH_S >= since for down, up in self._spans[who])

    def count(self, who: str) -> int:
        return len(self._spans[who])


#: Whom nobody asked: our own process, when it got no time to run.
MACHINE = "the machine"
#: What that can explain: the sidecar had to wait too long for the proxy, or we for everything.
LATE = ("did not answer within", "hung")


#: What is said of a laptop that makes no sign although it is asked (link.py).
ASLEEP = "has not responded for"


@dataclass
class Ledger:
    outages: Outages = field(default_factory=Outages)
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)

    def fine(self, what: str) -> None:
        self.outcomes[what] += 1

    def deliver_to_wrong(self, what: str) -> None:
        """The worst that can happen: somebody got what was another's."""
        self.outcomes["DELIVERED TO A WRONG REQUESTER"] += 1
        self.wrong.append(what)

    def failed(self, what: str, detail: str, who: str, since: float) -> None:
        """A request of the laptop `who` that did not get its answer."""
        if self.outages.was(who, since):
            self.outcomes[f"{what}: the laptop was killed"] += 1
        elif ASLEEP in detail and self.outages.was(f"{who} asleep", since):
            self.outcomes[f"{what}: the laptop slept"] += 1
        elif any(word in f"{what} {detail}" for word in LATE) and self.outages.was(MACHINE, since):
            self.outcomes[f"{what}: this machine stood still"] += 1
        else:
            self.outcomes[f"{what}: UNEXPLAINED"] += 1
            self.unexplained.append(f"{what}: {detail}")

    def expect(self, holds: bool, what: str, detail: Callable[[], str]) -> None:
        """What a hostile or wrong peer has to meet."""
        if holds:
            self.fine(what)
        else:
            self.outcomes[f"{what}: NOT SO"] += 1
            self.unexplained.append(f"{what}: {detail()}")

    def report(self) -> list[str]:
        width = max(map(len, self.outcomes), default=0)
        lines = [f"{what:<{width}}  {count:>9,}" for what, count in sorted(self.outcomes.items())]
        for title, found in [("wrong", self.wrong), ("unexplained", self.unexplained)]:
            lines += [f"{title}: {each}" for each in found[:MAX_SHOWN]]
        return lines

    @property
    def good(self) -> bool:
        return not self.wrong and not self.unexplained
