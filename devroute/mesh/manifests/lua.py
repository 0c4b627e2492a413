"""The Lua of the filters, joined from the files of `lua/`: an entry, the parts that it names in its first
line, and the constants that it shares with Python. Pure, except that it reads the package's own files.

Each filter of Envoy has a Lua state of its own, so that one source has to hold everything. Comments stay in
`lua/`, except for an entry's first ones: the code is applied to people's clusters, where readers need to know
what it does and where its source is, and a TrafficExtension holds 64 KiB.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Final

from devroute import headers
from devroute.contract.conditions import MAX_LIST, MAX_TEXT
from devroute.contract.grammar import MAX_BYTES, MAX_ENTRIES
from devroute.contract.options import MAX_DURATION_S
from devroute.contract.target import MAX_HOST, MAX_LABEL
from devroute.contract.trace_id import ID_PREFIX
from devroute.errors import (
    CallerDenied,
    ContractInvalid,
    ContractUnknown,
    DevrouteError,
    LoopDetected,
    VersionMissing,
)
from devroute.http import carriers, trace_state
from devroute.http.baggage import MAX_READ_BYTES
from devroute.quoting import MAX_REASON, MAX_SHOWN_NAMES, NAMES_OTHERS
from devroute.routing import resolve_codec, sidecar_paths
from devroute.routing.decision import TTL_MS
from devroute.routing.shadow.comparison import MAX_BODY

#: The decision that leads to the proxy. The name is the result if the proxy does not respond itself.
SENT_TO_PROXY: Final = "error"
#: The decision that a request without a contract is copied; no caller gets to see it.
COPIED: Final = "copy"
#: In a gateway's metadata: present once the filter has looked at a request.
EDGE_DONE: Final = "done"
#: The filter state in which a sidecar's filters find the services of the request's own cluster.
OWN_SERVICES: Final = "devroute.services"
#: What a traceparent begins with that has the id of a trace of `devroute trace`.
TRACED_PARENT: Final = f"00-{ID_PREFIX}"
#: Traces of which a workload keeps the contract for the requests that it sends, and for how many seconds.
KEPT_TRACES: Final = 4096
KEPT_SECONDS: Final = 60
#: Bytes of a service's name (RFC 1035 §2.3.4).
MAX_NAME: Final = 253

Constant = str | int | tuple[str, ...] | Mapping[str, "Constant"]


def _error(kind: type[DevrouteError]) -> dict[str, str]:
    return {"code": kind.code, "status": str(kind.status)}


#: What Lua and Python have in common, beside the names in devroute/headers.py.
_SHARED: Final[dict[str, Constant]] = {
    "SENT_TO_PROXY": SENT_TO_PROXY,
    "COPIED": COPIED,
    "EDGE_DONE": EDGE_DONE,
    "OWN_SERVICES": OWN_SERVICES,
    "TRACED_PARENT": TRACED_PARENT,
    "CONTROL": {
        "authority": sidecar_paths.PROXY_AUTHORITY,
        "resolve": sidecar_paths.RESOLVE_PATH,
        "contract": sidecar_paths.CONTRACT_PATH,
        "trace": sidecar_paths.TRACE_PATH,
        "compare": sidecar_paths.COMPARE_PATH,
        "version": resolve_codec.VERSION_LINE,
    },
    "MAX_RESPONSE": resolve_codec.MAX_BYTES,
    "MAX_TTL_MS": TTL_MS,
    "MAX_CONTRACT": MAX_BYTES,
    "PLAIN": {
        "entries": MAX_ENTRIES,
        "label": MAX_LABEL,
        "host": MAX_HOST,
        "list": MAX_LIST,
        "text": MAX_TEXT,
        "seconds": int(MAX_DURATION_S),
    },
    "MAX_REASON": MAX_REASON,
    "MAX_SHOWN_NAMES": MAX_SHOWN_NAMES,
    "NAMES_OTHERS": NAMES_OTHERS,
    "MAX_NAME": MAX_NAME,
    "MAX_READ_BAGGAGE": MAX_READ_BYTES,
    "CARRIERS": carriers.KNOWN,
    "KEPT": {"traces": KEPT_TRACES, "seconds": KEPT_SECONDS},
    "TRACE_STATE": {
        "value": trace_state.MAX_VALUE,
        "members": trace_state.MAX_MEMBERS,
        "bytes": trace_state.MAX_BYTES,
    },
    "MAX_COMPARED_BODY": MAX_BODY,
    "MAX_CALLER": MAX_TEXT,
    "CONTRACT_INVALID": _error(ContractInvalid),
    "CONTRACT_UNKNOWN": _error(ContractUnknown),
    "CALLER_DENIED": _error(CallerDenied),
    "LOOP_DETECTED": _error(LoopDetected),
    "VERSION_MISSING": _error(VersionMissing),
}
CONSTANTS: Final[dict[str, Constant]] = {
    **{name: value for name, value in vars(headers).items() if name.isupper() and isinstance(value, str)},
    **_SHARED,
}

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"|\'(?:[^\'\\]|\\.)*\'')
_NAME = re.compile(r"\b[A-Z][A-Z0-9_]+\b")


def source(entry: str, **constants: Constant) -> str:
    """The Lua of `lua/ENTRY.lua` with all that it needs; `constants` are further ones, by name."""
    return joined(_read(f"{entry}.lua"), **constants)


def joined(text: str, **constants: Constant) -> str:
    """The same for an entry that is given as text, as tests of single parts do."""
    sections = [f"--- {file}\n{code}" for file, code in _sections(_parts(text), set())]
    sections.append(f"--- filter\n{_without_comments(text)}")
    used = set(_NAME.findall(_STRING.sub("", "\n".join(sections))))
    known = CONSTANTS | constants
    lines = [f"local {name} = {_lua(known[name])}" for name in sorted(used & known.keys())]
    return "\n\n".join([_preface(text), "--- constants\n" + "\n".join(lines), *sections]) + "\n"


def _sections(names: list[str], done: set[str]) -> Iterator[tuple[str, str]]:
    """The named parts in their order, each once. An entry may be a part too, behind its own parts."""
    for name in names:
        if name in done:
            continue
        done.add(name)
        file = f"{name}.lua" if _is_entry(name) else f"parts/{name}.lua"
        text = _read(file)
        if _is_entry(name):
            yield from _sections(_parts(text), done)
        yield f"lua/{file}", _without_comments(text)


def _is_entry(name: str) -> bool:
    return resources.files("devroute.lua").joinpath(f"{name}.lua").is_file()


@cache
def _read(file: str) -> str:
    return resources.files("devroute.lua").joinpath(*file.split("/")).read_text(encoding="utf-8")


def _parts(text: str) -> list[str]:
    first = text.partition("\n")[0].removeprefix("-- parts: ")
    return [] if first == "none" else first.split(", ")


def _preface(text: str) -> str:
    """An entry's first comments, which say what the filter does and promises."""
    lines = []
    for line in text.split("\n")[2:]:
        if not line.startswith("--"):
            break
        lines.append(line)
    return "\n".join(
        [*lines, "--", "-- Generated by `devroute manifests` from the commented sources in lua/."]
    )


@cache
def _without_comments(text: str) -> str:
    """Code without comments, except for headings (`--- Traces`). Sources have no long brackets."""
    lines: list[str] = []
    for line in text.split("\n"):
        code = line if line.startswith("--- ") else _code(line)
        if code or (lines and lines[-1] and not line.strip()):
            lines.append(code)
    return "\n".join(lines).strip("\n")


def _code(line: str) -> str:
    """A line up to its comment."""
    outside = _STRING.sub(lambda string: "x" * len(string[0]), line)
    at = outside.find("--")
    return (line if at < 0 else line[:at]).rstrip()


def _lua(value: Constant) -> str:
    """A value as Lua writes it; of text in ASCII, JSON's notation is Lua's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_lua(each)}" for key, each in value.items()) + " }"
    if isinstance(value, tuple):
        return "{ " + ", ".join(map(_lua, value)) + " }"
    return json.dumps(value)
