"""The measurements: a function for each axis, and the processes that they share."""

import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from bench import extras, peers
from bench.measure import Strangers, wrk
from bench.peers import LAPTOP, OTHERS, SIDECAR, Apps, Peer
from bench.processes import CannotRun, Door, Stage, cpu_seconds, free_ports, resident_kib, stage
from bench.scale.record import BY_NAME, Point
from devroute import headers

#: Requests at a time where the axis is another one; fewer for bodies, which are long.
CONNECTIONS, BODIES_AT_ONCE = 64, 4
#: Of the app: all streams have a connection of their own there.
APP_CONNECTIONS = 16_384
#: In a line of the access log: a status of 4xx or 5xx, and the code of the error.
_REFUSED = re.compile(rb'"status": [45]\d\d,.*"reason": "([a-z-]+)"')
#: Of the one subject that has all laptops.
MAX_LINKS = 10_001


@dataclass
class Rig:
    """One replica with one laptop, which most axes share. `seconds`: of the load at a point; `idle`: laptops
    that are online beside it, by subject."""

    stage: Stage
    apps: Apps
    seconds: float
    mesh: peers.Mesh
    tunnel: Peer
    idle: dict[str, int] = field(default_factory=dict)
    strangers: Strangers = field(default_factory=Strangers)

    def load(self, at: int, doors: Sequence[Door], connections: int, pids: Sequence[int]) -> Point:
        """All doors at once, each with so many connections. `pids`: the replicas. Raises CannotRun."""
        before = cpu_seconds(pids)
        with self.strangers.watched(self.seconds), ThreadPoolExecutor(len(doors)) as pool:
            found = list(pool.map(lambda door: wrk(self.stage, door, connections, self.seconds), doors))
        requests = sum(each["requests"] for each in found)
        return Point(
            at,
            rate=sum(each["requests"] / each["seconds"] for each in found),
            p99=max(each["p99"] for each in found) / 1000,
            cpu=(cpu_seconds(pids) - before) * 1e6 / requests,
            memory=sum(map(resident_kib, pids)) / len(pids) / 1024,
            others=self.strangers.shares[-1],
        )

    def alone(self, at: int, door: Door, connections: int = CONNECTIONS) -> Point:
        return self.load(at, [door], connections, [self.mesh.process.pid])


def start_rig(ours: Stage, seconds: float) -> Rig:
    """Raises CannotRun."""
    app, files = free_ports(2)
    folder = ours.folder / "bodies"
    folder.mkdir()
    ours.folder.chmod(0o711)  # nginx reads bodies as another user; secrets are in files of mode 600
    for size in BY_NAME["bodies"].values:
        (folder / str(size)).write_bytes(b"x" * size)
    text = f'default_type text/plain; return 200 "{"x" * 1024}";'
    servers = (
        f"server {{ listen 127.0.0.1:{app} backlog=4096; location / {{ {text} }} }}\n"
        f"server {{ listen 127.0.0.1:{files}; location / {{ root {folder}; }} }}"
    )
    peers.start_nginx(ours, "app", servers, APP_CONNECTIONS)
    mesh = peers.mesh(ours, "proxy", env={"DEVROUTE_MAX_LINKS_PER_SUBJECT": str(MAX_LINKS)})
    apps = Apps(app, files)
    return Rig(ours, apps, seconds, mesh, peers.tunnelled(ours, apps, peers.TUNNEL, mesh))


# --- an axis each -------------------------------------------------------------------------------------------


def laptops(rig: Rig, at: int) -> Point:
    return _beside_idle(rig, at, OTHERS)


def processes(rig: Rig, at: int) -> Point:
    return _beside_idle(rig, at, LAPTOP)


def _beside_idle(rig: Rig, at: int, subject: str) -> Point:
    """The one that has the requests, and others without any."""
    online = rig.idle.get(subject, 0)
    if more := at - 1 - online:
        extras.idle_links(rig.stage, rig.mesh, subject, online, more)
        rig.idle[subject] = at - 1
    return rig.alone(at, rig.tunnel.app)


def contracts(rig: Rig, at: int) -> Point:
    """Each has had a request before: the first one costs more, as it is read and judged then, and 10,000 of
    them are as many requests as a point has."""
    door = replace(rig.tunnel.app, contracts=at)
    seconds = 1
    while wrk(rig.stage, door, CONNECTIONS, seconds)["requests"] < at:
        seconds *= 2
    return rig.alone(at, door)


def streams(rig: Rig, at: int) -> Point:
    return rig.alone(at, rig.tunnel.app, at)


def bodies(rig: Rig, at: int) -> Point:
    return rig.alone(at, replace(rig.tunnel.bulk, path=f"/{at}"), BODIES_AT_ONCE)


def workers(rig: Rig, at: int) -> Point:
    """Each has a connection of its own, as a worker of Envoy does, and asks again once it has a response."""
    question = {headers.CONTRACT: f'{{"foo": "{LAPTOP}"}}', headers.CANDIDATES: "foo"}
    return rig.alone(at, Door(rig.mesh.control, SIDECAR | question, "/resolve"), at)


def replicas(rig: Rig, at: int) -> Point:
    """Those without the laptop forward to the one that has it, the most that replicas cost: sidecars send to
    the owner where they can."""
    with stage(rig.stage.tools, rig.stage.problems) as ours:
        found = peers.replicas(ours, f"scale-{at}", at)
        owner = peers.tunnelled(ours, rig.apps, f"laptop of {at}", found[0])
        doors = [replace(owner.app, port=each.data) for each in found]
        for each in doors:
            ours.until_answers(each, *owner.proxy)
        pids = [each.process.pid for each in found]
        return rig.load(at, doors, max(1, CONNECTIONS // at), pids)


MEASURED: dict[str, Callable[[Rig, int], Point]] = {
    "laptops": laptops,
    "processes": processes,
    "contracts": contracts,
    "streams": streams,
    "bodies": bodies,
    "workers": workers,
    "replicas": replicas,
}


def measure(rig: Rig, name: str, at: int) -> Point:
    """Without figures, but with the reason, if it could not be done."""
    log = rig.stage.log("proxy")
    read = log.stat().st_size
    try:
        return MEASURED[name](rig, at)
    except (CannotRun, subprocess.TimeoutExpired) as error:
        with log.open("rb") as lines:
            lines.seek(read)
            reason = commonest_error(lines)
        text = " ".join(str(error).split())[:200]
        return Point(at, problem=f"{text}, most of them `{reason}`" if reason else text)


def commonest_error(lines: Iterable[bytes]) -> str:
    """The reason that most refused requests have in these lines of the access log; empty if there is none."""
    found = Counter(match[1].decode() for line in lines if (match := _REFUSED.search(line)))
    return found.most_common(1)[0][0] if found else ""
