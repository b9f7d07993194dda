"""Quality by group of queries along a curve, and the gap between groups (spec 2.7, 7a)."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.evaluation.curve import Curve
from fastfill.evaluation.report import Series
from tenfold import atomic


@dataclass(frozen=True)
class GroupCurves:
    """A metric of each group's queries at each point.

    Args:
        names: Groups G.
        betas: Backfilled share `[C]`.
        values: `[G, C]`.
        counts: Queries of each group that have an answer `[G]`.
    """

    names: tuple[str, ...]
    betas: NDArray[np.float64]
    values: NDArray[np.float64]
    counts: tuple[int, ...]

    @property
    def gap(self) -> NDArray[np.float64]:
        """Best minus worst group at each point `[C]`."""
        return self.values.max(0) - self.values.min(0)

    def gap_at(self, beta: float) -> float:
        """Return the gap at a backfilled share, on the line between the points beside it."""
        return float(np.interp(beta, self.betas, self.gap))


def group_curves(curve: Curve, groups: Sequence[str], *, metric: str = "map") -> GroupCurves:
    """Split a curve by group of queries; each searches the whole gallery.

    Args:
        curve: Of all queries.
        groups: Group of each query `[Q]`.
        metric: `map` or `cmc<k>`.

    Raises:
        ValueError: Another number of groups than of queries, fewer than two groups, or a group
            without a query that has an answer.
    """
    names = np.asarray(groups, dtype=str)
    if names.shape != (curve.ap.shape[1],):
        raise ValueError(f"groups has {names.size} entries for {curve.ap.shape[1]} queries")
    found = tuple(str(name) for name in np.unique(names))
    if len(found) < 2:
        raise ValueError(f"a gap needs two groups or more, got {', '.join(found) or 'none'}")
    answered = curve.ahead[0] >= 0
    counts = tuple(int((answered & (names == name)).sum()) for name in found)
    if 0 in counts:
        empty = found[counts.index(0)]
        raise ValueError(f"group {empty!r} has no query with a right answer; leave it out")
    values = [curve.of_queries(names == name).values(metric) for name in found]
    return GroupCurves(found, curve.betas, np.array(values), counts)


def mean_group_curves(series: Series, groups: Sequence[str], metric: str) -> GroupCurves:
    """Return the groups' curves of a series, averaged over its permutations."""
    each = [group_curves(curve, groups, metric=metric) for curve in series.curves]
    values = np.mean([one.values for one in each], axis=0)
    return GroupCurves(each[0].names, each[0].betas, values, each[0].counts)


def write_fairness(
    folder: Path, series: Sequence[Series], groups: Sequence[str], *, metric: str = "map"
) -> dict[str, Any]:
    """Write `fairness.csv`, `fairness.png` and `fairness.json`; return the figures.

    Args:
        folder: Made where missing.
        series: Arms and orders.
        groups: Group of each query.
        metric: `map` or `cmc<k>`.

    Raises:
        ValueError: As `group_curves`.
    """
    found = {each.name: mean_group_curves(each, groups, metric) for each in series}
    figures = {
        "metric": metric,
        "series": {
            name: {
                "groups": dict(zip(each.names, each.counts, strict=True)),
                "betas": each.betas.tolist(),
                "gap": each.gap.tolist(),
                "mean_gap": float(each.gap.mean()),
                "gap_at_30_percent": each.gap_at(0.3),
            }
            for name, each in found.items()
        },
    }
    atomic.write_text(folder / "fairness.csv", _csv(found, metric))
    _plot(found, metric, folder / "fairness.png")
    atomic.write_json(folder / "fairness.json", figures)
    return figures


def _csv(found: Mapping[str, GroupCurves], metric: str) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["series", "group", "metric", "beta", "value"])
    for name, each in found.items():
        lines = [*zip(each.names, each.values, strict=True), ("gap", each.gap)]
        for group, values in lines:
            for beta, value in zip(each.betas, values, strict=True):
                writer.writerow([name, group, metric, f"{beta:.6f}", f"{value:.6f}"])
    return text.getvalue()


def _plot(found: Mapping[str, GroupCurves], metric: str, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * (len(found) + 1), 4), layout="constrained")
    *panels, of_gap = figure.subplots(1, len(found) + 1)
    for axes, (name, each) in zip(panels, found.items(), strict=True):
        for group, values in zip(each.names, each.values, strict=True):
            axes.plot(each.betas, 100 * values, label=group)
        axes.set(title=name, xlabel="backfilled share", ylabel=f"{metric}, %")
        axes.legend(fontsize="small")
        of_gap.plot(each.betas, 100 * each.gap, label=name)
    of_gap.set(title="gap", xlabel="backfilled share", ylabel="best minus worst group, points")
    of_gap.legend(fontsize="small")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)
