"""The running demo: the proxy, three services with their sidecars, two laptops, and the entry."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from devroute.auth.tokens import new_token
from devroute.mesh import testbed
from devroute.mesh.demo.entry import Entry
from devroute.mesh.demo.journal import Journal
from devroute.mesh.demo.loopback import served
from devroute.mesh.demo.services import PATIENT, TIMEOUT, DemoApp
from devroute.mesh.istio.sidecar import INBOUND, OUTBOUND, Endpoint, Sidecar

#: The first and the last service; the one between them is the user's to name.
FIRST, LAST = "a", "c"

#: The names of the demo's apps: those in the mesh, Alice's, and Bob's. YOU is the laptop that the user's own
#: `devroute up` registers.
MESH, ALICE, BOB = "mesh", "alice", "bob"
YOU = "dev"

#: Where the services are in the mesh, as in the documentation.
NAMESPACE, PORT = "shop", 80

#: Random bytes of a token: its line fits into 80 columns.
TOKEN_BYTES = 16


@dataclass(frozen=True)
class Mesh:
    """`service` is the middle one. `first` and `direct` are the first service's sidecar and Alice's app,
    `url` the entry. `server` and `token` are what `devroute up` of YOU needs."""

    session: aiohttp.ClientSession
    service: str
    first: Endpoint
    direct: Endpoint
    alice: testbed.Command
    url: str
    server: str
    token: str

    @property
    def services(self) -> tuple[str, str, str]:
        return FIRST, self.service, LAST


@asynccontextmanager
async def mesh(
    folder: Path, service: str, journal: Journal, progress: Callable[[str], object], *, reach: bool = False
) -> AsyncIterator[Mesh]:
    """A → `service` → C, the proxy, and two laptops with an app of their own for `service`. `progress` gets
    what is being started. `reach`: whether laptops may call the three services. Raises DevrouteError."""
    async with AsyncExitStack() as stack:
        enter = stack.enter_async_context
        patient = await enter(aiohttp.ClientSession(timeout=PATIENT, auto_decompress=False))
        entry = Entry(FIRST, journal, patient)
        url = await enter(served(entry.add_routes))
        tokens = {who: new_token(who, entropy=TOKEN_BYTES) for who in (ALICE, BOB, YOU)}
        progress("the proxy")
        records = [record for _, record in tokens.values()]
        settings = {"DEVROUTE_ENTRY_URL": url, "DEVROUTE_REACH_NAMESPACE": NAMESPACE}
        if reach:
            egress_port = testbed.free_port()
            settings["DEVROUTE_MESH_EGRESS"] = f"http://127.0.0.1:{egress_port}"
        proxy = await enter(testbed.proxy(folder, records, environment=settings))

        inbound = await _services(stack, folder, service, journal, proxy, progress)
        if reach:
            progress("Envoy, the sidecar of the proxy")
            described = Sidecar("devroute-proxy", proxy.data, NAMESPACE, port=PORT, services=inbound)
            await enter(testbed.egress(folder, described, egress_port))

        # The apps of these two call the mesh's C, as through a VPN.
        laptops, commands = {}, {}
        for who in (ALICE, BOB):
            progress(f"devroute up on the laptop of {who}")
            app = DemoApp(service, who, journal, LAST, inbound[LAST])
            laptops[who] = await enter(app.serving())
            local = f"{service}={laptops[who].host}:{laptops[who].port}"
            commands[who] = await enter(testbed.laptop(folder, who, proxy.server, tokens[who][0], local))
        session = await enter(aiohttp.ClientSession(timeout=TIMEOUT))
        entry.sidecar = first = inbound[FIRST]
        direct, alice = laptops[ALICE], commands[ALICE]
        yield Mesh(session, service, first, direct, alice, url, proxy.server, tokens[YOU][0])


async def _services(
    stack: AsyncExitStack,
    folder: Path,
    service: str,
    journal: Journal,
    proxy: testbed.RunningProxy,
    progress: Callable[[str], object],
) -> dict[str, Endpoint]:
    """A, `service` and C with their sidecars, which end with the stack: their inbound listeners, by name."""
    enter = stack.enter_async_context
    inbound: dict[str, Endpoint] = {}
    # The last one first, since each calls the next one's sidecar.
    for name, calls in [(LAST, ""), (service, LAST), (FIRST, service)]:
        progress(f"Envoy, the sidecar of {name}")
        app = DemoApp(name, MESH, journal, calls)
        next_service = {calls: inbound[calls]} if calls else {}
        at = await enter(app.serving())
        described = Sidecar(name, at, NAMESPACE, port=PORT, services=next_service)
        envoy = await enter(testbed.sidecar(folder, described, proxy))
        inbound[name] = envoy.listeners[INBOUND]
        app.through = envoy.listeners.get(OUTBOUND)
    return inbound
