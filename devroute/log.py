"""Structured logs on standard error, one event a line. Owns the configuration of structlog and of the
libraries' loggers; the command that runs calls it once.
"""

import contextlib
import importlib
import logging
import sys
from collections.abc import Callable, MutableMapping
from io import TextIOBase
from typing import Any, Literal, TextIO, cast

from devroute.quoting import visible


def _write_now(line: bytes) -> None:
    """To the standard error of the moment of writing, not of the configuration. A line that cannot be written
    (a full disk, a closed pipe) is dropped, since there is nowhere to report it."""
    with contextlib.suppress(OSError):
        sys.stderr.write(line.decode())
        sys.stderr.flush()


class _Lines(TextIOBase):
    """The stream of the loggers, which write one line at a time."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def write(self, text: str) -> int:
        self._write(text.encode("utf-8", "backslashreplace"))
        return len(text)


def _visible(_: object, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """For a terminal: no value has anything to obey or a second line. A traceback has further ones, which are
    indented: what it quotes cannot look like an event."""
    for key, value in event.items():
        if key in ("exception", "stack"):
            event[key] = "\n".join(f"  {visible(line)}" for line in str(value).split("\n"))
        elif isinstance(value, str):
            event[key] = visible(value)
    return event


def configure(
    form: Literal["json", "console"], level: str = "info", write: Callable[[bytes], None] = _write_now
) -> None:
    """`json` for machines, `console` for people; `level` is debug, info, warning or error. `write` takes
    whole lines."""
    import structlog

    stream = cast(TextIO, _Lines(write))
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
        shared.append(_visible)
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


def import_structlog() -> None:
    """The first import of structlog in a process, without rich. Where that is installed, structlog imports it
    for tracebacks, which `configure` has formatted otherwise, and a proxy would start a tenth later."""
    absent: dict[str, Any] = {} if "rich" in sys.modules else {"rich": None}
    sys.modules.update(absent)
    try:
        importlib.import_module("structlog")
    finally:
        for name in absent:
            del sys.modules[name]


class _PlainFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return "\n  ".join(visible(line) for line in super().format(record).split("\n"))


def configure_libraries() -> None:
    """For a laptop's commands, which log nothing themselves: the warnings of asyncio and aiohttp, without
    structlog, which takes a tenth of their start to import."""
    handler = logging.StreamHandler(cast(TextIO, _Lines(_write_now)))
    handler.setFormatter(_PlainFormatter("%(asctime)s [%(levelname)s] %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
