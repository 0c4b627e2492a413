"""How many and for how long."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """Rates in requests a second, times in seconds. The bounds of ratios are wider in a quick run, whose
    windows are too short for more."""

    laptops: int
    rate: float
    settle: float
    kills: int
    gone: float
    paused: float
    partitioned: float
    windows: int
    window: float
    latency_ratio: float
    registrations: int
    newcomers: int
    newcomers_rate: float
    idle: float
    contests: int
    rounds: int
    round: float
    pinned_ratio: float
    forwarded_ratio: float
    later_bad: int  # after a kill, while each attempt of a question may meet the one that has gone
    herd: int


FULL = Scale(
    laptops=200,
    rate=150,
    settle=2,
    kills=2,
    gone=4,
    paused=30,
    partitioned=10,
    windows=8,
    window=4,
    latency_ratio=1.1,
    registrations=10_000,
    newcomers=100,
    newcomers_rate=10,
    idle=12,
    contests=1000,
    rounds=5,
    round=1.5,
    pinned_ratio=0.97,
    forwarded_ratio=0.5,
    later_bad=0,
    herd=500,
)

QUICK = Scale(
    laptops=40,
    rate=80,
    settle=0.5,
    kills=1,
    gone=1.5,
    paused=3,
    partitioned=1.5,
    windows=2,
    window=1,
    latency_ratio=2,
    registrations=600,
    newcomers=20,
    newcomers_rate=20,
    idle=2,
    contests=50,
    rounds=2,
    round=0.5,
    pinned_ratio=0.7,
    forwarded_ratio=0.25,
    later_bad=4,
    herd=100,
)
