"""Scores over seeds: mean and spread, as JSON, CSV and a table.

The verbs that measure write `scores.json`, each network's scores, which `report` collects.
"""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from tenfold import atomic

SCHEMA_VERSION = 1
SCORES = "scores.json"


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The test scores of one trained network.

    Attributes:
        arm: What was trained, such as `pre-trained`.
        condition: With what or on what, such as `10 % of labels`; "" where there is one only.
        seed: Of the training.
        scores: By name; NaN where a score is not defined.
    """

    arm: str
    condition: str = ""
    seed: int = 0
    scores: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One score of an arm under a condition, over seeds.

    Attributes:
        arm: As in `Scored`.
        condition: As in `Scored`.
        metric: Name of the score.
        mean: Over seeds; NaN where a seed has none.
        std: Sample standard deviation over seeds; NaN for a single one.
        per_seed: One value a seed.
    """

    arm: str
    condition: str
    metric: str
    mean: float
    std: float
    per_seed: tuple[float, ...]


def summarise(scored: Sequence[Scored]) -> list[Summary]:
    """Return mean and spread of each arm, condition and score, in the order of their appearance."""
    values: dict[tuple[str, str, str], list[float]] = {}
    for each in scored:
        for metric, value in each.scores.items():
            values.setdefault((each.arm, each.condition, metric), []).append(value)
    return [
        Summary(
            arm=arm,
            condition=condition,
            metric=metric,
            mean=fmean(found),
            std=stdev(found) if len(found) > 1 and not any(map(math.isnan, found)) else math.nan,
            per_seed=tuple(found),
        )
        for (arm, condition, metric), found in values.items()
    ]


def write_scores(folder: Path | None, scored: Sequence[Scored], **about: Any) -> list[Summary]:
    """Write `scores.json` and `scores.csv`, and return the summary.

    Args:
        folder: Made where missing; nothing is written without one.
        scored: Each network's scores.
        **about: JSON values that say how they were measured.
    """
    summary = summarise(scored)
    if folder is None:
        return summary
    folder.mkdir(parents=True, exist_ok=True)
    atomic.write_text(folder / "scores.csv", to_csv(summary))
    plain = {
        "schema_version": SCHEMA_VERSION,
        **about,
        "scored": [_plain(each) for each in scored],
        "summary": [_plain(each) for each in summary],
    }
    atomic.write_json(folder / SCORES, plain)
    return summary


def read_scores(path: Path) -> list[Scored]:
    """Read what `write_scores` wrote.

    Raises:
        ValueError: The file is damaged or of another schema version.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version, listed = content["schema_version"], content["scored"]
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema version {version}, this program reads {SCHEMA_VERSION}")
        return [
            Scored(
                arm=str(each["arm"]),
                condition=str(each["condition"]),
                seed=int(each["seed"]),
                scores=from_nullable(each["scores"]),
            )
            for each in listed
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no scores: {error}; measure again") from error


def from_nullable(scores: Mapping[str, float | None]) -> dict[str, float]:
    """Return scores from JSON, where NaN is null."""
    return {name: math.nan if value is None else float(value) for name, value in scores.items()}


def nullable(scores: Mapping[str, float]) -> dict[str, float | None]:
    """Return scores for JSON, which has no NaN."""
    return {name: None if math.isnan(value) else value for name, value in scores.items()}


def to_csv(summary: Sequence[Summary]) -> str:
    """Return the summary with a line for each arm, condition and score."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("arm", "condition", "metric", "mean", "std", "seeds", "per_seed"))
    for each in summary:
        numbers = (each.mean, each.std, len(each.per_seed))
        per_seed = " ".join(map(str, each.per_seed))
        writer.writerow((each.arm, each.condition, each.metric, *numbers, per_seed))
    return text.getvalue()


def to_table(summary: Sequence[Summary], *, title: str, metrics: Sequence[str] = ()) -> Table:
    """Lay out scores one below the other, each with its arms and conditions.

    A column for each score would not fit a terminal of 80 characters.

    Args:
        summary: What `summarise` gave.
        title: Above the table.
        metrics: Which scores, all by default.
    """
    shown = list(metrics) or list(dict.fromkeys(each.metric for each in summary))
    has_conditions = any(each.condition for each in summary)
    names = ("score", "arm", *(["condition"] if has_conditions else []), "mean ± spread", "seeds")
    table = Table(*names, title=title)
    for metric in shown:
        found = [each for each in summary if each.metric == metric]
        for each in found:
            where = (each.arm, each.condition) if has_conditions else (each.arm,)
            table.add_row(metric, *where, as_text(each), str(len(each.per_seed)))
        if len(found) > 1:
            table.add_section()
    return table


def as_text(summary: Summary) -> str:
    """Return `mean +- spread`, without the spread for a single seed."""
    if math.isnan(summary.mean):
        return "n/a"
    spread = "" if math.isnan(summary.std) else f" ± {summary.std:.3g}"
    return f"{summary.mean:.4g}{spread}"


def _plain(value: Scored | Summary) -> dict[str, Any]:
    """Return a dataclass as JSON values."""
    return {name: _without_nan(part) for name, part in asdict(value).items()}


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, Mapping):
        return {name: _without_nan(part) for name, part in value.items()}
    if isinstance(value, tuple):
        return [_without_nan(part) for part in value]
    return value
