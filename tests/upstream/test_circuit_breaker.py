from devroute.upstream.circuit_breaker import FAILURES, OPEN_SECONDS, CircuitBreaker


def opened(now: float) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(FAILURES):
        assert breaker.admits(now)
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_the_circuit_for_a_time() -> None:
    breaker = opened(100.0)
    assert not breaker.admits(100.0)
    assert not breaker.admits(100.0 + OPEN_SECONDS * 0.99)


def test_an_open_circuit_admits_one_attempt_at_a_time() -> None:
    breaker = opened(100.0)
    later = 100.0 + OPEN_SECONDS
    assert breaker.admits(later)
    assert not breaker.admits(later)
    breaker.failed(later + 0.5)
    assert not breaker.admits(later + OPEN_SECONDS)
    assert breaker.admits(later + 0.5 + OPEN_SECONDS)
    breaker.succeeded()
    assert breaker.admits(later + 0.5 + OPEN_SECONDS)
    assert breaker.admits(later + 0.5 + OPEN_SECONDS)


def test_an_attempt_without_an_outcome_does_not_block_the_next_ones_for_good() -> None:
    breaker = opened(0.0)
    assert breaker.admits(OPEN_SECONDS)
    assert breaker.admits(2 * OPEN_SECONDS)


def test_a_success_resets_the_count_of_failures() -> None:
    breaker = CircuitBreaker()
    for _ in range(3):
        for _ in range(FAILURES - 1):
            breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.admits(0.0)
