"""Curves as CSV, PNG, JSON and a table, with intervals (spec 2.6, 4)."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastfill.evaluation.auc import auc_mean, auc_trapezoid, beta_star
from fastfill.evaluation.curve import Curve, bootstrap_bounds
from fastfill.evaluation.metrics import Scores
from tenfold import atomic
from tenfold.statistics import mean_interval


@dataclass(frozen=True)
class Series:
    """Curves that are one line of a figure.

    Args:
        arm: Which transformation or baseline.
        order: Which policy.
        curves: One, or one a permutation.
    """

    arm: str
    order: str
    curves: tuple[Curve, ...]

    def __post_init__(self) -> None:
        if not self.curves:
            raise ValueError(f"{self.name} has no curve")

    @property
    def name(self) -> str:
        """Arm and order."""
        return f"{self.arm} {self.order}"

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the metrics."""
        return ("map", *(f"cmc{k}" for k in self.curves[0].ks))


@dataclass(frozen=True)
class Band:
    """A metric at each point of a series, and the ends of its interval, `[C]` each.

    The interval is Student's over permutations, or of a bootstrap over queries for a single curve.
    """

    betas: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


@dataclass(frozen=True)
class Area:
    """Area below a series and its interval."""

    mean: float
    low: float
    high: float


def band(series: Series, metric: str) -> Band:
    """Return a metric of a series at each point."""
    curves = series.curves
    if len(curves) == 1:
        low, high = bootstrap_bounds(curves[0].per_query(metric))
        return Band(curves[0].betas, curves[0].values(metric), low, high)
    each = np.array([curve.values(metric) for curve in curves])
    low, mean, high = np.array([mean_interval(list(map(float, v))) for v in each.T]).T
    return Band(curves[0].betas, mean, low, high)


def area(series: Series, metric: str, *, trapezoid: bool = False) -> Area:
    """Return the area below a series."""
    curve, *others = series.curves
    if others:
        areas = [each.auc(metric, trapezoid=trapezoid) for each in series.curves]
        low, mean, high = mean_interval(areas)
        return Area(mean, low, high)
    values = curve.per_query(metric)
    widths = np.diff(curve.betas)
    each = widths @ (values[1:] + values[:-1]) / 2 if trapezoid else values.mean(0)
    low, high = bootstrap_bounds(each[None])
    return Area(float(each.mean()), float(low[0]), float(high[0]))


def summary(series: Sequence[Series], *, old: Scores | None = None) -> dict[str, Any]:
    """Return all figures of some series as JSON values.

    Args:
        series: Lines of the figure.
        old: Of the old model on the old gallery.
    """
    found: dict[str, Any] = {"series": [_figures(each) for each in series]}
    if old is not None:
        found["old"] = {"map": old.map, **{f"cmc{k}": old.cmc(k) for k in old.ks}}
    return found


def write_report(folder: Path, series: Sequence[Series], *, old: Scores | None = None) -> str:
    """Write `curves.csv`, `curves.png`, `summary.json` and `summary.md`; return the table.

    Args:
        folder: Made where missing.
        series: Lines of the figure.
        old: Of the old model on the old gallery, drawn as a reference.

    Raises:
        ValueError: There is no series, or two have one name.
    """
    names = [each.name for each in series]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"series must be at least one, each with its own name, got {names}")
    figures = summary(series, old=old)
    bands = {each.name: {m: band(each, m) for m in each.metrics} for each in series}
    atomic.write_text(folder / "curves.csv", _csv(series, bands))
    table = markdown(figures)
    plot(folder / "curves.png", bands, old=old)
    atomic.write_text(folder / "summary.md", table)
    atomic.write_json(folder / "summary.json", figures)
    return table


def markdown(figures: Mapping[str, Any]) -> str:
    """Lay out a summary as a markdown table, percent."""
    first = figures["series"][0]["metrics"]
    heads = ["arm", "order", *(f"{part} {m}" for m in first for part in ("h only", "AUC"))]
    heads += ["full map", "AUC map 95 %", "AUC map trapezoid", "beta* 95 %", "beta* 99 %"]
    lines = [heads, ["---"] * len(heads)]
    if "old" in figures:
        old = [f"{100 * figures['old'][m]:.2f}" for m in first for _ in range(2)]
        lines.append(["old/old", "-", *old, *([""] * 5)])
    for each in figures["series"]:
        cells = [each["arm"], each["order"]]
        for values in each["metrics"].values():
            cells += [f"{100 * values['first']:.2f}", f"{100 * values['auc']:.2f}"]
        of_map = each["metrics"]["map"]
        low, high = (100 * of_map[key] for key in ("auc_low", "auc_high"))
        cells += [f"{100 * of_map['last']:.2f}", f"{low:.2f} to {high:.2f}"]
        cells += [f"{100 * of_map['auc_trapezoid']:.2f}"]
        cells += [f"{of_map[key]:.3f}" for key in ("beta_star_95", "beta_star_99")]
        lines.append(cells)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def plot(path: Path, bands: Mapping[str, Mapping[str, Band]], *, old: Scores | None = None) -> None:
    """Draw one panel a metric as PNG."""
    from matplotlib.figure import Figure

    metrics = list(next(iter(bands.values())))
    figure = Figure(figsize=(5 * len(metrics), 4), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for name, of_metric in bands.items():
            each = of_metric[metric]
            axes.plot(each.betas, 100 * each.mean, label=name)
            axes.fill_between(each.betas, 100 * each.low, 100 * each.high, alpha=0.15)
        if old is not None:
            value = old.map if metric == "map" else old.cmc(int(metric[3:]))
            axes.axhline(100 * value, color="grey", linewidth=0.8, label="old/old")
        axes.set(xlabel="backfilled share", ylabel=f"{metric}, %")
        axes.legend(fontsize="small")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _figures(series: Series) -> dict[str, Any]:
    flips = [curve.flips for curve in series.curves if curve.flips is not None]
    return {
        "arm": series.arm,
        "order": series.order,
        "permutations": len(series.curves),
        "queries": int((series.curves[0].ahead[0] >= 0).sum()),
        "skipped": int((series.curves[0].ahead[0] < 0).sum()),
        "metrics": {metric: _of_metric(series, metric) for metric in series.metrics},
        "negative_flips": [float(v) for v in np.mean(flips, axis=0)] if flips else None,
    }


def _of_metric(series: Series, metric: str) -> dict[str, float]:
    betas = series.curves[0].betas
    values = np.mean([curve.values(metric) for curve in series.curves], axis=0)
    of_area = area(series, metric)
    return {
        "first": float(values[0]),
        "last": float(values[-1]),
        "lowest": float(values.min()),
        "auc": auc_mean(values),
        "auc_low": of_area.low,
        "auc_high": of_area.high,
        "auc_trapezoid": auc_trapezoid(betas, values),
        "beta_star_95": beta_star(betas, values, share=0.95),
        "beta_star_99": beta_star(betas, values, share=0.99),
    }


def _csv(series: Sequence[Series], bands: Mapping[str, Mapping[str, Band]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["arm", "order", "metric", "beta", "mean", "low", "high"])
    for each in series:
        for metric, found in bands[each.name].items():
            for row in zip(found.betas, found.mean, found.low, found.high, strict=True):
                writer.writerow([each.arm, each.order, metric, *(f"{value:.6f}" for value in row)])
    return text.getvalue()
