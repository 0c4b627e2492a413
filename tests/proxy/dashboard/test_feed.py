from typing import Any

from devroute.proxy.dashboard.feed import BATCH, Board, Feed


def row(kind: str = "laptop", **more: Any) -> dict[str, Any]:
    return {"kind": kind, **more}


def take(feed: Feed) -> tuple[list[str], list[str]]:
    """Ids of what has changed and of what is gone."""
    batches = list(feed.batches())
    changed = [each["id"] for batch in batches for each in batch["changed"]]
    return changed, [key for batch in batches for key in batch["gone"]]


async def test_a_page_gets_all_rows_and_then_what_changes() -> None:
    board = Board()
    board.update({"a": row(n=1), "b": row(n=1)})
    feed = Feed(board, admin=False)
    board.feeds.add(feed)
    assert take(feed) == (["a", "b"], [])
    assert take(feed) == ([], [])
    assert not feed.awake.is_set()
    board.update({"a": row(n=1), "b": row(n=1)})
    assert not feed.awake.is_set()  # the same again
    board.update({"a": row(n=2), "c": row(n=1)})
    assert feed.awake.is_set()
    assert take(feed) == (["a", "c"], ["b"])


async def test_a_slow_page_gets_a_row_once_as_it_is_then() -> None:
    board = Board()
    feed = Feed(board, admin=False)
    for number in range(5):
        board.update({"a": row(n=number), "gone-before-it-was-sent": row()})
    board.update({"a": row(n=9)})
    (batch,) = feed.batches()
    assert batch == {"changed": [{"id": "a", "kind": "laptop", "n": 9}], "gone": [], "synced": True}


async def test_a_page_without_any_row_is_synced_too_and_many_rows_come_in_parts() -> None:
    board = Board()
    assert [each["synced"] for each in Feed(board, admin=False).batches()] == [True]
    board.update({str(number): row() for number in range(2 * BATCH + 1)})
    assert [each["synced"] for each in Feed(board, admin=False).batches()] == [False, False, True]


async def test_only_administrators_see_who_is_blocked() -> None:
    board = Board()
    board.update({"block bob": row("block", subject="bob"), "a": row()})
    assert take(Feed(board, admin=False)) == (["a"], [])
    assert take(Feed(board, admin=True)) == (["block bob", "a"], [])
