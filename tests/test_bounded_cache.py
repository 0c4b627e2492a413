from devroute.bounded_cache import ENTRY_BYTES, BoundedCache


def test_its_size_stays_within_the_limit_whatever_is_put_in() -> None:
    cache: BoundedCache[int, str] = BoundedCache(100_000)
    for number in range(1000):
        cache.put(number, "value", number)
        assert cache.size <= 100_000
        assert cache.size >= len(cache) * ENTRY_BYTES
        assert cache.get(number) == "value"
    cache.put(1001, "too large", 100_000)
    assert cache.get(1001) is None
