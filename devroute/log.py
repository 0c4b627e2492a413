"""Structured logs on standard error: one event a line. Owns the set-up of structlog and of the libraries' own
loggers; decides nothing about what is logged, and is called once, by the command that runs.
"""

import contextlib
import logging
import sys
from io import TextIOBase
from typing import Literal, TextIO, cast

import structlog


class _StandardError(TextIOBase):
    """Standard error as it is when a line is written, not as it was at set-up. A line that cannot be written
    (a full disk, a reader that has gone) is lost: its subject goes on, and there is nowhere to say so."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(form: Literal["json", "console"], level: str = "info") -> None:
    """`json` for machines, `console` for people; `level` is debug, info, warning or error."""
    stream = cast(TextIO, _StandardError())
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=True,
    )
    # aiohttp and asyncio log through logging: the same form, on the same stream, warnings and worse only.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
