"""Windows of biosignals with their labels, and what is true of all windows of a store.

Torch-free. A window that lacks a channel holds zeros there and False in `present`; one that is
shorter than the others holds zeros after its `lengths`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from biofame.signals import canonical_name

UNLABELLED = -1
SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """What is true of all windows of a store.

    Attributes:
        channels: Canonical names (`signals.canonical_name`), in the order of the samples.
        units: One for each channel; "" where unknown.
        rate: Samples per second.
        classes: Names of the labels 0, 1, ...
        targets: Names of the columns of `Windows.targets`.
        source: Where the windows came from, for people.
        dropped: Reason to number of windows that were left out, or of what was mended.
    """

    channels: tuple[str, ...]
    units: tuple[str, ...]
    rate: float
    classes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    source: str = ""
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.channels:
            raise ValueError("channels is empty: name at least one channel")
        for name in ("channels", "classes", "targets"):
            _check_once(name, getattr(self, name))
        for channel in self.channels:
            if canonical_name(channel) != channel:
                raise ValueError(
                    f"channel {channel!r} is not a canonical name: write it as "
                    f"{canonical_name(channel)!r}"
                )
        if len(self.units) != len(self.channels):
            raise ValueError(
                f"units must be one for each of the {len(self.channels)} channels, got "
                f"{len(self.units)}: {', '.join(self.units)}"
            )
        if not 0 < self.rate < math.inf:
            raise ValueError(f"rate must be > 0 samples per second, got {self.rate}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "channels": list(self.channels),
            "units": list(self.units),
            "rate": float(self.rate),
            "classes": list(self.classes),
            "targets": list(self.targets),
            "source": self.source,
            "dropped": dict(self.dropped),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "StoreInfo":
        """Rebuild what `to_json` gave; a missing field is a KeyError."""
        return cls(
            channels=tuple(value["channels"]),
            units=tuple(value["units"]),
            rate=float(value["rate"]),
            classes=tuple(value["classes"]),
            targets=tuple(value["targets"]),
            source=str(value["source"]),
            dropped={str(reason): int(count) for reason, count in value["dropped"].items()},
        )


@dataclass(frozen=True, kw_only=True)
class Windows:
    """Some windows of one length.

    Attributes:
        samples: float32 `[n, C, L]`.
        labels: int64 `[n]`, -1 where unknown; None where all are.
        targets: float32 `[n, K]` numbers, or 0 and 1 of several labels; None without.
        subjects: n names; "" where unknown.
        recordings: n names.
        onsets: float64 `[n]`, seconds since the recording's start.
        lengths: int64 `[n]`, valid samples; None where all L are.
        present: bool `[n, C]`, channels a window has; None where it has all.
        splits: n of "train", "val", "test" or "", which is none; None where no window has one.
    """

    samples: NDArray[np.float32]
    subjects: Sequence[str]
    recordings: Sequence[str]
    onsets: NDArray[np.float64]
    labels: NDArray[np.int64] | None = None
    targets: NDArray[np.float32] | None = None
    lengths: NDArray[np.int64] | None = None
    present: NDArray[np.bool_] | None = None
    splits: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if self.samples.ndim != 3 or 0 in self.samples.shape[1:]:
            raise ValueError(
                f"samples must be [windows, channels, time], got shape {self.samples.shape}"
            )
        self._check_counts()
        self._check_kinds()
        _check_splits(self.splits or ())
        if not np.isfinite(self.onsets).all():
            raise ValueError("an onset is NaN or infinite, expected seconds")
        if self.lengths is not None:
            _check_lengths(self.lengths, self.samples.shape[2])

    def __len__(self) -> int:
        return len(self.samples)

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_]) -> "Windows":
        """Return the windows of row numbers, or those where a mask is true."""
        places = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        arrays = ("samples", "onsets", "labels", "targets", "lengths", "present")
        taken: dict[str, Any] = {
            name: value[places] for name in arrays if (value := getattr(self, name)) is not None
        }
        for name in ("subjects", "recordings", "splits"):
            if (names := getattr(self, name)) is not None:
                taken[name] = [str(names[place]) for place in places]
        return Windows(**taken)

    def _check_counts(self) -> None:
        n, channels, _ = self.samples.shape
        for name in ("subjects", "recordings", "onsets", "labels", "targets", "lengths", "splits"):
            value = getattr(self, name)
            if value is not None and len(value) != n:
                raise ValueError(f"{name} has {len(value)} entries, expected one per {n} windows")
        if self.targets is not None and self.targets.ndim != 2:
            raise ValueError(f"targets must be [windows, K], got shape {self.targets.shape}")
        if self.present is not None and self.present.shape != (n, channels):
            raise ValueError(
                f"present must be [{n} windows, {channels} channels], got {self.present.shape}"
            )

    def _check_kinds(self) -> None:
        for name, kinds in (
            ("samples", "f"), ("onsets", "f"), ("labels", "iu"), ("targets", "f"),
            ("lengths", "iu"), ("present", "b"),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value.dtype.kind not in kinds:
                what = {"f": "floating point", "iu": "whole numbers", "b": "booleans"}[kinds]
                raise ValueError(f"{name} must be {what}, got {value.dtype}")


def _check_lengths(lengths: NDArray[np.int64], longest: int) -> None:
    wrong = (lengths < 1) | (lengths > longest)
    if wrong.any():
        raise ValueError(f"lengths must lie in 1..{longest}, got {lengths[wrong][0]}")


def _check_splits(splits: Sequence[str]) -> None:
    for split in set(splits):
        if split not in (*SPLITS, ""):
            raise ValueError(f"split {split!r} is unknown: use {', '.join(SPLITS)} or ''")


def _check_once(name: str, values: Sequence[str]) -> None:
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(f"{name} must name each once, got twice: {', '.join(twice)}")
