"""What a backfill will bring and cost, before it starts (spec 10); numpy only."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SHARES = (0.05, 0.1, 0.25, 0.5, 1.0)
"""Shares of the gallery for which a plan says the cost."""

POINTS = 200
"""Points of a predicted curve, besides its first."""

LOSS = "share of predicted loss removed"


class Forecast(NamedTuple):
    """A quality that is expected as the gallery fills with new vectors.

    Attributes:
        shares: Of live items with a new vector, ascending, `[C]`.
        quality: At these, `[C]`.
        metric: What the quality is.
    """

    shares: NDArray[np.float64]
    quality: NDArray[np.float64]
    metric: str

    def at(self, share: float) -> float:
        """Return the quality at a share, by lines between the points."""
        return float(np.interp(share, self.shares, self.quality))

    def among(self, planned: int, *, live: int) -> "Forecast":
        """Return the forecast for a gallery in which other items came with a new vector.

        Args:
            planned: Items that the shares are of.
            live: These and the others.
        """
        return self._replace(shares=(live - planned + self.shares * planned) / live)

    def pairs(self) -> list[tuple[float, float]]:
        """Return the points as JSON values."""
        return list(zip(self.shares.tolist(), self.quality.tolist(), strict=True))


@dataclass(frozen=True)
class Cost:
    """What it takes until a share of the gallery has new vectors.

    Args:
        share: Of live items.
        items: To embed until then.
        seconds: That this takes; None where the speed is not known.
        quality: Expected then.
    """

    share: float
    items: int
    seconds: float | None
    quality: float


def forecast_from_s(
    s_waiting: NDArray[np.floating], s_done: NDArray[np.floating], *, live: int, new: int
) -> Forecast:
    """Return the share of predicted loss, the sum of exp(s), that is gone after each item.

    An item's loss is gone once its vector is the new model's: at the optimum of the objective
    exp(s) is the loss (spec 2.2).

    Args:
        s_waiting: Of the items that wait, in the order of embedding.
        s_done: Of those that were transformed once and have a new vector already.
        live: Items of the gallery.
        new: Of these, with a new vector.

    Raises:
        ValueError: The gallery is empty.
    """
    if live < 1:
        raise ValueError("the gallery has no items: there is nothing to plan")
    every = np.concatenate([s_waiting, s_done]).astype(np.float64)
    # The largest counts as 1: sums neither overflow nor vanish.
    losses = np.exp(every - every.max(initial=-np.inf)) if every.size else every
    gone = losses[len(s_waiting) :].sum() + np.append(0, np.cumsum(losses[: len(s_waiting)]))
    total = gone[-1]
    quality = gone / total if total > 0 else np.ones_like(gone)
    places = np.unique(np.linspace(0, len(s_waiting), POINTS + 1).round().astype(np.int64))
    return Forecast((new + places) / live, quality[places], LOSS)


def stop_share(forecast: Forecast, gain: float) -> float:
    """Return the least share after which the rest would add less than `gain` to the quality.

    1 for a gain of 0, which is never reached before the end.

    Raises:
        ValueError: `gain` is negative.
    """
    if not gain >= 0:
        raise ValueError(f"stop_gain must be >= 0, got {gain}")
    # The best that is still to come, since a measured curve may dip.
    best = np.maximum.accumulate(forecast.quality[::-1])[::-1]
    enough = np.flatnonzero(best - forecast.quality < gain)
    return float(forecast.shares[enough[0]]) if len(enough) else 1.0


def costs(
    forecast: Forecast,
    *,
    live: int,
    new: int,
    waiting: int,
    img_per_s: float | None,
    shares: Sequence[float] = SHARES,
) -> list[Cost]:
    """Return the cost of some shares; those that are reached cost nothing.

    Args:
        forecast: Of the quality.
        live: Items of the gallery.
        new: Of these, with a new vector.
        waiting: Items that may be embedded.
        img_per_s: Speed of the new model, None where it is not known.
        shares: Of the gallery.
    """
    found = []
    for share in shares:
        items = min(max(0, int(share * live + 1e-9) - new), waiting)
        seconds = items / img_per_s if img_per_s else None
        found.append(Cost(share, items, seconds, forecast.at(max(share, new / live))))
    return found
