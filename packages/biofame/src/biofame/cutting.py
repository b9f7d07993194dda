"""Cut long recordings into windows, label these by annotations, leave out gaps."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from biofame.quality import NOT_FINITE
from biofame.readers.part import Span
from biofame.signals import resampling_ratio
from biofame.windows import UNLABELLED, Windows

REMAINDER = "dropped: end of a recording, shorter than a window"
SHORT = "dropped: recording shorter than a window"
# Half the width of scipy's polyphase filter, in samples of the lower rate.
FILTER_REACH = 10
# Onsets of annotations are decimal fractions.
TOLERANCE = 1e-6


def fill_gaps(windows: Windows) -> tuple[Windows, NDArray[np.bool_]]:
    """Return the windows with zeros in place of NaN and infinity, and where these were, `[n, T]`.

    A filter would spread one NaN over a whole recording.
    """
    finite = np.isfinite(windows.samples)
    gaps = np.asarray(~finite.all(axis=1))
    if not gaps.any():
        return windows, gaps
    filled = np.where(finite, windows.samples, np.float32(0))
    return replace(windows, samples=filled), gaps


def cut(
    windows: Windows,
    *,
    seconds: float,
    rate: float,
    gaps: NDArray[np.bool_] | None,
    gaps_rate: float,
    spans: Sequence[Span] | None,
    classes: Sequence[str] | None,
    counts: Counter[str],
) -> Windows:
    """Return windows of `seconds`, one after the other, of each of the longer `windows`.

    What is left at the end is dropped, and so are windows with samples that were not finite or that
    a filter may have mixed with such. A window is labelled by the one annotation that covers it.

    Args:
        windows: `[n, C, T]`.
        seconds: Of a window; a whole number of samples.
        rate: Of `windows`.
        gaps: `[n, T']`, samples that were not finite, at their own rate.
        gaps_rate: That rate.
        spans: Annotations; None keeps the labels there are.
        classes: Texts of annotations that are labels, in order.
        counts: Gets what is dropped.

    Raises:
        ValueError: `seconds` is no whole number of samples.
    """
    length = whole_samples(seconds, rate)
    reach = _reach(rate, gaps_rate)
    n, channels, longest = windows.samples.shape
    valid = np.full(n, longest) if windows.lengths is None else windows.lengths
    pieces = valid // length
    counts[SHORT] += int((pieces == 0).sum())
    counts[REMAINDER] += int(((pieces > 0) & (valid % length > 0)).sum())
    rows = np.repeat(np.arange(n), pieces)
    numbers = np.concatenate([np.arange(count) for count in pieces]) if n else rows
    cuts = windows.samples[..., : longest // length * length].reshape(n, channels, -1, length)
    whole = replace(windows, lengths=None).take(rows)
    done = replace(
        whole,
        samples=np.ascontiguousarray(cuts[rows, :, numbers]),
        onsets=whole.onsets + numbers * (length / rate),
    )
    if spans is not None:
        done = replace(done, labels=_labels(done.onsets, seconds, spans, classes or ()))
    return _without_gaps(done, rows, numbers * seconds, seconds, gaps, gaps_rate, reach, counts)


def whole_samples(seconds: float, rate: float) -> int:
    """Return the samples of a window.

    Raises:
        ValueError: They are no whole number.
    """
    length = round(seconds * rate)
    if length < 1 or abs(length - seconds * rate) > TOLERANCE * length:
        raise ValueError(
            f"seconds {seconds:g} at {rate:g} samples per second are {seconds * rate:g} samples, "
            "expected a whole number: change seconds or resample"
        )
    return length


def _labels(
    onsets: NDArray[np.float64], seconds: float, spans: Sequence[Span], classes: Sequence[str]
) -> NDArray[np.int64]:
    covering: list[set[int]] = [set() for _ in onsets]
    for span in spans:
        if span.text not in classes:
            continue
        begins = onsets >= span.onset - TOLERANCE
        ends = onsets + seconds <= span.onset + span.duration + TOLERANCE
        for row in np.flatnonzero(begins & ends):
            covering[row].add(classes.index(span.text))
    found = [next(iter(labels)) if len(labels) == 1 else UNLABELLED for labels in covering]
    return np.asarray(found, dtype=np.int64)


def _without_gaps(
    windows: Windows,
    rows: NDArray[np.int64],
    starts: NDArray[np.float64],
    seconds: float,
    gaps: NDArray[np.bool_] | None,
    rate: float,
    reach: float,
    counts: Counter[str],
) -> Windows:
    if gaps is None or not gaps.any():
        return windows
    before = np.concatenate([np.zeros((len(gaps), 1), np.int64), gaps.cumsum(axis=1)], axis=1)
    last = gaps.shape[1]
    first = np.clip(np.floor((starts - reach) * rate).astype(np.int64), 0, last)
    end = np.clip(np.ceil((starts + seconds + reach) * rate).astype(np.int64), 0, last)
    whole = before[rows, end] == before[rows, first]
    counts[NOT_FINITE] += int((~whole).sum())
    return windows.take(whole)


def _reach(rate: float, gaps_rate: float) -> float:
    """Return the seconds over which resampling mixes samples."""
    return 0.0 if resampling_ratio(gaps_rate, rate) == 1 else FILTER_REACH / min(rate, gaps_rate)
