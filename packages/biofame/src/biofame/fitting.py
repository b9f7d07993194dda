"""Bring windows to one length."""

from collections import Counter
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from biofame.signals import interpolate_linear
from biofame.windows import Windows

Fit = Literal["trim", "pad", "interpolate"]


def fit_length(
    windows: Windows, *, length: int | None, fit: Fit, rate: float, counts: Counter[str]
) -> tuple[Windows, float]:
    """Return windows of `length` samples with their rate, which only `interpolate` changes.

    Args:
        windows: `[n, C, T]`.
        length: None leaves them as they are.
        fit: `trim` keeps the first samples and drops shorter windows; `pad` also keeps the first
            samples, but fills shorter windows with zeros; `interpolate` draws straight lines
            between samples, with no filter against aliases, as the released code does.
        rate: Of the windows.
        counts: Gets how many are dropped, cut or filled.

    Raises:
        ValueError: `fit` is unknown, or windows to be interpolated differ in length.
    """
    if length is None:
        return windows, rate
    old = windows.samples.shape[2]
    if fit == "interpolate":
        if windows.lengths is not None and (windows.lengths != old).any():
            raise ValueError(
                "windows of different lengths would get different rates by interpolation: use fit "
                "pad or trim"
            )
        if old == length:
            return windows, rate
        done = interpolate_linear(windows.samples, length)
        return replace(windows, samples=done, lengths=None), rate * length / old
    if fit not in get_args(Fit):
        raise ValueError(f"fit must be one of {', '.join(get_args(Fit))}, got {fit!r}")
    return _cut_or_filled(windows, length, fit, counts), rate


def _cut_or_filled(windows: Windows, length: int, fit: Fit, counts: Counter[str]) -> Windows:
    n, channels, old = windows.samples.shape
    valid = np.full(n, old) if windows.lengths is None else windows.lengths
    short = valid < length
    if fit == "trim":
        counts[f"dropped: shorter than {length} samples"] += int(short.sum())
        windows, valid, short = windows.take(~short), valid[~short], short[~short]
    counts[f"kept: cut to {length} samples"] += int((valid > length).sum())
    counts[f"kept: filled to {length} samples with zeros"] += int(short.sum())
    samples = np.zeros((len(valid), channels, length), dtype=np.float32)
    shared = min(old, length)
    samples[..., :shared] = windows.samples[..., :shared]
    lengths = np.minimum(valid, length) if short.any() else None
    return replace(windows, samples=samples, lengths=lengths)
