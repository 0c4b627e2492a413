"""What the page and its administrators need of the laptops' links that end here."""

from collections.abc import Iterator
from typing import Final

from devroute.auth.blocks import Block
from devroute.proxy.control.tunnels import Tunnels

#: Seconds after which a link's round trip is measured again while a page is open.
MEASURE_SECONDS: Final = 30.0
#: Links that are measured at once.
MEASURED_AT_ONCE: Final = 400


def round_trips(tunnels: Tunnels) -> Iterator[tuple[str, int, float]]:
    """Name, generation and milliseconds of each process whose round trip is known."""
    for link in tunnels.links:
        registration, seconds = tunnels.registry.registration_of(link), link.heartbeat.round_trip
        if registration is not None and seconds is not None:
            yield registration.name, registration.generation, round(seconds * 1000, 1)


def measure(tunnels: Tunnels, now: float) -> None:
    """Ping links whose round trip is not known, or not of the last MEASURE_SECONDS. `now`: by the loop's
    clock."""
    due = (each for each in tunnels.links if now - each.heartbeat.pinged_at > MEASURE_SECONDS)
    for link, _ in zip(due, range(MEASURED_AT_ONCE), strict=False):
        if tunnels.registry.registration_of(link) is not None:
            link.heartbeat.ping()


def end_blocked(tunnels: Tunnels, block: Block) -> None:
    """End all links of a subject that is blocked, registered or not; pages notice by themselves."""
    for link, member in list(tunnels.links.items()):
        if member.identity.subject == block.subject:
            link.reject(block.as_error())
