"""What a subject may have open over its links and the pools of its addresses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devroute.upstream.quota import Quota
from tests.support.examples import examples

LIMIT = 5


class Counted:
    """A link or pool, and how often it was asked what it has open."""

    def __init__(self) -> None:
        self.open = self.asked = 0

    @property
    def in_flight(self) -> int:
        self.asked += 1
        return self.open

    def limit_streams(self, most: int) -> None:
        raise AssertionError


def request(quota: Quota, link: Counted) -> bool:
    """Over a link, as TunnelUpstream opens it: the only link of a subject without pools does not ask."""
    admitted = not (len(quota.links) > 1 or quota.pools) or quota.admit()
    link.open += admitted
    return admitted


@pytest.mark.parametrize("limit", [200, 2048])
def test_links_are_not_added_up_for_each_request(limit: int) -> None:
    quota, links = Quota("alice", limit), [Counted() for _ in range(100)]
    for link in links:
        quota.join(link)
    for number in range(1000):
        link = links[number % 100]
        assert request(quota, link)
        link.open -= 1
    assert sum(each.asked for each in links) <= 100 * (1000 // limit + 1)


def test_what_has_ended_is_admitted_again_at_once() -> None:
    quota, links = Quota("alice", LIMIT), [Counted(), Counted()]
    for link in links:
        quota.join(link)
    assert [request(quota, links[0]) for _ in range(LIMIT + 2)] == [True] * LIMIT + [False] * 2
    links[0].open -= 1
    assert [request(quota, links[1]) for _ in range(2)] == [True, False]
    quota.limit += 1
    assert [request(quota, links[1]) for _ in range(2)] == [True, False]


STEPS = st.sampled_from(["request", "ended", "join", "leave", "pool", "request elsewhere", "limit"])


@given(st.lists(st.tuples(STEPS, st.integers(0, 3)), max_size=60))
@examples(200)
def test_a_request_is_admitted_if_and_only_if_there_is_room(steps: list[tuple[str, int]]) -> None:
    quota, links, pools = Quota("alice", LIMIT), [Counted() for _ in range(4)], [Counted() for _ in range(4)]
    quota.join(links[0])
    for step, number in steps:
        link, pool = links[number], pools[number]
        if step == "request" and link in quota.links:
            room = sum(each.open for each in (*quota.links, *quota.pools)) < quota.limit
            asked = len(quota.links) > 1 or bool(quota.pools)
            assert request(quota, link) == (room or not asked)
        elif step == "ended":
            link.open -= link.open > 0
        elif step == "join":
            quota.join(link)
        elif step == "leave" and len(quota.links) > 1 and link in quota.links:
            quota.links.remove(link)
            link.open = 0
        elif step == "pool":
            quota.add(pool)  # type: ignore[arg-type]
        elif step == "request elsewhere":  # of another subject, to the same address
            pool.open += 1
        elif step == "limit":
            quota.limit = LIMIT + number
