"""Whether predicted variances are true: Spearman and reliability of s (spec 8)."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from tenfold import atomic

Values = NDArray[np.floating]


@dataclass(frozen=True)
class Bin:
    """Items of neighbouring predictions: mean predicted variance, mean loss, how many."""

    predicted: float
    actual: float
    count: int


@dataclass(frozen=True)
class Calibration:
    """How well s foretells the loss it was trained to be the logarithm of.

    Args:
        spearman_loss: Rank correlation of s with the loss l of spec 2.2.
        spearman_residual: Rank correlation of s with the mean squared residual.
        bins: By ascending prediction.
        expected_error: Mean over items of their bin's |log10 predicted - log10 actual|.
    """

    spearman_loss: float
    spearman_residual: float
    bins: tuple[Bin, ...]
    expected_error: float

    def to_json(self) -> dict[str, Any]:
        """Return all figures as JSON values."""
        return asdict(self)


def item_losses(
    z: Values,
    new: Values,
    labels: NDArray[np.int64] | None = None,
    head: Values | None = None,
    *,
    mu_sim: float = 1.0,
    mu_disc: float = 1.0,
    label_smoothing: float = 0.1,
    rows: int = 16_384,
) -> NDArray[np.float64]:
    """Return the loss l of each item (spec 2.2), `[N]`.

    Args:
        z: Transformed embeddings `[N, d]`.
        new: New embeddings `[N, d]`.
        labels: Classes `[N]`; items with a negative one get the similarity alone.
        head: The new model's classifier `[K, d]`; left out with `labels` for the similarity alone.
        mu_sim: Weight of the mean squared residual.
        mu_disc: Weight of the cross-entropy.
        label_smoothing: Of the cross-entropy.
        rows: Items at a time.

    Raises:
        ValueError: Shapes do not fit, or a label is not a row of the head.
    """
    if z.shape != new.shape:
        raise ValueError(f"z has shape {z.shape} and new {new.shape}: give the same items")
    if labels is not None and head is not None and labels.max(initial=-1) >= len(head):
        raise ValueError(f"labels go up to {labels.max()}, but the head has {len(head)} rows")
    losses = np.empty(len(z))
    for start in range(0, len(z), rows):
        part = slice(start, start + rows)
        z_BD = np.asarray(z[part], dtype=np.float64)
        losses[part] = mu_sim * np.square(z_BD - new[part]).mean(1)
        if labels is not None and head is not None:
            logits_BK = torch.from_numpy(z_BD @ head.T.astype(np.float64))
            disc = F.cross_entropy(
                logits_BK,
                torch.from_numpy(np.asarray(labels[part], np.int64).clip(-1)),
                label_smoothing=label_smoothing,
                reduction="none",
                ignore_index=-1,
            )
            losses[part] += mu_disc * disc.numpy()
    return losses


def calibration(s: Values, losses: Values, residuals: Values, *, num_bins: int = 10) -> Calibration:
    """Compare predicted log-variances with true losses.

    Args:
        s: Predicted `[N]`.
        losses: True l `[N]`.
        residuals: True mean squared residuals `[N]`.
        num_bins: Bins of equally many items.

    Raises:
        ValueError: Fewer items than bins, other lengths, or values that are not finite.
    """
    if not s.shape == losses.shape == residuals.shape or s.ndim != 1:
        raise ValueError(f"shapes {s.shape}, {losses.shape}, {residuals.shape} must be one [N]")
    if not 1 <= num_bins <= len(s):
        raise ValueError(f"num_bins must lie in 1..{len(s)}, got {num_bins}")
    if not all(np.isfinite(each).all() for each in (s, losses, residuals)):
        raise ValueError("s and losses must be finite")
    parts = np.array_split(np.argsort(s, kind="stable"), num_bins)
    bins = tuple(
        Bin(float(np.exp(s[p].astype(np.float64)).mean()), float(losses[p].mean()), len(p))
        for p in parts
    )
    errors = [abs(_log10(each.predicted) - _log10(each.actual)) * each.count for each in bins]
    return Calibration(
        spearman(s, losses), spearman(s, residuals), bins, float(sum(errors) / len(s))
    )


def spearman(first: Values, second: Values) -> float:
    """Return the rank correlation, 0 where one side is constant."""
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    from scipy.stats import rankdata  # half a second, for this report alone

    return float(np.corrcoef(rankdata(first), rankdata(second))[0, 1])


def plot_calibration(found: Calibration, path: Path) -> None:
    """Draw predicted against true loss of each bin as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    predicted = [each.predicted for each in found.bins]
    actual = [each.actual for each in found.bins]
    ends = [min(predicted + actual), max(predicted + actual)]
    axes.plot(ends, ends, color="grey", linewidth=0.8)
    axes.plot(predicted, actual, "o-")
    scale = "log" if ends[0] > 0 else "linear"
    axes.set(xlabel="predicted exp(s)", ylabel="actual l", xscale=scale, yscale=scale)
    axes.set_title(f"Spearman of s and l: {found.spearman_loss:.3f}")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _log10(value: float) -> float:
    return float(np.log10(max(value, 1e-30)))
