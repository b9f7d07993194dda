"""What `mismatch` found, as a table, CSV, JSON and a heat map."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from biofame.mismatch_conditions import MATCHED
from tenfold import atomic

ERRORS = ("mae", "rmse")
"""Scores that are better when smaller."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Scores of one model on one kind of windows.

    Attributes:
        kind: Of the mismatch.
        condition: What is different.
        windows: Test windows.
        note: How they were made.
        scores: By seed; a single one of a model that was given.
        against: The kind of the matched model that it is compared with.
    """

    kind: str
    condition: str
    windows: int
    note: str = ""
    scores: tuple[dict[str, float], ...]
    against: str = MATCHED

    def mean(self, metric: str) -> float:
        """Return the mean of a score over seeds."""
        return fmean(each[metric] for each in self.scores)

    def std(self, metric: str) -> float:
        """Return the sample standard deviation of a score over seeds; NaN for a single one."""
        values = [each[metric] for each in self.scores]
        return stdev(values) if len(values) > 1 and not any(map(math.isnan, values)) else math.nan


def relative_drop(tested: Outcome, reference: Outcome, metric: str) -> float:
    """Return by which share of the matched model's score a score is worse; negative if better."""
    matched, found = reference.mean(metric), tested.mean(metric)
    if matched == 0:
        return math.nan
    worse = found - matched if metric in ERRORS else matched - found
    return worse / abs(matched)


def rows_of(tested: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return a row for each test and score, with its drop against the matched model."""
    references = {each.kind: each for each in tested if each.against == each.kind}
    return [
        {
            "test": each.kind,
            "condition": each.condition,
            "metric": metric,
            "mean": each.mean(metric),
            "std": each.std(metric),
            "relative_drop": relative_drop(each, references[each.against], metric),
            "seeds": len(each.scores),
            "windows": each.windows,
            "note": each.note,
        }
        for each in tested
        for metric in each.scores[0]
    ]


def write_mismatch(folder: Path, tested: Sequence[Outcome], metric: str, **about: Any) -> None:
    """Write `mismatch.csv`, `mismatch.png` and last `mismatch.json`.

    Args:
        folder: Made where missing.
        tested: All tests.
        metric: Score of the heat map's colour.
        **about: JSON values that say how it was measured.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = rows_of(tested)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    atomic.write_text(folder / "mismatch.csv", text.getvalue())
    draw_heat_map(tested, folder / "mismatch.png")
    plain = [{name: _nullable(value) for name, value in row.items()} for row in rows]
    content = {"schema_version": 1, "metric": metric, **about, "rows": plain}
    atomic.write_json(folder / "mismatch.json", content)


def mismatch_table(tested: Sequence[Outcome], metric: str, *, title: str) -> Table:
    """Lay out a score and its drop for each test."""
    table = Table("test", "condition", "windows", metric, "relative drop", "note", title=title)
    for row in rows_of(tested):
        if row["metric"] != metric:
            continue
        spread = "" if math.isnan(row["std"]) else f" ± {row['std']:.3g}"
        drop = "n/a" if math.isnan(row["relative_drop"]) else f"{100 * row['relative_drop']:.1f} %"
        score = f"{row['mean']:.4g}{spread}"
        table.add_row(
            row["test"], row["condition"], f"{row['windows']:,}", score, drop, row["note"]
        )
    return table


def draw_heat_map(tested: Sequence[Outcome], path: Path) -> None:
    """Draw all scores of all tests; the colour is the relative drop."""
    from matplotlib.figure import Figure

    metrics = list(tested[0].scores[0])
    names = [f"{each.kind}: {each.condition}" for each in tested]
    drops = {(row["test"], row["condition"], row["metric"]): row for row in rows_of(tested)}
    figure = Figure(figsize=(3 + len(metrics), 1.5 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    grid = [
        [drops[each.kind, each.condition, metric]["relative_drop"] for metric in metrics]
        for each in tested
    ]
    image = axes.imshow(grid, aspect="auto", cmap="RdYlGn_r", vmin=-0.5, vmax=0.5)
    for row, each in enumerate(tested):
        for column, metric in enumerate(metrics):
            axes.text(column, row, f"{each.mean(metric):.3g}", ha="center", va="center", size=7)
    axes.set(yticks=range(len(names)), yticklabels=names)
    axes.set_xticks(range(len(metrics)), metrics, rotation=30, ha="right")
    figure.colorbar(image, label="relative drop")
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _nullable(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
