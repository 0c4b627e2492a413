"""Which reporter a `devroute up` has."""

import sys

from devroute.agent.settings import AgentSettings
from devroute.agent.ui.lines import LineReporter
from devroute.agent.ui.reporter import Reporter
from devroute.agent.ui.writer import TerminalWriter


def reporter_for(settings: AgentSettings) -> Reporter:
    """A page on a terminal, unless lines are asked for or the app writes to the same terminal."""
    wants_page = settings.output == "auto" and not settings.command
    if wants_page and sys.stdout.isatty():
        from devroute.agent.ui.page import PageReporter, can_draw  # rich takes long to import

        if can_draw(sys.stdout):
            return PageReporter(sys.stdout)
    return LineReporter("json" if settings.output == "json" else "text", TerminalWriter(sys.stdout))
