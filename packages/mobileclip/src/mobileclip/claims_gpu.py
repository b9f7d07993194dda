"""What `reproduce --scale gpu` concludes: too few seeds for intervals, so every seed must agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from mobileclip.claims import BOTH, DR, PAPER, paired_differences
from tenfold.results import Result, Row, judged

ONLINE = "live teachers"
LEAST_SPEED = 0.95
"""Of the pairs a second of plain CLIP (spec 7b)."""
LEAST_GAIN = 0.01
"""Of top-1, over CLIP: arms that have learnt nothing are equal."""
LARGEST_LOSS = 0.01
"""Of top-1, against live teachers."""
NAMES = {
    "top1": "test/composition_top1",
    "image_to_text_r1": "test/image_to_text_r1",
    "text_to_image_r1": "test/text_to_image_r1",
    "pairs_per_s": "time/pairs_per_s",
    "busy_share": "gpu/busy_share",
    "peak_gib": "mem/peak_gib",
}
"""Metrics as they are called in result files."""
SCORES = ("top1", "image_to_text_r1", "text_to_image_r1")

Values = Mapping[str, Mapping[str, Sequence[float]]]
"""Metric to arm to one value a seed."""


@dataclass(frozen=True, kw_only=True)
class Storage:
    """Bytes of one sample's embeddings.

    Attributes:
        measured: In the shards.
        formula: (views + captions) x width x 2.
    """

    measured: float
    formula: float


def judge_gpu(values: Values, storage: Storage, *, notes: str) -> dict[str, Result]:
    """Judge the claims of the arms `BOTH`, `DR` and `ONLINE`.

    Args:
        values: What was measured; `peak_gib` on a GPU alone.
        storage: Bytes of the stored embeddings.
        notes: What a reader should know.

    Returns:
        Results by file name.
    """
    return {
        "reinforcement": _reinforcement(values, notes),
        "storing": _storing(values, notes),
        "cost": _cost(values, storage, notes),
    }


def _reinforcement(values: Values, notes: str) -> Result:
    gains = paired_differences(values["top1"], DR, BOTH)
    rows = [row for metric in SCORES for row in _rows(values, metric)]
    rows.append(Row.of(f"{DR} - {BOTH}", "gain/composition_top1", gains))
    return _result(
        "Stored teacher embeddings help beyond both captions on compositions that no training "
        "has seen, by one point or more in every seed",
        "table 2 (ImageNet 51.9 to 61.7)",
        rows,
        margin=min(gains) - LEAST_GAIN,
        notes=f"{notes} The margin is the smallest gain less one point.",
    )


def _storing(values: Values, notes: str) -> Result:
    differences = paired_differences(values["top1"], DR, ONLINE)
    rows = [
        *_rows(values, "top1"),
        Row.of(f"{DR} - {ONLINE}", "gain/composition_top1", differences),
    ]
    return _result(
        "Storing loses nothing: stored embeddings teach within one point of the live teachers",
        "section 3.2 (by construction)",
        rows,
        margin=fmean(differences) + LARGEST_LOSS,
        notes=f"{notes} The margin is the mean difference plus one point.",
    )


def _cost(values: Values, storage: Storage, notes: str) -> Result:
    speed = values["pairs_per_s"]
    to_clip, online = _ratios(speed, DR, BOTH), _ratios(speed, ONLINE, DR)
    rows = [
        row
        for metric in ("pairs_per_s", "busy_share", "peak_gib")
        if metric in values
        for row in _rows(values, metric)
    ]
    rows += [
        Row.of(f"{DR} / {BOTH}", "ratio/pairs_per_s", to_clip),
        Row.of(f"{ONLINE} / {DR}", "ratio/pairs_per_s", online),
        # One set of shards serves all seeds.
        Row.of("stored embeddings", "bytes/sample", [storage.measured] * len(to_clip)),
        Row.of("formula", "bytes/sample", [storage.formula] * len(to_clip)),
    ]
    return _result(
        f"Training on stored embeddings sees {LEAST_SPEED} or more of the pairs a second of CLIP "
        "on both captions",
        "section 3.2 (no overhead in training)",
        rows,
        margin=fmean(to_clip) - LEAST_SPEED,
        notes=f"{notes} Pairs a second are those of the median step after the warm-up, waiting for "
        f"its batch included; the margin is their mean ratio less {LEAST_SPEED}.",
    )


def _result(claim: str, paper: str, rows: list[Row], *, margin: float, notes: str) -> Result:
    return judged(
        "mobileclip",
        claim,
        paper=f"{PAPER}, {paper}",
        scale="gpu",
        rows=rows,
        margin=margin,
        notes=notes,
    )


def _rows(values: Values, metric: str) -> list[Row]:
    return [Row.of(arm, NAMES[metric], per_seed) for arm, per_seed in values[metric].items()]


def _ratios(arms: Mapping[str, Sequence[float]], ours: str, theirs: str) -> list[float]:
    return [one / other for one, other in zip(arms[ours], arms[theirs], strict=True)]
