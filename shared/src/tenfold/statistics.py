"""Intervals of what seeds have in common."""

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import NamedTuple


class Interval(NamedTuple):
    """A mean and the ends of its interval of confidence."""

    low: float
    mean: float
    high: float


def mean_interval(values: Sequence[float], *, confidence: float = 0.95) -> Interval:
    """Return Student's interval of the mean, of paired differences over seeds for instance.

    Raises:
        ValueError: Fewer than two values, or a confidence outside of (0, 1).
    """
    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, got {len(values)}: use more seeds")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie in (0, 1), got {confidence}")
    from scipy.stats import t  # half a second that only `reproduce` need pay

    quantile = float(t.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * stdev(values) / len(values) ** 0.5
    mean = fmean(values)
    return Interval(mean - half, mean, mean + half)
