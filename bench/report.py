"""The results of a run: figures, table, floors, plot. A ratio is the median of those within one round, where
the machine was the same for both."""

import json
import re
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import peers
from bench.peers import (
    DIRECT,
    ENVOY,
    FORWARDED,
    NGINX,
    PINNED,
    RATHOLE,
    REFERENCE,
    RELAY,
    SSH,
    SSH_TTY,
    TUNNEL,
    TUNNEL_BARE,
    TUNNEL_TLS,
)

#: Shown for a missing figure.
NONE = "-"
#: If others use more of a core than this, the run should be repeated.
QUIET = 0.1


@dataclass
class Run:
    """`samples` by peer, metric and round: rates a second, times in µs, CPU seconds per 100,000 requests."""

    rounds: int
    seconds: float
    cores: int
    took: float = 0.0
    samples: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)
    memory: dict[str, list[float]] = field(default_factory=dict)
    extras: dict[str, float] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    strangers: list[float] = field(default_factory=list)

    def add(self, peer: str, number: int, **figures: float) -> None:
        for metric, value in figures.items():
            self.samples.setdefault(peer, {}).setdefault(metric, {})[number] = value

    def fail(self, peer: str, reason: str) -> None:
        self.left_out[f"{peer}, a round"] = reason

    def median(self, peer: str, metric: str) -> float | None:
        values = self.samples.get(peer, {}).get(metric)
        return statistics.median(values.values()) if values else None

    def against(
        self, peer: str, other: str, metric: str, how: Callable[[float, float], float] = lambda a, b: a / b
    ) -> float | None:
        """The median over the rounds that both have."""
        ours, theirs = (self.samples.get(each, {}).get(metric, {}) for each in (peer, other))
        both = [how(ours[number], theirs[number]) for number in ours.keys() & theirs.keys()]
        return statistics.median(both) if both else None

    def added(self, peer: str) -> float | None:
        """µs that a peer adds to the p50 of one connection."""
        return self.against(peer, DIRECT, "alone", lambda a, b: a - b)


# --- the table ----------------------------------------------------------------------------------------------

_HEAD = (
    "|  | req/s ÷ Go reference | p50 ms | p99 ms | p50 added, 1 conn. µs | 1 GiB down ÷ straight"
    " | up ÷ straight | CPU s per 100k, proxy / agent | peak MiB, proxy / agent |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
)


def table(run: Run) -> str:
    rows = []
    for name in peers.ALL:
        if name not in run.samples:
            continue
        p50, p99 = (_in_ms(run.median(name, metric)) for metric in ("p50", "p99"))
        cpu = [run.median(name, metric) for metric in ("proxy_cpu", "agent_cpu")]
        cells = (
            f"**{name}**" if name.startswith("devroute") else name,
            _show(run.against(name, REFERENCE, "rate"), "{:.2f}"),
            _show(p50, "{:.2f}"),
            _show(p99, "{:.2f}"),
            _show(run.added(name), "{:.0f}") if name != DIRECT else NONE,
            _show(run.against(name, DIRECT, "down"), "{:.2f}"),
            _show(run.against(name, DIRECT, "up"), "{:.2f}"),
            _pair(cpu, "{:.2f}"),
            _pair(run.memory.get(name, []), "{:.0f}"),
        )
        rows.append(f"| {' | '.join(cells)} |\n")
    return _HEAD + "".join(rows)


def _in_ms(value: float | None) -> float | None:
    return None if value is None else value / 1000


def _in_mb(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _both_ends(run: Run, peer: str) -> float | None:
    """CPU seconds per 100,000 requests of proxy and agent."""
    proxy, agent = (run.median(peer, metric) for metric in ("proxy_cpu", "agent_cpu"))
    return None if proxy is None or agent is None else proxy + agent


def _show(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)


def _pair(values: list[float | None] | list[float], form: str) -> str:
    return " / ".join(_show(value or None, form) for value in values) if any(values) else NONE


# --- the floors ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Floor:
    """`least`: the figure must be at least `bound`; else at most."""

    name: str
    figure: float | None
    bound: float
    least: bool = True
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.bound if self.least else self.figure <= self.bound

    def line(self) -> str:
        met = {None: "not measured", True: "yes", False: "**no**"}[self.met]
        bound = f"{'≥' if self.least else '≤'} {self.bound:g}"
        return f"| {self.name} | {_show(self.figure, '{:.3g}')}{self.note} | {bound} | {met} |\n"


def floors(run: Run) -> list[Floor]:
    """The floors that devroute has to reach (issue 3), and its figures in this run."""
    rivals = {name: run.median(name, "rate") for name in peers.TUNNELS}
    best = max((name for name in rivals if rivals[name]), key=lambda name: rivals[name] or 0, default="")
    extra = run.extras.get
    stalled, grpc = (
        None if not extra(below) else extra(above, 0) / extra(below, 1)
        for above, below in (("stall_p99_beside", "stall_p99_without"), ("grpc_direct", "grpc_straight"))
    )
    tunnelled = f" (tunnel {extra('grpc_tunnel', 0) / extra('grpc_straight', 1):.2f})" if grpc else ""
    idle_cpu = extra("idle_cpu")
    ours, theirs = (_both_ends(run, name) for name in (TUNNEL, RATHOLE))
    return [
        Floor("direct relay, req/s ÷ Go reference", run.against(RELAY, REFERENCE, "rate"), 3.0),
        Floor("direct relay ÷ nginx", run.against(RELAY, NGINX, "rate"), 0.5),
        Floor("direct relay ÷ Envoy, one worker", run.against(RELAY, ENVOY, "rate"), 1.1),
        Floor("tunnel, req/s ÷ Go reference", run.against(TUNNEL, REFERENCE, "rate"), 2.6),
        Floor(
            "tunnel ÷ best tunnel", run.against(TUNNEL, best, "rate"), 1.5, note=f" ({best})" if best else ""
        ),
        Floor("tunnel ÷ ssh -tt -R, its best case", run.against(TUNNEL, SSH_TTY, "rate"), 0.85),
        Floor("tunnel ÷ ssh -N -R", run.against(TUNNEL, SSH, "rate"), 5),
        Floor("tunnel ÷ rathole", run.against(TUNNEL, RATHOLE, "rate"), 0.75),
        Floor("p99 of the tunnel ÷ rathole's", run.against(TUNNEL, RATHOLE, "p99"), 1.2, least=False),
        Floor(
            "CPU a request, both ends ÷ rathole's",
            ours / theirs if ours and theirs else None,
            1.15,
            least=False,
        ),
        *(
            Floor(
                f"one body down at a round trip of {way} ms, MB/s",
                _in_mb(extra(f"distance_devroute_{way}")),
                bound,
                note=f" (rathole {extra(f'distance_rathole_{way}', 0) / 1e6:.0f})",
            )
            for way, bound in ((20, 300), (50, 120))
        ),
        Floor("tunnel over TLS ÷ tunnel", run.against(TUNNEL_TLS, TUNNEL, "rate"), 0.75),
        Floor("pinned to the owner of two replicas ÷ one replica", run.against(PINNED, TUNNEL, "rate"), 0.97),
        Floor("forwarded to the owner ÷ one replica", run.against(FORWARDED, TUNNEL, "rate"), 0.5),
        Floor("WebSocket framing ÷ bare stream", run.against(TUNNEL, TUNNEL_BARE, "rate"), 0.9),
        Floor("p50 added at one connection, direct, µs", run.added(RELAY), 45, least=False),
        Floor("p50 added at one connection, tunnel, µs", run.added(TUNNEL), 80, least=False),
        Floor("1 GiB down, direct ÷ straight", run.against(RELAY, DIRECT, "down"), 0.6),
        Floor("1 GiB up, direct ÷ straight", run.against(RELAY, DIRECT, "up"), 0.6),
        Floor("1 GiB down, tunnel ÷ straight", run.against(TUNNEL, DIRECT, "down"), 0.35),
        Floor("1 GiB up, tunnel ÷ straight", run.against(TUNNEL, DIRECT, "up"), 0.35),
        Floor(f"idle tunnels ({extra('idle_links', 0):.0f}), KiB each", extra("idle_kib"), 20, least=False),
        Floor("their pings, % of a core", None if idle_cpu is None else idle_cpu * 100, 2, least=False),
        Floor("p99 beside a stalled stream ÷ without", stalled, 1.5, least=False),
        Floor("gRPC unary ÷ grpcio straight", grpc, 0.5, note=tunnelled),
    ]


def floor_table(run: Run) -> str:
    return "| floor | found | must | met |\n| --- | ---: | ---: | --- |\n" + "".join(
        each.line() for each in floors(run)
    )


# --- the plot -----------------------------------------------------------------------------------------------


def plot(run: Run, file: Path) -> None:
    """Raises ImportError where matplotlib is not installed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = [name for name in reversed(peers.ALL) if name in run.samples]
    columns = (
        ("requests/s ÷ Go reference, 64 connections", lambda name: run.against(name, REFERENCE, "rate")),
        ("p50 added at one connection, µs", lambda name: run.added(name) if name != DIRECT else None),
        ("1 GiB down ÷ straight to the app", lambda name: run.against(name, DIRECT, "down")),
    )
    figure, axes = pyplot.subplots(
        1, 3, figsize=(15, 0.34 * len(names) + 1.2), sharey=True, layout="constrained"
    )
    colours = ["#d1495b" if name.startswith("devroute") else "#8d99ae" for name in names]
    for axis, (title, value) in zip(axes, columns, strict=True):
        found = [value(name) for name in names]
        bars = axis.barh(names, [each or 0 for each in found], color=colours)
        axis.bar_label(bars, [_show(each, "{:.3g}") for each in found], padding=3, fontsize=8)
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


# --- the files ----------------------------------------------------------------------------------------------


def text(run: Run) -> str:
    busiest = max(run.strangers, default=0)
    typical = statistics.median(run.strangers) if run.strangers else 0
    straight = _show(run.median(DIRECT, "rate"), "{:,.0f}")
    loud = "" if typical <= QUIET else " **The machine was not quiet: run it again.**"
    left_out = "".join(f"- {name}: {reason}\n" for name, reason in run.left_out.items()) or "- nothing\n"
    return (
        f"{run.rounds} rounds of {run.seconds:g} s, {run.cores} cores, {run.took / 60:.1f} minutes."
        f" Straight to the app: {straight} requests/s."
        f" Others used {typical:.0%} of a core (median; at most {busiest:.0%}).{loud}\n\n"
        f"{table(run)}\n{floor_table(run)}\nLeft out, or with a failed round:\n{left_out}"
    )


def write(run: Run, into: Path, record: Path | None) -> None:
    """Print the result and write it as bench.md, bench.json and bench.png; with `record`, there as well."""
    into.mkdir(parents=True, exist_ok=True)
    try:
        plot(run, into / "bench.png")
    except ImportError:
        run.left_out["the plot"] = "matplotlib is not installed"
    result = text(run)
    (into / "bench.md").write_text(result, encoding="utf-8")
    (into / "bench.json").write_text(json.dumps(asdict(run), indent=1), encoding="utf-8")
    print(f"{result}\nfiles: {into}/bench.md, bench.json, bench.png")
    if record is not None:
        readme = record / "README.md"
        parts = re.split(r"(?<=<!-- table -->\n)|(?=<!-- end -->)", readme.read_text(encoding="utf-8"))
        readme.write_text("".join((parts[0], result, parts[-1])), encoding="utf-8")
        for name in ("bench.json", "bench.png"):
            (record / name).write_bytes((into / name).read_bytes())
