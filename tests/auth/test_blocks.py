import pytest

from devroute.auth.blocks import MAX_BLOCKS, Blocks
from devroute.errors import RequestMalformed, SubjectBlocked

NOW = 1_700_000_000.0


def is_blocked(blocks: Blocks, subject: str, now: float = NOW) -> bool:
    try:
        blocks.check(subject, now)
    except SubjectBlocked:
        return True
    return False


def test_a_block_names_its_end_and_its_reason() -> None:
    blocks = Blocks()
    blocks.add("bob", 3600, "carol", "the audit", NOW)
    with pytest.raises(SubjectBlocked) as caught:
        blocks.check("bob", NOW)
    assert caught.value.message == "'carol' has blocked 'bob' until 2023-11-14T23:13:20Z: the audit"
    assert not is_blocked(blocks, "bob--dev")
    assert not is_blocked(blocks, "bob", NOW + 3600)
    assert blocks.current(NOW + 3600) == []


def test_a_lifted_block_is_none_until_there_is_another() -> None:
    blocks = Blocks()
    assert blocks.lift("bob", "carol", NOW) is None
    blocks.add("bob", 60, "carol", "", NOW)
    assert blocks.lift("bob", "carol", NOW + 1) is not None
    assert blocks.lift("bob", "carol", NOW + 2) is None
    assert not is_blocked(blocks, "bob", NOW + 2)
    blocks.add("bob", 60, "carol", "", NOW + 3)
    assert is_blocked(blocks, "bob", NOW + 4)


def test_replicas_agree_in_whatever_order_changes_arrive() -> None:
    one, other = Blocks(), Blocks()
    one.add("bob", 600, "carol", "", NOW)
    first = one.encode()
    assert [each.subject for each in other.merge(first, NOW)] == ["bob"]
    assert other.merge(first, NOW) == []  # known already
    other.lift("bob", "carol", NOW + 1)
    assert one.merge(other.encode(), NOW + 1) == []  # nothing to enforce
    one.merge(first, NOW + 2)
    assert not is_blocked(one, "bob", NOW + 2)
    assert one.encode() == other.encode()


@pytest.mark.parametrize("ahead", [0.0, 5.0])
def test_a_change_is_later_than_what_it_changes_where_clocks_differ(ahead: float) -> None:
    one, other = Blocks(), Blocks()
    one.add("bob", 600, "carol", "", NOW + ahead)
    first = one.encode()
    other.merge(first, NOW)
    other.lift("bob", "carol", NOW)
    lifted = other.encode()
    other.merge(first, NOW)
    one.merge(lifted, NOW)
    assert not is_blocked(one, "bob")
    assert not is_blocked(other, "bob")
    other.add("bob", 60, "carol", "", NOW)
    other.merge(lifted, NOW)
    assert is_blocked(other, "bob")
    assert [each.until for each in one.merge(other.encode(), NOW)] == [NOW + 60]


@pytest.mark.parametrize(
    "raw",
    [
        *(b"", b"{}", b"[7]", b"[" + b"{}," * 100_000 + b"{}]"),
        b'[{"subject": "A B", "until": 9e9, "by": "carol", "reason": "", "changed": 1}]',
        b'[{"subject": "bob", "until": 9e9, "by": "carol", "reason": "%b", "changed": 1}]' % (b"x" * 201),
        b'[{"subject": "bob", "until": 1e300, "by": "carol", "reason": "", "changed": 1}]',
        b'[{"subject": "bob", "until": 9e9, "by": "carol", "reason": "", "changed": 1e999}]',
    ],
    ids=lambda raw: raw[:60].decode(),
)
def test_what_no_replica_would_send_is_ignored(raw: bytes) -> None:
    blocks = Blocks()
    assert blocks.merge(raw, NOW) == []
    assert blocks.current(NOW) == []


def test_there_are_limits() -> None:
    blocks = Blocks()
    for number in range(MAX_BLOCKS):
        blocks.add(f"s{number}", 60, "carol", "", NOW)
    with pytest.raises(RequestMalformed):
        blocks.add("one-more", 60, "carol", "", NOW)
    blocks.add("s1", 120, "carol", "", NOW)  # that is no further one
    blocks.add("one-more", 60, "carol", "", NOW + 61)
    assert [each.subject for each in blocks.current(NOW + 61)] == ["one-more", "s1"]
    assert len(blocks.encode()) < 128 * 1024
