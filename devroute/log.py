"""Structured logs on standard error, one event a line. Owns the configuration of structlog and of the
libraries' loggers; the command that runs calls it once.
"""

import contextlib
import logging
import sys
from io import TextIOBase
from typing import Literal, TextIO, cast

import structlog


class _StandardError(TextIOBase):
    """The standard error of the moment of writing, not of the configuration. A line that cannot be written (a
    full disk, a closed pipe) is dropped, since there is nowhere to report it."""

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
    # aiohttp and asyncio use logging: the same format and stream, for warnings and errors only.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=max(threshold, logging.WARNING), force=True)
