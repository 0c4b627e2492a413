"""What `devroute up` gives its inspector: a store for captures, a decoder of messages, and the rules."""

import asyncio
from collections.abc import Set
from typing import TYPE_CHECKING

from devroute.agent.link_keeper import LinkKeeper
from devroute.agent.settings import AgentSettings
from devroute.inspector.inspection import About, Inspection, Replay
from devroute.inspector.protobuf.catalogue import Catalogue
from devroute.inspector.protobuf.decoder import decoder
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules.rule_list import RuleList
from devroute.inspector.store import CaptureStore

if TYPE_CHECKING:
    from devroute.agent.metrics import AgentMetrics


def captures_for(
    settings: AgentSettings, redact: Redaction, loop: asyncio.AbstractEventLoop
) -> CaptureStore | None:
    """None if there is no inspector."""
    if settings.inspector is False:
        return None
    return CaptureStore(
        max_total=int(settings.inspector_memory_mb * 1024 * 1024),
        max_body=int(settings.inspector_body_mb * 1024 * 1024),
        redact=redact,
        defer=loop.call_soon,
    )


def inspection_of(
    captures: CaptureStore | None,
    replay: Replay,
    about: About,
    settings: AgentSettings,
    rules: RuleList,
) -> Inspection | None:
    """None if there is no inspector."""
    if captures is None:
        return None
    catalogue = Catalogue(settings.services, settings.schema_files)
    return Inspection(captures, replay, about, decoder(catalogue, settings.redact), rules)


def metrics_of(
    inspection: Inspection | None, settings: AgentSettings, services: Set[str], keeper: LinkKeeper
) -> "AgentMetrics | None":
    """None unless the settings ask for them: prometheus_client takes a while to import. `services`: those
    that are served now."""
    if inspection is None or not settings.metrics:
        return None
    from devroute.agent.metrics import AgentMetrics

    counts = keeper.registrar.registrations
    metrics = AgentMetrics(services, lambda: keeper.links, lambda: sum(counts.values()) - len(counts))
    inspection.metrics = metrics.exposed
    return metrics
