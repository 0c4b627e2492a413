"""The peers of a run, each set up as its users run it, in front of the same two apps on loopback.

nginx responds with 1 KB to any request, gobulk moves large bodies. A peer has a port for each. A peer that
cannot be set up raises CannotRun with the reason.
"""

import getpass
import json
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.processes import CannotRun, Door, Stage, free_ports, pause
from devroute.auth.tokens import new_token
from devroute.errors import ConfigInvalid
from devroute.mesh.envoy import envoy_binary
from devroute.mesh.istio.sidecar import HCM, HCM_TYPE, Document

#: What a sidecar sends beside Host, x-devroute and x-devroute-matched: twelve fields in all.
SIDECAR = {
    "user-agent": "curl/8.1",
    "accept": "*/*",
    "x-forwarded-proto": "http",
    "x-request-id": "0c7dd1ef-bd9c-4bf2-bd20-2f3b6dbd3e43",
    "x-envoy-attempt-count": "1",
    "x-forwarded-client-cert": "By=spiffe://cluster.local/ns/default/sa/foo;Hash=9c5b94b1;"
    "URI=spiffe://cluster.local/ns/default/sa/bar",
    "x-b3-traceid": "80f198ee56343ba864fe8b2a57d3eff7",
    "x-b3-spanid": "e457b5a2e4d86bd1",
    "x-b3-sampled": "1",
}
HERE = Path(__file__).parent
POLICY = "direct: {networks: [127.0.0.0/8], ports: [1024-65535]}\nservices: ['*']\n"
#: The laptop's name in contracts.
LAPTOP = "bench"
#: The subject of others, which get no requests.
OTHERS = "others"

#: Names that ratios refer to.
DIRECT, REFERENCE = "straight to the app", "Go ReverseProxy (reference)"
NGINX, ENVOY = "nginx, 1 worker", "Envoy, 1 worker"
RELAY, TUNNEL = "devroute, direct", "devroute, tunnel"
TUNNEL_TLS, TUNNEL_BARE = "devroute, tunnel over TLS", "devroute, tunnel without WebSocket"
#: The same tunnel with two replicas: requests go to the one that has it, or to the other.
PINNED, FORWARDED = (
    "devroute, tunnel, of two replicas: pinned",
    "devroute, tunnel, of two replicas: forwarded",
)
#: With a collector, and a sampled `traceparent` on every request.
TRACED = "devroute, tunnel, every request traced"
SSH, SSH_TTY = "ssh -N -R", "ssh -tt -R"
RATHOLE = "rathole"
#: The floor is the best of these.
TUNNELS = ("chisel", "frp", "yamux + Go ReverseProxy", "bore", RATHOLE)


#: Another port that leads to this one, over what is between a laptop and the mesh.
Network = Callable[[int], int]


@dataclass(frozen=True)
class Apps:
    app: int
    bulk: int

    def contract(self, port: int) -> dict[str, str]:
        """Headers of a request that a sidecar detoured to an address."""
        return SIDECAR | {"x-devroute": f'{{"foo": "127.0.0.1:{port}"}}', "x-devroute-matched": "foo"}


@dataclass(frozen=True)
class Peer:
    """`proxy` are the processes in the mesh, `agent` those on the laptop; empty if there are none."""

    name: str
    app: Door
    bulk: Door
    proxy: tuple[subprocess.Popen[bytes], ...] = ()
    agent: tuple[subprocess.Popen[bytes], ...] = ()


def start_apps(stage: Stage) -> Apps:
    app, bulk = free_ports(2)
    body = f'location / {{ default_type text/plain; return 200 "{"x" * 1024}"; }}'
    nginx = start_nginx(stage, "app", f"server {{ listen 127.0.0.1:{app} backlog=1024; {body} }}")
    sink = stage.run("bulk", stage.program("gobulk"), "serve", f"127.0.0.1:{bulk}")
    apps = Apps(app, bulk)
    for port, process in ((app, nginx), (bulk, sink)):
        stage.until_answers(Door(port, apps.contract(port)), process)
    return apps


def _peer(
    stage: Stage,
    apps: Apps,
    name: str,
    ports: list[int],
    proxy: tuple[subprocess.Popen[bytes], ...] = (),
    agent: tuple[subprocess.Popen[bytes], ...] = (),
) -> Peer:
    """A peer that connects two ports to the two apps, once it is ready."""
    app, bulk = (Door(port, apps.contract(to)) for port, to in zip(ports, (apps.app, apps.bulk), strict=True))
    return _ready(stage, Peer(name, app, bulk, proxy, agent))


def _ready(stage: Stage, peer: Peer) -> Peer:
    for door in (peer.app, peer.bulk):
        stage.until_answers(door, *(peer.proxy + peer.agent))
    return peer


# --- relays -------------------------------------------------------------------------------------------------


def direct(stage: Stage, apps: Apps) -> Peer:
    return Peer(DIRECT, *(Door(port, apps.contract(port)) for port in (apps.app, apps.bulk)))


def start_nginx(stage: Stage, name: str, servers: str, connections: int = 4096) -> subprocess.Popen[bytes]:
    folder = stage.folder / f"nginx-{name}"
    folder.mkdir()
    places = " ".join(
        f"{each}_temp_path {folder}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    file = stage.write(
        f"nginx-{name}.conf",
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log stderr;\n"
        f"events {{ worker_connections {connections}; }}\n"
        "http { access_log off; keepalive_requests 100000000; client_max_body_size 0;"
        f" {places}\n{servers}\n}}\n",
    )
    return stage.run(
        f"nginx-{name}", stage.program("nginx"), "-p", folder, "-c", file, "-g", "error_log stderr;"
    )


def nginx(stage: Stage, apps: Apps) -> Peer:
    ports = free_ports(2)
    servers = "".join(
        f"upstream u{to} {{ server 127.0.0.1:{to}; keepalive 256; }}\n"
        f"server {{ listen 127.0.0.1:{port} backlog=1024; location / {{ proxy_pass http://u{to};"
        ' proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;'
        " proxy_request_buffering off; proxy_max_temp_file_size 0; } }\n"
        for port, to in zip(ports, (apps.app, apps.bulk), strict=True)
    )
    return _peer(stage, apps, NGINX, ports, (start_nginx(stage, "peer", servers),))


def haproxy(stage: Stage, apps: Apps) -> Peer:
    ports = free_ports(2)
    doors = "".join(
        f"listen p{port}\n  bind 127.0.0.1:{port}\n  http-reuse always\n  server s 127.0.0.1:{to}\n"
        for port, to in zip(ports, (apps.app, apps.bulk), strict=True)
    )
    file = stage.write(
        "haproxy.cfg",
        "global\n  nbthread 1\n  maxconn 4096\n"
        f"defaults\n  mode http\n  timeout connect 5s\n  timeout client 1h\n  timeout server 1h\n{doors}",
    )
    process = stage.run("haproxy", stage.program("haproxy"), "-db", "-f", file)
    return _peer(stage, apps, "haproxy, 1 thread", ports, (process,))


def envoy(stage: Stage, apps: Apps) -> Peer:
    try:
        binary = envoy_binary()
    except ConfigInvalid as error:
        raise CannotRun(error.message) from None
    ports = free_ports(2)
    pairs = list(zip(ports, (apps.app, apps.bulk), strict=True))
    listeners = [
        {
            "address": _socket(port),
            "filter_chains": [{"filters": [{"name": HCM, "typed_config": _connection_manager(to)}]}],
        }
        for port, to in pairs
    ]
    clusters = [
        {
            "name": str(to),
            "load_assignment": {
                "cluster_name": str(to),
                "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _socket(to)}}]}],
            },
        }
        for _, to in pairs
    ]
    document = {"static_resources": {"listeners": listeners, "clusters": clusters}}
    file = stage.write("envoy.json", json.dumps(document))
    alone = ("--concurrency", "1", "--use-dynamic-base-id", "-l", "error")
    process = stage.run("envoy", binary, "-c", file, *alone)
    return _peer(stage, apps, ENVOY, ports, (process,))


def _connection_manager(cluster: int) -> Document:
    route = {"match": {"prefix": "/"}, "route": {"cluster": str(cluster), "timeout": "0s"}}
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    return {
        "@type": HCM_TYPE,
        "stat_prefix": "bench",
        "stream_idle_timeout": "0s",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": router}}],
    }


def _socket(port: int) -> Document:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _go_reference(stage: Stage, apps: Apps, name: str, *flags: str) -> Peer:
    port, log = free_ports(1)[0], name.replace(" ", "-")
    process = stage.run(log, stage.program("goref"), "-listen", f"127.0.0.1:{port}", *flags)
    return _peer(stage, apps, name, [port, port], (process,))


def go_reference(stage: Stage, apps: Apps) -> Peer:
    return _go_reference(stage, apps, REFERENCE)


def go_tuned(stage: Stage, apps: Apps) -> Peer:
    return _go_reference(stage, apps, "Go ReverseProxy, tuned, no log", "-tuned")


def aiohttp_relay(stage: Stage, apps: Apps) -> Peer:
    ports = free_ports(2)
    pairs = [str(each) for pair in zip(ports, (apps.app, apps.bulk), strict=True) for each in pair]
    process = stage.run("aiohttp", sys.executable, HERE / "programs" / "aiohttp_relay.py", *pairs)
    return _peer(stage, apps, "aiohttp server + ClientSession", ports, (process,))


# --- tunnels ------------------------------------------------------------------------------------------------


def _forwards(ports: list[int], apps: Apps) -> list[str]:
    pairs = zip(ports, (apps.app, apps.bulk), strict=True)
    return [f"127.0.0.1:{port}:127.0.0.1:{to}" for port, to in pairs]


def _ssh(stage: Stage, apps: Apps, name: str, *mode: str) -> Peer:
    sshd, ssh, keygen = (stage.program(each) for each in ("sshd", "ssh", "ssh-keygen"))
    short = name.split()[1].strip("-")
    for key in ("host", "user"):
        subprocess.run(
            [keygen, "-q", "-t", "ed25519", "-N", "", "-f", f"{short}-{key}"], cwd=stage.folder, check=True
        )
    (port, *ports) = free_ports(3)
    file = stage.write(
        f"{short}-sshd.conf",
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {stage.folder}/{short}-host\nPidFile none\n"
        f"AuthorizedKeysFile {stage.folder}/{short}-user.pub\nUsePAM no\nStrictModes no\n"
        "PermitRootLogin prohibit-password\nPasswordAuthentication no\nPrintMotd no\n",
    )
    server = stage.run(f"sshd-{short}", sshd, "-D", "-e", "-f", file)
    pause(server, 0.3)
    stage.alive(server)
    forwards = [part for each in _forwards(ports, apps) for part in ("-R", each)]
    known = (
        f"UserKnownHostsFile={stage.folder}/known",
        "StrictHostKeyChecking=no",
        "ExitOnForwardFailure=yes",
    )
    options = [part for each in (*known, "LogLevel=ERROR", "IdentitiesOnly=yes") for part in ("-o", each)]
    whither = ("-i", stage.folder / f"{short}-user", "-p", str(port), f"{getpass.getuser()}@127.0.0.1")
    command = ("sleep", "86400") if "-tt" in mode else ()
    client = stage.run(
        f"ssh-{short}", ssh, "-F", "none", *mode, *options, *forwards, *whither, *command, pty="-tt" in mode
    )
    return _peer(stage, apps, name, ports, (server,), (client,))


def ssh_plain(stage: Stage, apps: Apps) -> Peer:
    return _ssh(stage, apps, SSH, "-N")


def ssh_tty(stage: Stage, apps: Apps) -> Peer:
    return _ssh(stage, apps, SSH_TTY, "-tt")


def chisel(stage: Stage, apps: Apps) -> Peer:
    binary = stage.program("chisel")
    (port, *ports) = free_ports(3)
    server = stage.run("chisel-server", binary, "server", "--reverse", "--host", "127.0.0.1", "-p", str(port))
    remotes = [f"R:{each}" for each in _forwards(ports, apps)]
    client = stage.run("chisel-client", binary, "client", f"http://127.0.0.1:{port}", *remotes)
    return _peer(stage, apps, "chisel", ports, (server,), (client,))


def frp(stage: Stage, apps: Apps) -> Peer:
    frps, frpc = stage.program("frps"), stage.program("frpc")
    (port, *ports) = free_ports(3)
    server_file = stage.write(
        "frps.toml", f'bindAddr = "127.0.0.1"\nbindPort = {port}\nproxyBindAddr = "127.0.0.1"\n'
    )
    proxies = "".join(
        f'[[proxies]]\nname = "p{to}"\ntype = "tcp"\n'
        f'localIP = "127.0.0.1"\nlocalPort = {to}\nremotePort = {door}\n'
        for door, to in zip(ports, (apps.app, apps.bulk), strict=True)
    )
    client_file = stage.write("frpc.toml", f'serverAddr = "127.0.0.1"\nserverPort = {port}\n{proxies}')
    server = stage.run("frps", frps, "-c", server_file)
    client = stage.run("frpc", frpc, "-c", client_file)
    return _peer(stage, apps, "frp", ports, (server,), (client,))


def bore(stage: Stage, apps: Apps) -> Peer:
    """Its control port is always the same, so one run at a time has it. An agent has one service."""
    binary = stage.program("bore")
    ports = free_ports(2)
    server = stage.run("bore-server", binary, "server", "--bind-addr", "127.0.0.1")
    pause(server, 0.3)  # an agent that cannot connect ends at once
    agents = tuple(
        stage.run(f"bore-{to}", binary, "local", str(to), "--to", "127.0.0.1", "--port", str(port))
        for port, to in zip(ports, (apps.app, apps.bulk), strict=True)
    )
    return _peer(stage, apps, "bore", ports, (server,), agents)


def rathole(stage: Stage, apps: Apps) -> Peer:
    return rathole_over(stage, apps, RATHOLE, lambda port: port)


def _file_name(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name)


def rathole_over(stage: Stage, apps: Apps, name: str, network: Network) -> Peer:
    binary = stage.program("rathole")
    (port, *ports) = free_ports(3)
    short = _file_name(name)
    pairs = list(zip(ports, (apps.app, apps.bulk), strict=True))
    doors = "".join(f'[server.services.s{to}]\nbind_addr = "127.0.0.1:{door}"\n' for door, to in pairs)
    targets = "".join(f'[client.services.s{to}]\nlocal_addr = "127.0.0.1:{to}"\n' for _, to in pairs)
    secret = 'default_token = "bench"\n'
    server_file = stage.write(f"{short}-s.toml", f'[server]\nbind_addr = "127.0.0.1:{port}"\n{secret}{doors}')
    server = stage.run(f"{short}-server", binary, "--server", server_file)
    stage.until_listening(port, server)
    client_file = stage.write(
        f"{short}-c.toml", f'[client]\nremote_addr = "127.0.0.1:{network(port)}"\n{secret}{targets}'
    )
    client = stage.run(f"{short}-client", binary, "--client", client_file)
    return _peer(stage, apps, name, ports, (server,), (client,))


def yamux(stage: Stage, apps: Apps) -> Peer:
    binary = stage.program("gotunnel")
    (port, *ports) = free_ports(3)
    doors = ",".join(f"127.0.0.1:{each}" for each in ports)
    server = stage.run("yamux-server", binary, "-serve", f"127.0.0.1:{port}", "-doors", doors)
    pause(server, 0.3)  # it accepts one agent, so nothing may connect before
    targets = f"127.0.0.1:{apps.app},127.0.0.1:{apps.bulk}"
    agent = stage.run("yamux-agent", binary, "-dial", f"127.0.0.1:{port}", "-apps", targets)
    return _peer(stage, apps, "yamux + Go ReverseProxy", ports, (server,), (agent,))


# --- devroute -----------------------------------------------------------------------------------------------


DEVROUTE = (sys.executable, "-m", "devroute")


@dataclass(frozen=True)
class Mesh:
    """A running `devroute proxy` with policy, tokens and the access log on."""

    process: subprocess.Popen[bytes]
    data: int
    control: int
    secrets: Mapping[str, str]

    def agent_environment(self, subject: str = LAPTOP) -> dict[str, str]:
        return {
            "DEVROUTE_SERVER": f"http://127.0.0.1:{self.control}",
            "DEVROUTE_TOKEN": self.secrets[subject],
        }


def mesh(
    stage: Stage, name: str, command: tuple[str | Path, ...] = DEVROUTE, env: Mapping[str, str] | None = None
) -> Mesh:
    data, control, admin = free_ports(3)
    tokens = {subject: new_token(subject) for subject in (LAPTOP, OTHERS)}
    records = "".join(record.as_yaml() for _, record in tokens.values())
    secrets = {subject: secret for subject, (secret, _) in tokens.items()}
    files = (
        *("--policy", stage.write("policy.yaml", POLICY)),
        *("--tokens", stage.write(f"{name}-tokens.yaml", records)),
    )
    places = (
        *("--host", "127.0.0.1", "--data-port", str(data)),
        *("--control-port", str(control), "--admin-port", str(admin)),
    )
    return Mesh(stage.run(name, *command, "proxy", *files, *places, env=env), data, control, secrets)


def through_tunnel(service: str) -> dict[str, str]:
    """Headers of a request that a sidecar detoured to the laptop."""
    return SIDECAR | {"x-devroute": f'{{"{service}": "{LAPTOP}"}}', "x-devroute-matched": service}


def devroute_direct(stage: Stage, apps: Apps) -> Peer:
    proxy = mesh(stage, "proxy-direct")
    return _peer(stage, apps, RELAY, [proxy.data, proxy.data], (proxy.process,))


def tunnelled(
    stage: Stage,
    apps: Apps,
    name: str,
    proxy: Mesh,
    command: tuple[str | Path, ...] = DEVROUTE,
    env: Mapping[str, str] | None = None,
    ingress: tuple[subprocess.Popen[bytes], ...] = (),
) -> Peer:
    # An agent whose first attempt fails ends at once.
    stage.until_listening(proxy.control, proxy.process)
    services = (f"foo=127.0.0.1:{apps.app}", f"bulk=127.0.0.1:{apps.bulk}")
    agent = stage.run(
        _file_name(name),
        *command,
        "up",
        *services,
        env=proxy.agent_environment() | dict(env or {}),
    )
    doors = (Door(proxy.data, through_tunnel(each)) for each in ("foo", "bulk"))
    return _ready(stage, Peer(name, *doors, (proxy.process, *ingress), (agent,)))


def devroute_tunnel(stage: Stage, apps: Apps) -> Peer:
    return tunnelled(stage, apps, TUNNEL, mesh(stage, "proxy-tunnel"))


def devroute_over(stage: Stage, apps: Apps, name: str, network: Network) -> Peer:
    proxy = mesh(stage, _file_name(f"proxy {name}"))
    stage.until_listening(proxy.control, proxy.process)
    env = {"DEVROUTE_SERVER": f"http://127.0.0.1:{network(proxy.control)}"}
    return tunnelled(stage, apps, name, proxy, env=env)


def replicas(stage: Stage, name: str, count: int = 2) -> list[Mesh]:
    """They share a Redis of their own. The first is the one that the agent dials."""
    (port, *peers) = free_ports(count + 1)
    redis = ("--port", str(port), "--bind", "127.0.0.1", "--save", "", "--loglevel", "warning")
    process = stage.run(f"redis-{name}", stage.program("redis-server"), *redis)
    stage.until_listening(port, process)
    shared = {"DEVROUTE_REGISTRY": f"redis://127.0.0.1:{port}/0", "DEVROUTE_PEER_HOST": "127.0.0.1"}
    found = [
        mesh(stage, f"proxy-{name}-{number}", env=shared | {"DEVROUTE_PEER_PORT": str(peer)})
        for number, peer in enumerate(peers)
    ]
    for each in found[1:]:
        stage.until_listening(each.control, each.process)
    return found


def devroute_pinned(stage: Stage, apps: Apps) -> Peer:
    owner, _ = replicas(stage, "pinned")
    return tunnelled(stage, apps, PINNED, owner)


def devroute_forwarded(stage: Stage, apps: Apps) -> Peer:
    """Both replicas count as the proxy."""
    owner, other = replicas(stage, "forwarded")
    tunnel = tunnelled(stage, apps, FORWARDED, owner)
    doors = (Door(other.data, each.headers) for each in (tunnel.app, tunnel.bulk))
    return _ready(stage, Peer(FORWARDED, *doors, (other.process, owner.process), tunnel.agent))


def devroute_traced(stage: Stage, apps: Apps) -> Peer:
    """The collector, an nginx that takes everything, counts as none of ours."""
    (port,) = free_ports(1)
    takes = "location / { default_type application/x-protobuf; return 200 ''; }"
    collector = start_nginx(stage, "collector", f"server {{ listen 127.0.0.1:{port}; {takes} }}")
    stage.until_listening(port, collector)
    proxy = mesh(stage, "proxy-traced", env={"DEVROUTE_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"})
    tunnel = tunnelled(stage, apps, TRACED, proxy)
    sampled = {"traceparent": "00-80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-01"}
    app, bulk = (Door(door.port, {**door.headers, **sampled}) for door in (tunnel.app, tunnel.bulk))
    return _ready(stage, replace(tunnel, app=app, bulk=bulk))


def devroute_bare(stage: Stage, apps: Apps) -> Peer:
    command = (sys.executable, HERE / "programs" / "bare_stream.py")
    return tunnelled(stage, apps, TUNNEL_BARE, mesh(stage, "proxy-bare", command), command)


def devroute_tls(stage: Stage, apps: Apps) -> Peer:
    """nginx ends the TLS, as an ingress does; its CPU and memory count as the proxy's."""
    request = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1")
    files = ("-keyout", "tls.key", "-out", "tls.pem", "-subj", "/CN=devroute")
    subprocess.run(
        [stage.program("openssl"), *request, *files, "-addext", "subjectAltName=IP:127.0.0.1"],
        cwd=stage.folder,
        check=True,
        capture_output=True,
    )
    proxy = mesh(stage, "proxy-tls")
    (port,) = free_ports(1)
    server = (
        f"server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {stage.folder}/tls.pem;"
        f" ssl_certificate_key {stage.folder}/tls.key; location / {{"
        f" proxy_pass http://127.0.0.1:{proxy.control}; proxy_http_version 1.1;"
        " proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; proxy_read_timeout 1h;"
        " proxy_buffer_size 64k; proxy_buffers 4 64k; proxy_busy_buffers_size 128k; } }"
    )
    ingress = start_nginx(stage, "ingress", server)
    stage.until_listening(port, ingress)
    env = {"DEVROUTE_SERVER": f"https://127.0.0.1:{port}", "SSL_CERT_FILE": str(stage.folder / "tls.pem")}
    return tunnelled(stage, apps, TUNNEL_TLS, proxy, env=env, ingress=(ingress,))


#: All peers, in the order of the table.
ALL: dict[str, Callable[[Stage, Apps], Peer]] = {
    DIRECT: direct,
    NGINX: nginx,
    "haproxy, 1 thread": haproxy,
    ENVOY: envoy,
    REFERENCE: go_reference,
    "Go ReverseProxy, tuned, no log": go_tuned,
    "aiohttp server + ClientSession": aiohttp_relay,
    RELAY: devroute_direct,
    SSH: ssh_plain,
    SSH_TTY: ssh_tty,
    "chisel": chisel,
    "frp": frp,
    "bore": bore,
    RATHOLE: rathole,
    "yamux + Go ReverseProxy": yamux,
    TUNNEL: devroute_tunnel,
    PINNED: devroute_pinned,
    FORWARDED: devroute_forwarded,
    TRACED: devroute_traced,
    TUNNEL_BARE: devroute_bare,
    TUNNEL_TLS: devroute_tls,
}
