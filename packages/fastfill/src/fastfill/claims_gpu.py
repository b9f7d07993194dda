"""What `reproduce --scale gpu` concludes about the gallery that is searched during a backfill."""

from collections.abc import Mapping
from dataclasses import replace

from fastfill.claims import PAPER
from tenfold.results import Result, Row, judged

LEAST_RECALL = 0.8
"""Of the 10 nearest, at every quarter of the backfill."""
LEAST_RATE = 0.95
"""Of the rate that was asked for, in every quarter."""

NAMES = {
    "recall_at_10": "test/recall_at_10",
    "queries_per_s": "time/queries_per_s",
    "written_per_s": "time/written_per_s",
    "items_per_s": "time/items_per_s",
    "trainings": "index/trainings",
}
"""Metrics as they are called in result files."""

Values = Mapping[str, Mapping[str, float]]


def judge_gallery(values: Values, *, rate: float, seeds: int, notes: str) -> dict[str, Result]:
    """Judge recall and rate of writing; speeds stand in the tables.

    Args:
        values: Of `gallery_gpu.measure_gallery`: metric to arm to value.
        rate: Items a second that were asked for.
        seeds: Of the command; the gallery is measured once.
        notes: What a reader should know.

    Returns:
        Results by file name.
    """
    rows = [
        Row.of(arm, NAMES[metric], [value])
        for metric, arms in values.items()
        for arm, value in arms.items()
    ]

    def claim(text: str, margin: float) -> Result:
        result = judged(
            "fastfill",
            text,
            paper=f"{PAPER}, none: the paper has no index",
            scale="gpu",
            rows=rows,
            margin=margin,
            notes=notes,
        )
        return replace(result, command=f"uv run fastfill reproduce --scale gpu --seeds {seeds}")

    return {
        "gallery_recall": claim(
            f"A search by cells finds {LEAST_RECALL:.0%} or more of the 10 nearest at every "
            "quarter of a backfill",
            min(values["recall_at_10"].values()) - LEAST_RECALL,
        ),
        "gallery_rate": claim(
            f"An index with cells takes {LEAST_RATE:.0%} or more of {rate:g} items a second in "
            "every quarter of a backfill, searched and retrained meanwhile",
            min(values["written_per_s"].values()) / rate - LEAST_RATE,
        ),
    }
