"""Further measurements: a long way, idle tunnels, one stalled stream among others, and gRPC."""

import argparse
import contextlib
import re
import socket
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

from bench.measure import GIB, bulk, wrk
from bench.peers import (
    HERE,
    LAPTOP,
    RATHOLE,
    SIDECAR,
    Apps,
    Mesh,
    Peer,
    devroute_over,
    mesh,
    rathole_over,
    through_tunnel,
)
from bench.processes import (
    POLL_SECONDS,
    CannotRun,
    Door,
    Stage,
    cpu_seconds,
    free_ports,
    pause,
    resident_kib,
    stop,
)

#: Seconds; a link sends a ping after 10 s, so two of them are measured.
IDLE_SECONDS = 22.0
#: Seconds for all idle links to be registered.
REGISTER_SECONDS = 90.0
#: Pairs of runs without and with a stalled stream.
STALL_ROUNDS = 5
STALL_CONNECTIONS = 4
#: h2load: a few connections with several streams each, as sidecars have them; 64 in flight.
GRPC_CONNECTIONS, GRPC_STREAMS = 4, 16
GRPC_ROUNDS = 3
#: Round trips in milliseconds, and large bodies over each.
DISTANCES = (20, 50)
DISTANCE_ROUNDS = 3

Figures = dict[str, float]


def idle_tunnels(stage: Stage, apps: Apps, tunnel: Peer | None, options: argparse.Namespace) -> Figures:
    """KiB for each link on the proxy, and the share of a core that their pings take."""
    proxy = mesh(stage, "proxy-idle", env={"DEVROUTE_MAX_LINKS_PER_SUBJECT": str(options.links)})
    stage.until_listening(proxy.control, proxy.process)
    empty = resident_kib(proxy.process.pid)
    links = idle_links(stage, proxy, LAPTOP, 0, options.links)
    before = cpu_seconds([proxy.process.pid])
    pause(links, IDLE_SECONDS)
    stage.alive(links)
    busy = (cpu_seconds([proxy.process.pid]) - before) / IDLE_SECONDS
    size = (resident_kib(proxy.process.pid) - empty) / options.links
    return {"idle_links": options.links, "idle_kib": size, "idle_cpu": busy}


def idle_links(stage: Stage, proxy: Mesh, subject: str, first: int, count: int) -> subprocess.Popen[bytes]:
    """Laptops of `subject` that are online, numbered from `first`. Raises CannotRun."""
    program = (sys.executable, HERE / "programs" / "idle_links.py")
    server, name = f"http://127.0.0.1:{proxy.control}", f"idle-{subject}-{first}"
    arguments = (server, str(count), subject, str(first))
    links = stage.run(name, *program, *arguments, env=proxy.agent_environment(subject))
    for _ in range(int(REGISTER_SECONDS / POLL_SECONDS)):
        if "online" in stage.log(name).read_text(encoding="utf-8"):
            return links
        stage.alive(links)
        pause(links, POLL_SECONDS)
    raise CannotRun(f"{count} links were not registered in {REGISTER_SECONDS:.0f} s")


def stalled_stream(stage: Stage, apps: Apps, tunnel: Peer | None, options: argparse.Namespace) -> Figures:
    """p99 of the other requests on a link, in µs, without and with a stream whose client does not read."""
    if tunnel is None:
        raise CannotRun("the tunnel could not be set up")
    without, beside = [], []
    for _ in range(min(options.rounds, STALL_ROUNDS)):
        without.append(wrk(stage, tunnel.app, STALL_CONNECTIONS, 1))
        with _stalled(tunnel.bulk):
            beside.append(wrk(stage, tunnel.app, STALL_CONNECTIONS, 1))
    p99 = [statistics.median(each["p99"] for each in runs) for runs in (without, beside)]
    requests = min(each["requests"] for each in without + beside)
    return {"stall_requests": requests, "stall_p99_without": p99[0], "stall_p99_beside": p99[1]}


@contextlib.contextmanager
def _stalled(door: Door) -> Iterator[None]:
    """A client that requests 1 GiB, reads the first bytes, and then stops reading."""
    with socket.create_connection(("127.0.0.1", door.port)) as client:
        fields = "".join(f"{name}: {value}\r\n" for name, value in door.headers.items())
        client.sendall(f"GET /{GIB} HTTP/1.1\r\nhost: app\r\n{fields}\r\n".encode())
        if not client.recv(1024).startswith(b"HTTP/1.1 200"):
            raise CannotRun("the large body was not answered")
        yield
        try:
            client.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except OSError as error:
            raise CannotRun(f"the stalled stream ended: {error}") from None


def distance(stage: Stage, apps: Apps, tunnel: Peer | None, options: argparse.Namespace) -> Figures:
    """Bytes a second of one large body down, where the round trip between laptop and mesh takes as long."""
    found: Figures = {}
    for milliseconds in DISTANCES:
        for name, over in (("devroute", devroute_over), (RATHOLE, rathole_over)):
            label = f"{name} at {milliseconds} ms"

            def network(port: int, label: str = label, milliseconds: int = milliseconds) -> int:
                (far,) = free_ports(1)
                places = (f"127.0.0.1:{far}", f"127.0.0.1:{port}", str(milliseconds))
                relay = stage.run(f"distance {label}", stage.program("godistance"), *places)
                stage.until_listening(far, relay)
                return far

            try:
                peer = over(stage, apps, label, network)
            except CannotRun:
                if name == RATHOLE:  # it may not be installed
                    continue
                raise
            rates = [bulk(stage, peer, "get", options.size // 4) for _ in range(DISTANCE_ROUNDS)]
            found[f"distance_{name}_{milliseconds}"] = statistics.median(rates)
            for process in peer.proxy + peer.agent:
                stop(process)
    return found


def grpc(stage: Stage, apps: Apps, tunnel: Peer | None, options: argparse.Namespace) -> Figures:
    """Unary calls a second: grpcio's server direct, behind the relay, and behind the tunnel."""
    program = stage.program("h2load")
    (port,) = free_ports(1)
    app = stage.run("grpc-app", sys.executable, HERE / "programs" / "grpc_app.py", str(port))
    stage.until_listening(port, app)
    proxy = mesh(stage, "proxy-grpc")
    stage.until_listening(proxy.control, proxy.process)
    up = ("up", f"foo=grpc://127.0.0.1:{port}")
    stage.run("up-grpc", sys.executable, "-m", "devroute", *up, env=proxy.agent_environment())
    straight = SIDECAR | {"x-devroute": f'{{"foo": "127.0.0.1:{port}"}}', "x-devroute-matched": "foo"}
    doors = {
        "grpc_straight": Door(port, straight),
        "grpc_direct": Door(proxy.data, straight),
        "grpc_tunnel": Door(proxy.data, through_tunnel("foo")),
    }
    for door in doors.values():
        _until_grpc_answers(door, app)
    message = stage.folder / "message"
    message.write_bytes(b"\0" + (100).to_bytes(4, "big") + bytes(100))
    rates: dict[str, list[float]] = {name: [] for name in doors}
    for _ in range(min(options.rounds, GRPC_ROUNDS)):
        for name, door in doors.items():
            rates[name].append(_h2load(program, str(message), door, max(1, round(options.seconds))))
    return {name: statistics.median(found) for name, found in rates.items()}


def _until_grpc_answers(door: Door, process: subprocess.Popen[bytes]) -> None:
    try:
        import grpc as grpcio
    except ImportError:
        raise CannotRun("grpcio is not installed") from None
    with grpcio.insecure_channel(f"127.0.0.1:{door.port}") as channel:
        call = channel.unary_unary("/bench.Echo/Call")
        metadata = [each for each in door.headers.items() if each[0].startswith("x-")]
        problem = ""
        for _ in range(100):
            try:
                if call(b"hello", metadata=metadata, timeout=2, wait_for_ready=True) == b"hello":
                    return
            except grpcio.RpcError as error:
                problem = f"{error.code()}: {error.details()}"
            pause(process, POLL_SECONDS)
    raise CannotRun(f"no gRPC answer: {problem}")


def _h2load(program: str, message: str, door: Door, seconds: int) -> float:
    fields = {**door.headers, "content-type": "application/grpc", "te": "trailers"}
    headers = [part for name, value in fields.items() for part in ("-H", f"{name}: {value}")]
    shape = (f"-c{GRPC_CONNECTIONS}", f"-m{GRPC_STREAMS}", "-t1", f"-D{seconds}", "-d", message)
    output = subprocess.run(
        [program, *shape, *headers, f"http://127.0.0.1:{door.port}/bench.Echo/Call"],
        capture_output=True,
        text=True,
        timeout=seconds + 30,
    ).stdout
    rate = re.search(r"finished in .*?, ([0-9.]+) req/s", output)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", output)
    if rate is None or codes is None or codes[1] == "0" or codes.groups()[1:] != ("0", "0", "0"):
        raise CannotRun(f"h2load failed: {' '.join(output.split())[-300:]}")
    return float(rate[1])


ALL: dict[str, Callable[[Stage, Apps, Peer | None, argparse.Namespace], Figures]] = {
    "one stalled stream": stalled_stream,
    "gRPC unary": grpc,
    "a long way": distance,
    "idle tunnels": idle_tunnels,
}
