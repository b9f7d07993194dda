"""The token bucket, with a clock that the test sets."""

import pytest

from fastfill.rate import TokenBucket


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_bucket_keeps_the_rate_over_any_stretch() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, clock=clock)
    taken = 0
    for _ in range(50):
        clock.now += bucket.delay()
        assert bucket.delay() == pytest.approx(0)
        bucket.take(25)
        taken += 25
    # The first batch is free, each further one has waited for the one before.
    assert clock.now - 100 == pytest.approx((taken - 25) / 10)


def test_idle_time_saves_up_one_second_at_most() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, clock=clock)
    clock.now += 1000
    bucket.take(10)
    assert bucket.delay() == 0
    bucket.take(10)
    assert bucket.delay() == pytest.approx(1.0)


def test_rate_may_change_and_debts_stay() -> None:
    clock = Clock()
    bucket = TokenBucket(10.0, clock=clock)
    bucket.take(20)
    assert bucket.delay() == pytest.approx(2.0)
    bucket.set_rate(40.0)
    assert bucket.delay() == pytest.approx(0.5)
    bucket.set_rate(None)
    bucket.take(1000)
    assert bucket.delay() == 0
    assert bucket.rate is None


@pytest.mark.parametrize("rate", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate must be > 0"):
        TokenBucket(rate)
