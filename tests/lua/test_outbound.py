"""`outbound`, the filter of requests that a workload sends, and what `decide` keeps for it, under LuaJIT."""

from pathlib import Path

import pytest

from devroute.mesh.manifests import lua
from devroute.mesh.manifests.lua import KEPT_SECONDS, KEPT_TRACES
from tests.lua.worker import SETTINGS, Handle, Worker

CONTRACT = '{"bar":"alice"}'
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-00"


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Worker, Worker]:
    """What receives requests, and what sends them: two Lua states."""
    settings = SETTINGS | {"folder": str(tmp_path)}
    received = Worker(lua.source("decide", SETTINGS=settings), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    return received, Worker(lua.source("outbound", SETTINGS=settings))


def sent(worker: Worker, **headers: str) -> tuple[str | None, str | None]:
    handle: Handle = worker.request(**headers)
    assert (handle.cleared, handle.responded, worker.logged) == (False, None, [])
    return handle.sent("x-devroute"), handle.sent("x-devroute-via")


def test_a_contract_is_found_by_its_trace_for_a_minute(sides: tuple[Worker, Worker]) -> None:
    received, sending = sides
    assert sent(sending, traceparent=PARENT) == (None, None)
    received.request(CONTRACT, traceparent=PARENT, x_devroute_via="a, b")
    assert sent(sending, traceparent=PARENT) == (CONTRACT, "a, b")
    assert sent(sending, traceparent=PARENT.replace("4", "5")) == (None, None)
    sending.now += KEPT_SECONDS * 1000 - 1
    assert sent(sending, traceparent=PARENT) == (CONTRACT, "a, b")
    sending.now += 1
    assert sent(sending, traceparent=PARENT) == (None, None)
    sending.now = received.now - 1
    assert sent(sending, traceparent=PARENT) == (None, None), "a clock that was set back"


@pytest.mark.parametrize(
    ("came", "goes", "found"),
    [
        ({"traceparent": PARENT}, {"b3": f"{TRACE}-{SPAN}-1"}, True),
        ({"b3": f"{TRACE}-{SPAN}"}, {"x_b3_traceid": TRACE}, True),
        ({"x_b3_traceid": TRACE[16:]}, {"traceparent": f"00-{'0' * 16}{TRACE[16:]}-{SPAN}-00"}, True),
        ({"uber_trace_id": f"{TRACE}:{SPAN}:0:1"}, {"uber_trace_id": f"{TRACE}%3A{SPAN}%3A0%3A1"}, True),
        ({"x_request_id": "0c7d0b8e-41a3-4c1f-8b1e-6a1b5f6f7a11"}, {"traceparent": PARENT}, False),
        ({"x_request_id": "1"}, {"x_request_id": "1"}, False),
        ({"x_request_id": "../../../etc/passwd"}, {"x_request_id": "../../../etc/passwd"}, False),
        ({"x_request_id": "a" * 65}, {"x_request_id": "a" * 65}, False),
        ({"traceparent": f"00-{'0' * 32}-{SPAN}-00"}, {"traceparent": f"00-{'0' * 32}-{SPAN}-00"}, False),
    ],
)
def test_ids_of_a_trace(
    sides: tuple[Worker, Worker], came: dict[str, str], goes: dict[str, str], found: bool
) -> None:
    received, sending = sides
    received.request(CONTRACT, **came)
    assert sent(sending, **goes)[0] == (CONTRACT if found else None)


def test_what_goes_to_a_laptop_is_not_kept_and_what_has_a_contract_keeps_it(
    sides: tuple[Worker, Worker],
) -> None:
    received, sending = sides
    received.response = received.responds("devroute 1\ndecision detour\nservice foo\nttl 1000\n")
    assert received.request('{"foo":"x"}', traceparent=PARENT)["decision"] == "detour"
    assert sent(sending, traceparent=PARENT) == (None, None)
    received.request(CONTRACT, traceparent=PARENT)
    assert sent(sending, traceparent=PARENT, tracestate="devroute=@own") == (None, None)
    assert sent(sending, traceparent=PARENT, x_devroute="@own") == ("@own", None)


def test_the_number_of_files_is_bounded_and_another_trace_s_file_is_not_believed(tmp_path: Path) -> None:
    few = {"traces": 8, "seconds": KEPT_SECONDS}
    settings = SETTINGS | {"folder": str(tmp_path)}
    received = Worker(lua.source("decide", SETTINGS=settings, KEPT=few), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    sending = Worker(lua.source("outbound", SETTINGS=settings, KEPT=few))
    parents = [f"00-{number + 1:032x}-{SPAN}-00" for number in range(1 << 28, (1 << 28) + 40)]
    for number, parent in enumerate(parents):
        received.request(f'{{"c{number}":"x"}}', traceparent=parent)
    files = list(tmp_path.iterdir())
    assert 1 < len(files) <= few["traces"] < KEPT_TRACES
    found = [sent(sending, traceparent=parent)[0] for parent in parents]
    assert sum(each is not None for each in found) == len(files), "the last of each file"
    assert all(each in (None, f'{{"c{number}":"x"}}') for number, each in enumerate(found))
    for file in files:
        file.write_text(f"{received.now}\nother\n\n@forged")
    assert {sent(sending, traceparent=parent)[0] for parent in parents} == {None}


def test_a_folder_that_cannot_be_written_is_named_in_the_log(tmp_path: Path) -> None:
    settings = SETTINGS | {"folder": str(tmp_path / "away")}
    received = Worker(lua.source("decide", SETTINGS=settings), {"ISTIO_META_WORKLOAD_NAME": "foo"})
    handle = received.request(CONTRACT, traceparent=PARENT)
    assert handle["result"] == "service"
    (logged,) = received.logged
    assert "a contract cannot be kept for its trace: " in logged
    assert str(tmp_path / "away") in logged
