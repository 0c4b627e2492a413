"""The real proxy behind sidecars that carry the shipped filter, with targets in this process."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import aiohttp

from devroute.auth.tokens import TokenRecord
from devroute.mesh import testbed
from devroute.mesh.envoy import Envoy, running
from devroute.mesh.istio.envoy_filter import apply
from devroute.mesh.istio.sidecar import INBOUND, Document, Endpoint, Sidecar, bootstrap
from devroute.mesh.manifests.model import Carriers, MeshScope, Scope
from devroute.mesh.manifests.sidecar_filter import envoy_filter
from tests.envoy.harness import PROXY, patient, release
from tests.support.istio_security import with_tls
from tests.support.ports import free_port


def at_its_port(sidecar: Sidecar, configuration: Document) -> Document:
    """The inbound listener at the app's own port, as clients see it in a pod: what is redirected to the
    sidecar keeps its destination, and Istio names the app's cluster by it."""
    configuration["static_resources"]["listeners"][0]["address"]["socket_address"]["port_value"] = (
        sidecar.port
    )
    return configuration


@dataclass
class Mesh:
    """A proxy without laptops, and the sidecars that a test starts."""

    folder: Path
    proxy: testbed.RunningProxy
    client: aiohttp.ClientSession
    stack: AsyncExitStack
    envoys: dict[str, Envoy] = field(default_factory=dict)

    async def sidecar(
        self,
        service: str,
        app: Endpoint,
        name: str = "",
        clusters: Mapping[str, Endpoint] = {},
        knows_itself: bool = False,
        scopes: Sequence[Scope] = (MeshScope(),),
        tls: Document | None = None,
        permissive: bool = False,
        as_client: bool = False,
        teams: Sequence[Document] = (),
        carriers: Carriers | None = None,
        services: Mapping[str, Endpoint] = {},
    ) -> str:
        """The URL of a sidecar of `service`; `name` distinguishes several; `teams` are others' EnvoyFilters;
        `services` are those that its app calls through it.
        As in a mesh, each sidecar has a cluster of its own service's name."""
        port = free_port()
        known = {PROXY.data_cluster: self.proxy.data, PROXY.control_cluster: self.proxy.control}
        if knows_itself:
            known[f"outbound|{port}||{service}.default.svc.cluster.local"] = Endpoint("127.0.0.1", port)
        known |= clusters
        spoken = [PROXY.data_cluster, f"inbound|{port}||"] if as_client else []
        labels = {"app": service}
        described = Sidecar(service, app, labels=labels, port=port, clusters=known, as_client=spoken)
        described = replace(described, services=services)
        filters = [envoy_filter(scope, carriers=carriers) for scope in scopes]
        configuration = with_tls(bootstrap(described), tls, permissive)
        configuration = apply([*filters, *teams], described, configuration, release())
        configuration = patient(configuration)
        environment = {"ISTIO_META_WORKLOAD_NAME": service, "POD_NAMESPACE": "default"}
        started = running(at_its_port(described, configuration), self.folder, name or service, environment)
        envoy = self.envoys[name or service] = await self.stack.enter_async_context(started)
        return "http://{}:{}".format(*envoy.listeners[INBOUND])


@asynccontextmanager
async def real_mesh(
    folder: Path, *tokens: TokenRecord, policy: str | None = None, **settings: str
) -> AsyncIterator[Mesh]:
    """`policy`, or the demo's; `settings` are those of `devroute proxy` that are not the demo's."""
    environment = {f"DEVROUTE_{name.upper()}": value for name, value in settings.items()}
    async with AsyncExitStack() as stack:
        started = testbed.proxy(folder, tokens, policy, environment=environment)
        proxy = await stack.enter_async_context(started)
        timeout = aiohttp.ClientTimeout(total=30)
        client = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        yield Mesh(folder, proxy, client, stack)
