"""The history on disk: what is kept, within which bounds, and what happens to a file that is damaged."""

import asyncio
import json
import stat
from pathlib import Path

import pytest

from devroute.inspector import history
from devroute.inspector.capture import Capture, CapturedHead, Message
from devroute.inspector.history import HEADER, HistoryFile, Redact, keeping
from devroute.inspector.inspection import About, Inspection
from devroute.inspector.redaction import redaction
from devroute.inspector.store import CaptureStore
from tests.support.eventually import eventually

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "WRITE_SECONDS", 0.0)


def capture(target: str = "/", body: bytes = b'{"a": 1}') -> Capture:
    made = Capture("shop", "POST", target, 1_700_000_000.5, 10.0)
    made.sent, made.responded, made.ended = 10.001, 10.021, 10.022
    made.status, made.reason, made.state = 200, "OK", "done"
    made.request_head = CapturedHead.of([("host", "shop"), ("authorization", "Bearer abc.def-123456")])
    made.response_body.data, made.response_body.size = bytearray(body), len(body)
    made.response_body.complete = made.request_body.complete = True
    return made


def redacting(store: CaptureStore) -> Redact:
    return Inspection(store, None, About({})).redact  # type: ignore[arg-type]  # nothing is replayed


async def run(
    path: Path, *captures: Capture, store: CaptureStore | None = None
) -> tuple[CaptureStore, list[str]]:
    """One `devroute up` that records these."""
    store = CaptureStore() if store is None else store
    reports: list[str] = []
    async with keeping(store, path, reports.append, redacting(store)):
        await loaded()
        for each in captures:
            store.add(each)
    return store, reports


async def loaded() -> None:
    """Wait until the histories of this loop have nothing to load."""
    for _ in range(100):
        await asyncio.sleep(0)


def targets(store: CaptureStore) -> list[tuple[int, str]]:
    return [(each.id, each.target) for each in store.newest_first()]


async def test_captures_are_there_after_a_restart_under_the_same_ids(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    rpc = capture("/shop.Orders/Place")
    rpc.kind, rpc.trailers = "grpc", [("grpc-status", "5")]
    rpc.messages = [Message(0.001, True, "binary", b"\x08\x2a", 2)]
    rpc.direction = "out"
    rpc.comparison = [{"where": "status", "left": "200", "right": "404"}]
    before, reports = await run(path, capture("/one"), rpc)
    store, more = await run(path, capture("/three"))
    assert reports == more == []
    assert targets(store) == [(3, "/three"), (2, "/shop.Orders/Place"), (1, "/one")]
    again, original = store.get(2), before.get(2)
    assert again is not None
    assert original is not None
    for name in ("direction", "kind", "trailers", "comparison", "status", "started", "grpc_status"):
        assert getattr(again, name) == getattr(original, name)
    assert again.messages[0].data == b"\x08\x2a"
    assert [key for key, _ in targets((await run(path))[0])] == [3, 2, 1]


async def test_a_history_of_before_there_were_directions_is_all_incoming(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, capture("/old"))
    path.write_bytes(path.read_bytes().replace(b'"direction": "in", ', b""))
    assert b"direction" not in path.read_bytes()
    store, reports = await run(path)
    assert reports == []
    assert [each.direction for each in store.newest_first()] == ["in"]


async def test_only_redacted_text_reaches_the_disk_and_only_for_its_owner(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, capture(body=b'{"password": "hunter2", "note": "kept"}'))
    text = path.read_text()
    assert "kept" in text
    assert "abc.def" not in text
    assert "hunter2" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    # Rules that were added since count for what is loaded too.
    store, _ = await run(path, store=CaptureStore(redact=redaction(["note"])))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (loaded,) = store.newest_first()
    assert b"kept" not in loaded.response_body.data


async def test_cleared_captures_are_cleared_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    store = CaptureStore()
    async with keeping(store, path, print, redacting(store)):
        store.add(capture("/old"))
        await eventually(lambda: b"/old" in path.read_bytes())
        store.clear()
        store.add(capture("/new"))
        await eventually(lambda: b"/new" in path.read_bytes())
        assert b"/old" not in path.read_bytes()


async def test_the_file_stays_within_its_bound_and_keeps_the_newest(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    store = CaptureStore(max_total=100_000)
    async with keeping(store, path, print, redacting(store)):
        for number in range(40):
            store.add(capture(f"/{number}", b"x" * 8000))
            await eventually(lambda number=number: f'/{number}"'.encode() in path.read_bytes())
            assert path.stat().st_size <= 110_000
    again, _ = await run(path, store=CaptureStore(max_total=100_000))
    assert targets(again)[0] == (40, "/39")
    assert len(again) >= 4


@pytest.mark.parametrize(
    ("damage", "left", "report"),
    [
        (lambda data: data[:-40], ["/one"], "1 of 2 requests in the inspector's history could not be read"),
        (lambda data: data.replace(b'{"id": 1', b'{"id": x'), ["/two"], "1 of 2 requests"),
        (lambda data: data.replace(b'"id": 1,', b'"id": -1,'), ["/two"], "1 of 2 requests"),
        (lambda data: data + b"[" * 100_000 + b"\n", ["/two", "/one"], "1 of 3 requests"),
        (lambda data: data.replace(b'"entry": {', b'"entry": 7, "_": {', 1), ["/two"], "1 of 2"),
        (lambda data: b"\0" * 4096, [], "could not be read: it is no history of this version of devroute"),
        (lambda data: data.replace(b'history": 1', b'history": 2'), [], "it is no history of this version"),
        (lambda data: b"", [], "it is no history"),
    ],
)  # fmt: skip
async def test_a_damaged_file_is_read_as_far_as_it_goes(
    tmp_path: Path, damage: "object", left: list[str], report: str
) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, capture("/one"), capture("/two"))
    assert callable(damage)
    path.write_bytes(damage(path.read_bytes()))
    store, reports = await run(path)
    assert [target for _, target in targets(store)] == left
    (line,) = reports
    assert report in line
    _, reports = await run(path, capture("/three"))
    assert reports == []  # it is in order again
    assert targets((await run(path))[0])[0][1] == "/three"
    if not left:
        assert path.with_suffix(".unreadable").exists()


async def test_of_two_at_once_the_second_keeps_none_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    async with keeping(CaptureStore(), path, print, redacting(CaptureStore())):
        _, reports = await run(path, capture("/lost"))
        assert reports == [
            "another devroute up has the inspector's history of these services: this one keeps none"
        ]
    assert targets((await run(path))[0]) == []


async def test_a_disk_that_is_full_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> bool:
        raise OSError(28, "No space left on device")

    reports: list[str] = []
    store = CaptureStore()
    async with keeping(store, tmp_path / "history.jsonl", reports.append, redacting(store)):
        monkeypatch.setattr(HistoryFile, "add", full)
        for _ in range(3):
            store.add(capture())
            await asyncio.sleep(0)
        await eventually(lambda: reports)
    assert reports == ["the inspector's history is not written any more: No space left on device"]


async def test_a_file_of_a_larger_limit_is_read_from_its_end(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, *(capture(f"/{number}", b"x" * 8000) for number in range(20)))
    assert path.read_bytes().startswith(HEADER)
    lines = HistoryFile(path, 30_000).read()
    assert 5 <= len(lines) < 10
    assert [json.loads(line)["id"] for line in lines] == list(range(21 - len(lines), 21))


async def test_requests_that_arrive_while_it_loads_come_after_the_old_ones(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, *(capture(f"/{number}") for number in range(50)))
    for ends_early in (True, False):
        store = CaptureStore()
        async with keeping(store, path, print, redacting(store)):
            new = store.add(capture("/new"))
            assert len(store) == 1
            if not ends_early:
                await loaded()
        assert new.id == (51 if ends_early else 52)
    assert [number for number, _ in targets(store)] == list(range(52, 0, -1))
    assert len((await run(path))[0]) == 52


async def test_what_was_cleared_while_it_loads_does_not_come_back(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, *(capture(f"/{number}") for number in range(50)))
    store = CaptureStore()
    async with keeping(store, path, print, redacting(store)):
        await asyncio.sleep(0)
        store.clear()
        await loaded()
        assert len(store) == 0
    assert len((await run(path))[0]) == 0


async def test_with_too_little_room_the_newest_are_restored(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    await run(path, *(capture(f"/{number}", b"x" * 8000) for number in range(20)))
    store, _ = await run(path, store=CaptureStore(max_total=60_000))
    assert targets(store)[0] == (20, "/19")
    assert 3 <= len(store) < 8
    assert store.total == sum(each.stored_bytes for each in store.newest_first()) <= 60_000
