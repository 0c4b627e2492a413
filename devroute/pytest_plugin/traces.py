"""Who answered behind the first service: traces of a few of the tests' requests, as of `devroute trace`."""

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

from devroute.agent import trace, trace_report
from devroute.agent.settings import ClientSettings
from devroute.agent.token_source import with_fetched_token
from devroute.cli.config.sources import client_settings
from devroute.cli.invocation import Invocation
from devroute.errors import ConfigInvalid, DevrouteError


def server() -> ClientSettings | None:
    """The server of the configuration; None if there is none. Raises nothing: tests run without it, too."""
    try:
        return client_settings(Invocation(os.environ, ()).sources({}))
    except ConfigInvalid:
        return None


def answered(settings: ClientSettings, traces: Sequence[str]) -> Counter[str]:
    """A sentence for each trace, and how often it is true. Those that the server does not know count as
    nothing. Raises as api_client.fetch."""
    return asyncio.run(_answered(settings, traces))


async def _answered(settings: ClientSettings, traces: Sequence[str]) -> Counter[str]:
    settings = await with_fetched_token(settings)
    found = await asyncio.gather(*(trace.collected(settings, each) for each in traces))
    return Counter(trace_report.summary(hops, services) for hops, services in found if hops)


def in_lines(settings: ClientSettings | None, traces: Sequence[str]) -> list[str]:
    """The same as lines of a report, with the reason where there are none."""
    if settings is None:
        return ["who answered behind the first service is not known: no server is configured"]
    try:
        found = answered(settings, traces)
    except DevrouteError as error:
        return [f"who answered behind the first service is not known: {error.message}"]
    return [f"{count:>6}  traced: {sentence}" for sentence, count in found.most_common()]
