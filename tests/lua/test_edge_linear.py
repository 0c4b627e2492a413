"""Both filters of the edge take linear time for whatever a stranger sends: 60 KB of each shape that makes a
careless pattern quadratic, compared with one copy of the same length, byte by byte."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from devroute.mesh.manifests.gateway_filter import EdgeSettings, edge_source, front_source
from tests.lua.worker import Handle, Worker, runtime
from tests.support.cpu_time import cpu_seconds

SIZE = 60_000
#: How often the copy's time a filter may take. A quadratic one takes over a thousand times.
ALLOWED = 60

_, COPY = runtime('return { copied = function(text) return (text:gsub(".", "%0")) end }')


def repeated(piece: str, before: str = "", after: str = "") -> str:
    return before + piece * ((SIZE - len(before + after)) // len(piece)) + after


SHAPES = {
    "spaces": repeated(" ", "a=", "x"),
    "spaces in our value": repeated(" ", "devroute=", "x"),
    "spaces inside our value": repeated(" ", "devroute=x", "x"),
    "tabs inside our value": repeated("\t", "devroute=x", "x"),
    "spaces before our name": repeated(" ", after="devroute=x"),
    "spaces behind our name": repeated(" ", "devroute", "=x"),
    "tabs": repeated("\t", "devroute=", "x"),
    "spaces and tabs": repeated(" \t", "devroute=", "x"),
    "commas": repeated(",", "devroute=x"),
    "semicolons": repeated(";", "devroute=x"),
    "equals signs": repeated("=", "devroute=x"),
    "percent signs": repeated("%", "devroute="),
    "escapes": repeated("%64", "devroute="),
    "plus signs": repeated("+", "devroute="),
    "braces": repeated("{", "devroute="),
    "closing braces": repeated("} ", "devroute={", "x"),
    "our name": repeated("devroute"),
    "our members": repeated("devroute=x,"),
    "our cookies": repeated("devroute=x;"),
    "our parameters": repeated("devroute=x&"),
    "members alike": repeated("devroute ="),
    "properties": repeated(";devroute=x"),
    "small members": repeated("a=b,"),
    "points": repeated(".", "devroute=ey"),
    "spaces around a trace": repeated(" ", 'devroute={"devroute-trace"', "}"),
    "spaces in front of a trace": repeated(" ", "devroute={", f'"devroute-trace":"{"0" * 32}"'),
    "digits of a trace": repeated("0", 'devroute={"devroute-trace":"', '"}'),
    "a trace behind a signature": repeated("-devroute-trace-", "devroute=ey"),
    "letters": repeated("a", "devroute=ey"),
    "question marks": repeated("?", "devroute="),
}
PLACES: Mapping[str, Callable[[str], str]] = {
    "baggage": lambda text: text,
    "cookie": lambda text: text,
    "x-devroute": lambda text: text.removeprefix("devroute="),
    "x-devroute-trace": lambda text: text,
    ":path": lambda text: f"/?{text.replace(' ', '+').replace(chr(9), '+')}",
    "referer": lambda text: text,
}
SETTINGS = EdgeSettings(networks=("192.0.2.0/24",))


def python_of(value: Any) -> Any:
    """A Lua table as a list or a dict, as Envoy's metadata keeps it."""
    if not hasattr(value, "items"):
        return value
    items = dict(value.items())
    if all(isinstance(key, int) for key in items):
        return [python_of(each) for each in items.values()]
    return {key: python_of(each) for key, each in items.items()}


@pytest.mark.parametrize("place", PLACES)
def test_the_edge_takes_linear_time(place: str) -> None:
    front, edge = Worker(front_source(SETTINGS)), Worker(edge_source(SETTINGS))
    edge.response = edge.responds("devroute 1\nttl 1000\nentry all requests\n")
    failed = {}
    for shape, text in SHAPES.items():
        fields = {":method": "GET", ":path": "/?devroute=%7B%7D", ":authority": "foo"}
        fields[place] = PLACES[place](text)

        def run(fields: Mapping[str, str] = fields) -> None:
            first = front.handle(Handle(front, list(fields.items())))
            second = Handle(edge, first.fields)
            second.decided = {key: python_of(value) for key, value in first.decided.items()}
            edge.handle(second)
            edge.handle(second, "envoy_on_response")
            assert (first.worker.logged, second.worker.logged) == ([], [])

        allowed = ALLOWED * cpu_seconds(lambda text=text: COPY.copied(text))  # type: ignore[misc]
        if cpu_seconds(run, 1) > allowed and (found := cpu_seconds(run)) > allowed:  # perhaps once only
            failed[shape] = f"{found * 1000:.0f} ms of {allowed * 1000:.0f}"
    assert failed == {}
