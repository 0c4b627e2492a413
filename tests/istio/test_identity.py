"""Who a caller is: by its certificate, on full and on resumed TLS sessions; no identity without one."""

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import pytest

from tests.istio.kubernetes import Document
from tests.istio.rig import Rig
from tests.istio.sidecar import CERTIFICATES
from tests.istio.topology import APP_PORT, APPS, HTTP, LAPTOPS
from tests.support.eventually import eventually

pytestmark = pytest.mark.istio

TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
ADDRESSES = {pod.app: pod.address for pod in reversed(APPS)}


def context_of(mesh: Rig, pod: str, version: ssl.TLSVersion) -> ssl.SSLContext:
    """TLS as this pod's sidecar speaks it, of Istio's build: with the ALPN protocols of Istio."""
    folder = mesh.folder / pod / CERTIFICATES
    context = ssl.create_default_context(cafile=folder / "root-cert.pem")
    context.check_hostname = False
    context.load_cert_chain(folder / "cert-chain.pem", folder / "key.pem")
    context.set_alpn_protocols(["istio-http/1.1"])
    context.minimum_version = context.maximum_version = version
    return context


class Answer(NamedTuple):
    """x-devroute-result, or the status line; the TLS session, and whether it was resumed."""

    result: str
    session: ssl.SSLSession | None
    resumed: bool


def ask_sidecar(
    mesh: Rig,
    service: str,
    context: ssl.SSLContext | None,
    contract: object,
    session: ssl.SSLSession | None = None,
) -> Answer:
    """A request straight to the sidecar of a service's first pod, from a machine without one."""
    head = f"GET /x HTTP/1.1\r\nhost: {service}\r\nconnection: close\r\n"
    head += f"x-devroute: {json.dumps(contract)}\r\n\r\n"
    connection = mesh.pods["control"].connect(ADDRESSES[service], HTTP)
    if context is not None:
        name = f"outbound_.80_._.{service}.shop.svc.cluster.local"
        connection = context.wrap_socket(connection, server_hostname=name, session=session)
    with connection:
        connection.sendall(head.encode())
        received = b""
        while piece := connection.recv(65536):
            received += piece
        tls = connection if isinstance(connection, ssl.SSLSocket) else None
        session, resumed = (tls.session, bool(tls.session_reused)) if tls else (None, False)
    lines = received.decode().lower().split("\r\n")
    results = [line.partition(": ")[2] for line in lines if line.startswith("x-devroute-result:")]
    return Answer((results or lines)[0], session, resumed)


@pytest.mark.parametrize("version", TLS)
@pytest.mark.parametrize(("allowed", "result"), [("shop/web", "laptop"), ("shop/a", "service")])
async def test_a_caller_is_known_on_resumed_sessions(
    mesh: Rig, version: str, allowed: str, result: str
) -> None:
    contract = {"b": {"to": "alice", "from": [allowed]}}
    context, session = context_of(mesh, "web", TLS[version]), None
    resumptions = 0
    for _ in range(6):
        found, session, resumed = ask_sidecar(mesh, "b", context, contract, session)
        assert found == result, f"after {resumptions} resumptions"
        resumptions += resumed
    assert resumptions == 5, "Envoy resumes sessions"


async def test_sidecars_are_known_on_all_their_connections(mesh: Rig) -> None:
    """Each of these is a connection of its own, and sidecars resume sessions."""
    contract = {"b": {"to": "alice", "from": ["shop/web"]}}
    permitted = [await mesh.ask("web", "http://b/x", contract) for _ in range(40)]
    refused = [await mesh.ask("a", "http://b/x", contract) for _ in range(40)]
    assert {each.result for each in permitted} == {"laptop"}, permitted[0]
    assert {each.result for each in refused} == {"service"}, refused[0]


@asynccontextmanager
async def permissive(mesh: Rig) -> AsyncIterator[None]:
    policy: Document = {
        "apiVersion": "security.istio.io/v1",
        "kind": "PeerAuthentication",
        "metadata": {"name": "permissive", "namespace": "shop"},
        "spec": {"selector": {"matchLabels": {"app": "c"}}, "mtls": {"mode": "PERMISSIVE"}},
    }
    await mesh.kubernetes.apply([policy])
    try:
        yield
    finally:
        await mesh.kubernetes.delete([policy])


async def test_a_plaintext_caller_has_no_identity(mesh: Rig) -> None:
    def plain(contract: object) -> str:
        try:
            return ask_sidecar(mesh, "c", None, contract).result
        except OSError:
            return "refused"

    assert plain({"c": "alice"}) in ("refused", ""), "STRICT"
    async with permissive(mesh):
        await eventually(lambda: plain({"c": "alice"}) == "laptop", "plaintext for c", within=30)
        assert plain({"c": {"to": "alice", "from": ["shop/web"]}}) == "service"
    await eventually(lambda: plain({"c": "alice"}) in ("refused", ""), "STRICT again", within=30)


async def test_a_port_without_a_protocol_s_name_is_detoured(mesh: Rig) -> None:
    """By the ALPN protocol of Istio's own build of Envoy; the sidecars of the rig do not announce it."""
    context = context_of(mesh, "a", TLS["1.3"])
    assert ask_sidecar(mesh, "web", context, {"b": "alice"}).result == "service"
    contract = {"web": {"to": f"{LAPTOPS['alice']}:{APP_PORT}", "from": ["shop/a"]}}
    assert ask_sidecar(mesh, "web", context, contract).result == "laptop"
