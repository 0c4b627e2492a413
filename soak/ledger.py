"""The outcome of every request, and the outage that explains a failure. Sends nothing and kills nothing."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

#: Seconds for which a laptop that is back may still count as offline: sidecars cache decisions, and a busy
#: machine may notice its kill late.
AFTERMATH_S = 1.5
#: Failures of each kind that the report lists.
MAX_SHOWN = 20


@dataclass
class Outages:
    """When each laptop was offline, and when this process or the proxy was not scheduled."""

    _spans: dict[str, list[list[float]]] = field(default_factory=lambda: defaultdict(list))

    def down(self, who: str) -> None:
        self._spans[who].append([time.monotonic(), float("inf")])

    def up(self, who: str) -> None:
        if self._spans[who]:
            self._spans[who][-1][1] = time.monotonic()

    def stalled(self, who: str, since: float, until: float) -> None:
        self._spans[who].append([since, until])

    def was(self, who: str, since: float) -> bool:
        """Whether an outage overlaps the time from `since` to now."""
        now = time.monotonic()
        return any(down <= now and up + AFTERMATH_S >= since for down, up in self._spans[who])

    def count(self, who: str) -> int:
        return len(self._spans[who])


#: The name of outages in which a process was ready to run and was not scheduled.
MACHINE = "the machine"
#: What a request that took too long for its client is called.
HUNG = "hung"
#: Failures that it can explain, in the words of the product: the sidecar waited too long for the proxy, the
#: proxy for a connection, or the client for everything.
LATE = ("did not respond within", HUNG)


#: In the reason of a request whose laptop does not respond to pings.
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
        """The worst failure: a client received the response to another's request."""
        self.outcomes["DELIVERED TO A WRONG REQUESTER"] += 1
        self.wrong.append(what)

    def failed(self, what: str, detail: str, who: str, since: float) -> None:
        """A request to the laptop `who` that did not get its response."""
        if self.outages.was(who, since):
            self.outcomes[f"{what}: the laptop was killed"] += 1
        elif ASLEEP in detail and self.outages.was(f"{who} asleep", since):
            self.outcomes[f"{what}: the laptop slept"] += 1
        elif any(word in f"{what} {detail}" for word in LATE) and self.outages.was(MACHINE, since):
            self.outcomes[f"{what}: the machine was overloaded"] += 1
        else:
            self.outcomes[f"{what}: UNEXPLAINED"] += 1
            self.unexplained.append(f"{what}: {detail}")

    def expect(self, holds: bool, what: str, detail: Callable[[], str]) -> None:
        """Count the response to a hostile or broken client, which has to be as expected."""
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
