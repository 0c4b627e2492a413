"""`python -m bench`: measures peers and devroute in turns, in several short rounds. See README.md."""

import argparse
import os
import signal
import sys
import time
from pathlib import Path

from bench import extras, peers, report, toolchains
from bench.measure import GIB, Strangers, bulk, load
from bench.peers import Apps, Peer
from bench.processes import CannotRun, Stage, peak_mib, stage
from bench.report import Run

CONNECTIONS = 64
#: Rounds with large bodies: fewer, since each takes longer.
BULK_ROUNDS = 2


def main() -> int:
    options = _options()
    # A signal ends the run and the processes that it started.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    tools = toolchains.folder()
    run = Run(rounds=options.rounds, seconds=options.seconds, cores=os.cpu_count() or 0)
    _say("building what is not in the cache yet")
    problems = toolchains.prepare(tools)
    started = time.monotonic()
    with stage(tools, problems) as ours:
        try:
            apps = peers.start_apps(ours)
        except CannotRun as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        set_up = _set_up(ours, apps, run, options.only)
        strangers = Strangers()
        _requests(ours, set_up, run, strangers, options)
        _bodies(ours, set_up, run, options)
        for peer in set_up:
            pids = [[each.pid for each in role] for role in (peer.proxy, peer.agent)]
            run.memory[peer.name] = [peak_mib(role) for role in pids]
        run.strangers = strangers.shares
        _extras(ours, apps, set_up, run, options)
    run.took = time.monotonic() - started
    report.write(run, options.into, Path(__file__).parent if options.record else None)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of wrk, for each peer and round")
    parser.add_argument(
        "--quick", action="store_true", help="measure one round of a second, with smaller bodies"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="WORD", help="only peers whose name contains one of these words"
    )
    parser.add_argument(
        "--no-extras", action="store_true", help="skip idle tunnels, the stalled stream and gRPC"
    )
    parser.add_argument("--into", type=Path, default=Path("artefacts/bench"))
    parser.add_argument("--record", action="store_true", help="also write table and plot to bench/")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    options.size = GIB // 8 if options.quick else GIB
    options.links = 500 if options.quick else 5000
    return options


def _set_up(ours: Stage, apps: Apps, run: Run, only: list[str] | None) -> list[Peer]:
    ready = []
    for name, start in peers.ALL.items():
        # The two peers that all ratios refer to are always measured.
        if only and name not in (peers.DIRECT, peers.REFERENCE) and not any(word in name for word in only):
            continue
        try:
            ready.append(start(ours, apps))
        except CannotRun as error:
            run.left_out[name] = str(error)
            _say(f"left out: {name}: {error}")
    return ready


def _requests(
    ours: Stage, ready: list[Peer], run: Run, strangers: Strangers, options: argparse.Namespace
) -> None:
    for number in range(options.rounds):
        # Every other round in reverse, so that no peer always runs after the same one.
        for peer in ready[:: -1 if number % 2 else 1]:
            try:
                many = load(ours, peer, CONNECTIONS, options.seconds, strangers)
                one = load(ours, peer, 1, max(1, options.seconds / 2), strangers)
            except CannotRun as error:
                run.fail(peer.name, str(error))
                continue
            run.add(peer.name, number, rate=many.rate, p50=many.p50, p99=many.p99, alone=one.p50)
            run.add(peer.name, number, proxy_cpu=many.proxy_cpu, agent_cpu=many.agent_cpu)
            cost = f"cpu {many.proxy_cpu:5.2f} {many.agent_cpu:5.2f}  others {strangers.shares[-2]:.0%}"
            times = f"p99 {many.p99 / 1000:6.2f} ms  alone {one.p50:5.0f} µs"
            _say(f"{number + 1}/{options.rounds} {peer.name:34} {many.rate:8,.0f}/s  {times}  {cost}")


def _bodies(ours: Stage, ready: list[Peer], run: Run, options: argparse.Namespace) -> None:
    for number in range(min(options.rounds, BULK_ROUNDS)):
        for peer in ready:
            try:
                down = bulk(ours, peer, "get", options.size)
                up = bulk(ours, peer, "put", options.size)
            except CannotRun as error:
                run.fail(peer.name, str(error))
                continue
            run.add(peer.name, number, down=down, up=up)
            _say(f"{number + 1} {peer.name:34} {down / 1e6:6.0f} MB/s down {up / 1e6:6.0f} up")


def _extras(ours: Stage, apps: Apps, ready: list[Peer], run: Run, options: argparse.Namespace) -> None:
    if options.no_extras:
        return
    tunnel = next((each for each in ready if each.name == peers.TUNNEL), None)
    for name, measured in extras.ALL.items():
        try:
            found = measured(ours, apps, tunnel, options)
        except CannotRun as error:
            run.left_out[name] = str(error)
            _say(f"left out: {name}: {error}")
        else:
            run.extras.update(found)
            _say(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in found.items()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
