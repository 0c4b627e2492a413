"""`python -m bench.sizing`: what docs/sizing.md is made of. Memory and CPU of a replica per laptop and per
request, and of a sidecar for the filter. Needs wrk and nginx; a few minutes.

CPU time is what the processes used, so another process on the machine changes it by its effect on caches
alone; the share of a core that others used is printed with the table.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from pathlib import Path

from bench import extras, peers, toolchains
from bench.measure import Load, Strangers, load
from bench.mesh_cost import CONTRACTS, HEADERS, drive, plain, shipped, start_app
from bench.peers import Apps, Peer
from bench.processes import CannotRun, Stage, peak_mib, resident_kib, stage
from devroute.mesh.envoy import running

CONNECTIONS = 64
#: Pairs of Envoys: the memory of one depends on its address space.
PAIRS = 3
#: What a sidecar knows of itself, for the Lua.
WORKLOAD = {"ISTIO_META_WORKLOAD_NAME": "foo", "POD_NAMESPACE": "default"}
#: A request without a contract, one that names another service, and one that is detoured.
REQUESTS = {"no contract": None, "names another service": CONTRACTS["other"], "detour": CONTRACTS["ours"]}


def main() -> int:
    options = _options()
    strangers = Strangers()
    with stage(toolchains.folder(), {}) as ours:
        try:
            app, control = start_app(ours)
            lines = [
                *_replica(ours, Apps(app, app), strangers, options),
                *_laptops(ours, Apps(app, app), options),
                *asyncio.run(_sidecar((app, control), options)),
            ]
        except CannotRun as error:
            print(f"sizing: {error}", file=sys.stderr)
            return 1
    usual, most = statistics.median(strangers.shares), max(strangers.shares)
    print(f"Others used {usual:.0%} of a core (at most {most:.0%}).\n")
    print("| what | figure |", "| --- | ---: |", *lines, sep="\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="sizing", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of wrk, for each round")
    parser.add_argument("--links", type=int, default=2000, help="idle laptops")
    return parser.parse_args()


def _row(what: str, figure: str) -> str:
    return f"| {what} | {figure} |"


def _replica(ours: Stage, apps: Apps, strangers: Strangers, options: argparse.Namespace) -> list[str]:
    """What 1,000 requests a second take, which is CPU time per request times 1,000."""
    lines = []
    for peer in (peers.devroute_direct(ours, apps), peers.devroute_tunnel(ours, apps)):
        idle = sum(resident_kib(each.pid) for each in peer.proxy) / 1024
        rounds = [load(ours, peer, CONNECTIONS, options.seconds, strangers) for _ in range(options.rounds)]
        how = "to an address" if not peer.agent else "through a tunnel"
        lines += [
            _row(f"1,000 requests/s {how}: the proxy, cores", f"{_cores(rounds, 'proxy_cpu'):.3f}"),
            _row(f"the most of one process {how}, requests/s", f"{_rate(rounds):,.0f}"),
            _row(f"memory of a replica {how}, idle and at most, MiB", f"{idle:.0f}, {_peak(peer):.0f}"),
        ]
        if peer.agent:
            agent = _cores(rounds, "agent_cpu")
            lines.append(_row("1,000 requests/s through a tunnel: the laptop, cores", f"{agent:.3f}"))
    return lines


def _cores(rounds: list[Load], which: str) -> float:
    """Of CPU seconds per 100,000 requests."""
    return statistics.median(getattr(each, which) for each in rounds) / 100


def _rate(rounds: list[Load]) -> float:
    return statistics.median(each.rate for each in rounds)


def _peak(peer: Peer) -> float:
    return peak_mib([each.pid for each in peer.proxy])


def _laptops(ours: Stage, apps: Apps, options: argparse.Namespace) -> list[str]:
    found = extras.idle_tunnels(ours, apps, None, options)
    thousand = 1000 / found["idle_links"]
    return [
        _row("1,000 idle laptops: memory, MiB", f"{found['idle_kib'] * 1000 / 1024:.1f}"),
        _row("1,000 idle laptops: their pings, cores", f"{found['idle_cpu'] * thousand:.4f}"),
    ]


async def _sidecar(ports: tuple[int, int], options: argparse.Namespace) -> list[str]:
    """The same Envoy without and with the filter, after the same requests."""
    memory: list[float] = []
    extra: dict[str, list[float]] = {name: [] for name in REQUESTS}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(PAIRS):
            for name, contract in REQUESTS.items():
                headers = HEADERS | ({} if contract is None else {"x-devroute": contract})
                cost, resident = [], []
                for shape in (plain, shipped):
                    async with running(
                        shape(*ports), Path(folder), f"{shape.__name__}-{number}", WORKLOAD
                    ) as envoy:
                        cost.append(
                            (await drive(envoy, headers, options.seconds, os.sched_getaffinity(0))).cpu
                        )
                        resident.append(resident_kib(envoy.process.pid))
                extra[name].append(cost[1] - cost[0])
                memory.append((resident[1] - resident[0]) / 1024)
    return [
        _row("a sidecar: memory of the filter, MiB", f"{statistics.median(memory):.1f}"),
        *(
            _row(f"a sidecar: 1,000 requests/s, {name}, cores", f"{statistics.median(each) / 1000:+.4f}")
            for name, each in extra.items()
        ),
    ]


if __name__ == "__main__":
    sys.exit(main())
