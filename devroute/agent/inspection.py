"""What `devroute up` gives its inspector: a store for captures, a decoder of messages, and the rules."""

import asyncio

from devroute.agent.settings import AgentSettings
from devroute.inspector.inspection import About, Inspection, Replay
from devroute.inspector.protobuf.catalogue import Catalogue
from devroute.inspector.protobuf.decoder import decoder
from devroute.inspector.redaction import Redaction
from devroute.inspector.rules.book import RuleBook
from devroute.inspector.store import CaptureStore


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
    rules: RuleBook,
) -> Inspection | None:
    """None if there is no inspector."""
    if captures is None:
        return None
    catalogue = Catalogue(settings.services, settings.schema_files)
    return Inspection(captures, replay, about, decoder(catalogue, settings.redact), rules)
