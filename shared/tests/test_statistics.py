"""Intervals against textbook values."""

import pytest

from tenfold.statistics import mean_interval


def test_the_interval_is_students() -> None:
    # Quantile of t with 4 degrees of freedom at 0.975: 2.776445.
    interval = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.776445 * 2.5**0.5 / 5**0.5
    assert interval == pytest.approx((3.0 - half, 3.0, 3.0 + half), rel=1e-6)
    narrow = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0], confidence=0.5)
    assert interval.low < narrow.low < 3.0 < narrow.high < interval.high
    assert mean_interval([2.0, 2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("values", "confidence", "message"),
    [([1.0], 0.95, "two values or more, got 1"), ([1.0, 2.0], 1.0, r"in \(0, 1\), got 1.0")],
)
def test_bad_input(values: list[float], confidence: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(values, confidence=confidence)
