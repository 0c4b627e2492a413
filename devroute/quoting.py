"""Escapes and shortens untrusted text for messages, header values and logs; quotes it for shells. Pure."""

import re
import shlex
from collections.abc import Sequence
from typing import Final, Literal

Shell = Literal["posix", "powershell", "cmd"]

#: Characters of untrusted input in an error message: enough to recognise it, too few to flood a log.
MAX_QUOTED: Final = 60
#: Characters of a message, of a name or of an id in a response, a log or the audit trail.
MAX_MESSAGE: Final = 1024
MAX_NAME: Final = 512
MAX_REQUEST_ID: Final = 128
#: Bytes of a reason: it becomes a response header.
MAX_REASON: Final = 200
#: For bytes.translate: all but ASCII letters, digits and the dash become the dash, so that ids stay as they
#: are, and nothing does that would need an escape.
ONLY_IDENTIFIERS: Final = bytes(
    code if chr(code).isalnum() and code < 128 else ord("-") for code in range(256)
)
#: How a reason ends at a service, where the contract names others.
NAMES_OTHERS: Final = ": devroute trace shows who answered there"
#: Bytes of those names in it.
MAX_SHOWN_NAMES: Final = 100


def quote(text: str) -> str:
    """Input as an error message may repeat it: printable ASCII in quotes, cut at MAX_QUOTED characters."""
    shown = text[: MAX_QUOTED + 1].encode("unicode_escape").decode("ascii")
    if len(shown) > MAX_QUOTED:
        shown = shown[:MAX_QUOTED] + "..."
    return f"'{shown}'"


def shell_word(text: str, shell: Shell) -> str:
    """One line of text as one argument in a command for this shell. For cmd without `%`, which nothing
    escapes there; quotes are escaped as Microsoft's C runtime reads them."""
    if shell == "posix":
        return shlex.quote(text)
    if shell == "powershell":
        return "'" + text.replace("'", "''") + "'"
    escaped = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)\Z", r"\1\1", escaped) + '"'


def visible(text: str) -> str:
    """Untrusted text for a terminal, with `?` for whatever it would obey or could not show."""
    return text if text.isprintable() else "".join(each if each.isprintable() else "?" for each in text)


def shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."


def reason_for_others(names: Sequence[str]) -> str:
    """Why a response speaks for one service alone: which others the contract names, in a bounded line. The
    twin of that in lua/parts/cache.lua."""
    shown, size = 0, 0
    while shown < len(names) and (size := size + len(names[shown]) + 2) <= MAX_SHOWN_NAMES:
        shown += 1
    if not shown:
        return f"names other services{NAMES_OTHERS}"
    more = f" and {len(names) - shown} more" if shown < len(names) else ""
    return f"names {', '.join(names[:shown])}{more}{NAMES_OTHERS}"


def printable(reason: str, most: int = MAX_REASON) -> str:
    """A reason as it may stand in a header: one line of printable ASCII, at most `most` bytes."""
    line = re.sub(r"[^ -~]", "?", " ".join(reason.split()))
    return shortened(line, most)
