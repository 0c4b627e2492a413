from devroute.token_bucket import TokenBucket


def test_tokens_are_spent_earned_and_added_with_time() -> None:
    bucket = TokenBucket(2, 10, 0.0)
    assert [bucket.spend(0.0) for _ in range(3)] == [True, True, False]
    assert bucket.spend(0.15)
    assert not bucket.spend(0.15)
    bucket.earn(5)
    assert [bucket.spend(0.15) for _ in range(3)] == [True, True, False]
