"""Changes of the mesh for the time of a test, and when each Envoy has them."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from tests.istio import client
from tests.istio.kubernetes import Document
from tests.istio.netns import Namespace
from tests.istio.rig import Rig
from tests.support.eventually import eventually

#: From a change in the API server until Envoy uses it, on a busy machine.
LIVE_S = 60.0
_PAUSE_S = 0.2
#: Responses in a row, a pause apart, of laptops that are online and stay so.
_STEADY = 10


@asynccontextmanager
async def applied(mesh: Rig, documents: Iterable[Document]) -> AsyncIterator[None]:
    """Resources that are deleted with the block."""
    documents = list(documents)
    try:
        await mesh.kubernetes.apply(documents)
        yield
    finally:
        await mesh.kubernetes.delete(documents)


async def live(mesh: Rig, pods: Iterable[str], text: str, *, gone: bool = False) -> None:
    """Waits until the configuration of each pod's Envoy has `text` in it, or no longer has."""
    for pod in pods:

        async def has(space: Namespace = mesh.pods[pod]) -> bool:
            if (text in await client.admin(space, "config_dump")) is not gone:
                return True
            # Megabytes at each look: Envoy needs its time for other things.
            await asyncio.sleep(_PAUSE_S)
            return False

        await eventually(has, f"{text} {'gone from' if gone else 'in'} {pod}", within=LIVE_S)


async def drained(mesh: Rig, pods: Iterable[str]) -> None:
    """Waits until no listener that was replaced is left: when it goes, its connections are cut."""
    pods = list(pods)

    async def none_left() -> bool:
        names = ("total_listeners_draining", "total_filter_chains_draining")
        left = [await counter(mesh, pod, f"listener_manager.{name}") for pod in pods for name in names]
        return not any(left)

    await eventually(none_left, "no listener draining", within=LIVE_S)


async def laptops_online(mesh: Rig) -> None:
    """Waits until both are, after a change of the gateway that cuts their tunnels: moments after the last
    listener is gone. The proxy and the agents learn of it one after the other."""
    await drained(mesh, ["gw"])
    in_a_row = 0

    async def stay() -> bool:
        nonlocal in_a_row
        responses = [await mesh.ask("a", "http://b/x", {"b": name}) for name in ("alice", "bob")]
        online = [each.app for each in responses] == ["laptop-alice", "laptop-bob"]
        in_a_row = in_a_row + 1 if online else 0
        await asyncio.sleep(_PAUSE_S)
        return in_a_row == _STEADY

    await eventually(stay, "alice and bob online", within=LIVE_S)


async def counter(mesh: Rig, pod: str, name: str) -> int:
    """A counter or gauge of a pod's Envoy."""
    found = await client.admin(mesh.pods[pod], f"stats?filter=^{name}$")
    return int(found.rpartition(": ")[2] or 0)


def envoy_filter(
    name: str, labels: Mapping[str, str], *patches: Document, namespace: str = "shop"
) -> Document:
    return {
        "apiVersion": "networking.istio.io/v1alpha3",
        "kind": "EnvoyFilter",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"workloadSelector": {"labels": dict(labels)}, "configPatches": list(patches)},
    }
