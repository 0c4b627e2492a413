"""PROTOCOL.md against the code: its table of frames, its flags, and its grammar of a stream."""

import itertools
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from devroute import tunnel
from devroute.errors import ProtocolError
from devroute.tunnel.protocol import frames
from devroute.tunnel.protocol.events import Broken
from devroute.tunnel.protocol.frames import (
    CREDITS_PER_WINDOW,
    FIRST_AGENT_ID,
    MAX_STREAMS,
    WINDOW,
    Flag,
    FrameType,
)
from devroute.tunnel.protocol.session import Role, Session
from devroute.tunnel.protocol.stream import BODY, CLOSED, FORBIDDEN, HEADLESS, NEXT
from devroute.tunnel.protocol.windows import LINK_GROWTH, MAX_WINDOW, PROCESS_GROWTH
from tests.support.wire import Wire

assert tunnel.__file__ is not None
DOCUMENT = (Path(tunnel.__file__).parent / "PROTOCOL.md").read_text(encoding="utf-8")
UNITS = {"": 1, "KiB": 1024, "MiB": 1024 * 1024}


class Row(NamedTuple):
    """A line of the table."""

    number: int
    name: str
    sender: str
    flags: frozenset[str]
    limit: int


def _rows() -> list[Row]:
    line = re.compile(
        r"^\| (\d+) ([A-Z]+) \| (\w+) \| ?([A-Z, ]*) \| .* \| (\d+) ?(KiB|MiB|) \|$", re.MULTILINE
    )
    return [
        Row(int(number), name, sender, frozenset(re.findall("[A-Z]+", flags)), int(size) * UNITS[unit])
        for number, name, sender, flags, size, unit in line.findall(DOCUMENT)
    ]


def _section(title: str) -> str:
    return DOCUMENT.split(f"## {title}\n")[1].split("\n## ")[0]


ROWS = _rows()
OF_LINK = set(
    re.findall(r"[A-Z]+", DOCUMENT.split("`stream` is 0 for ")[1].partition(", and an opened stream")[0])
)
FLAGS = {name: int(bit) for name, bit in re.findall(r"\b([A-Z]+) (\d+) \(", DOCUMENT.split("\nFlags: ")[1])}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)


def stream_of(row: Row) -> int:
    return 0 if row.name in OF_LINK else 1


def bits(names: frozenset[str]) -> int:
    return sum(FLAGS[name] for name in names)


# --- frames ------------------------------------------------------------------------------------------------


def test_the_table_has_the_types_and_the_text_the_flags_of_the_code() -> None:
    assert {row.name: row.number for row in ROWS} == dict(FrameType.__members__)
    assert dict(Flag.__members__) == FLAGS
    assert {row.name for row in ROWS} >= OF_LINK


@each_row
def test_a_header_that_the_table_allows_is_accepted(row: Row) -> None:
    for count in range(len(row.flags) + 1):
        for names in itertools.combinations(sorted(row.flags), count):
            frames.check_header(row.number, bits(frozenset(names)), stream_of(row), row.limit)


@each_row
def test_a_payload_over_its_limit_is_refused(row: Row) -> None:
    with pytest.raises(ProtocolError, match=f"^{row.name} of {row.limit + 1} bytes; at most {row.limit} "):
        frames.check_header(row.number, 0, stream_of(row), row.limit + 1)


@each_row
def test_a_flag_that_the_table_does_not_name_is_refused(row: Row) -> None:
    for flag in {1 << place for place in range(8)} - {FLAGS[name] for name in row.flags}:
        with pytest.raises(ProtocolError, match=f"^{row.name} with flags {flag:#04x}"):
            frames.check_header(row.number, flag, stream_of(row), 0)


@each_row
def test_a_frame_of_the_link_on_a_stream_is_refused_and_the_reverse(row: Row) -> None:
    other = 1 - stream_of(row)
    with pytest.raises(ProtocolError, match=f"^{row.name} on stream {other}$"):
        frames.check_header(row.number, 0, other, 0)


@pytest.mark.parametrize("number", sorted({0, 15, 16, 255} - {row.number for row in ROWS}))
def test_a_type_that_the_table_does_not_name_is_refused(number: int) -> None:
    with pytest.raises(ProtocolError, match=f"^frame type {number} is unknown$") as caught:
        frames.check_header(number, 0, 1, 0)
    assert "upgrade" in caught.value.hint


# --- who sends what ----------------------------------------------------------------------------------------

PAYLOADS = {
    "OPEN": b"\0" * 8 + b"\1aGET / HTTP/1.1\r\n\r\n",
    "RESET": b"\n\n",
    "GOAWAY": b"\n\n",
    "CREDIT": b"\0\0\0\1",
}


def allows(receiver: Session, row: Row) -> bool:
    """Whether this side takes such a frame; what else is wrong with it does not count."""
    payload = PAYLOADS.get(row.name, b"")
    header = frames.HEADER.pack(row.number, 0, stream_of(row), len(payload))
    events = receiver.receive(header + payload)
    return not any(
        isinstance(each, Broken) and "is not allowed here" in each.error.message for each in events
    )


@each_row
def test_only_the_sides_of_the_table_send_a_frame(row: Row) -> None:
    if row.name in ("HELLO", "WELCOME"):
        proxy, agent = Session(Role.PROXY), Session(Role.AGENT)
    else:
        wire = Wire()
        proxy, agent = wire.proxy, wire.agent
    sender = {(True, True): "both", (True, False): "agent", (False, True): "proxy"}
    assert sender[allows(proxy, row), allows(agent, row)] == row.sender


def test_with_reach_both_sides_send_what_opens_a_stream_and_its_response() -> None:
    both = {
        row.name
        for row in ROWS
        if allows(Wire(reach=True).proxy, row) and allows(Wire(reach=True).agent, row)
    }
    text = _section("Reach")
    assert both == {row.name for row in ROWS if row.sender == "both"} | {"OPEN", "HEAD"}
    assert "may the agent send OPEN, and the\nproxy HEAD" in text
    assert f"count up from {FIRST_AGENT_ID}, and the proxy's end at {FIRST_AGENT_ID - 1}" in text


# --- streams -----------------------------------------------------------------------------------------------

#: A letter for each frame that may move a half, as the code and as the grammar have it.
LETTERS = {
    "i": (FrameType.HEAD, Flag.INFORMATIONAL),
    "h": (FrameType.HEAD, 0),
    "H": (FrameType.HEAD, Flag.END),
    "d": (FrameType.DATA, 0),
    "D": (FrameType.DATA, Flag.END),
    "e": (FrameType.END, 0),
    "t": (FrameType.TRAILERS, 0),
}
SYMBOLS = {"HEAD(informational)*": "i*", "HEAD": "h", "OPEN": "", "DATA*": "d*", "(END|TRAILERS)": "[et]"}


def _grammar(half: str) -> re.Pattern[str]:
    """The frames of a half, in order, as a pattern over LETTERS; of a request those after its OPEN."""
    line = re.search(
        rf"^    {half} \(.*?\)  +(.*?)  +END may be a flag of (HEAD|OPEN) or the last DATA$", DOCUMENT, re.M
    )
    assert line is not None
    symbols = [SYMBOLS[symbol] for symbol in line[1].replace(" | ", "|").split()]
    whole = "".join(symbols)
    on_data = whole.replace("[et]", "D")
    on_head = whole.replace("hd*[et]", "H")
    return re.compile(f"{whole}|{on_data}|{on_head}" if line[2] == "HEAD" else f"{whole}|{on_data}")


@pytest.mark.parametrize(("half", "state"), [("request", BODY), ("response", HEADLESS)])
def test_a_half_takes_the_frames_of_the_grammar_and_no_others(half: str, state: int) -> None:
    grammar = _grammar(half)
    for length in range(6):
        for word in map("".join, itertools.product(LETTERS, repeat=length)):
            now = state
            for kind, flags in (LETTERS[letter] for letter in word):
                now = NEXT[now][kind * 4 + flags] if now != FORBIDDEN else FORBIDDEN
            assert (now == CLOSED) is bool(grammar.fullmatch(word)), word


def test_limits_of_streams_and_credit_are_those_of_the_text() -> None:
    assert f"At most {MAX_STREAMS} streams are open at once" in _section("Stream")
    assert f"at most {WINDOW // 1024 // 1024} MiB of DATA payload" in _section("Credit")
    assert f"has at most {MAX_WINDOW // WINDOW} MiB" in _section("Credit")
    assert f"at most {LINK_GROWTH // WINDOW} MiB beyond 1 MiB each for a link" in _section("Credit")
    assert f"and {PROCESS_GROWTH // WINDOW} MiB\nfor a process" in _section("Credit")
    assert CREDITS_PER_WINDOW == 8
    assert "once they amount to an eighth of the window" in _section("Credit")
