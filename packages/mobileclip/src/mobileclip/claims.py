"""What `reproduce` concludes from its measurements: paired differences over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tenfold.results import Result, Row, judged
from tenfold.statistics import mean_interval

REAL, BOTH, DR = "CLIP, real captions", "CLIP, both captions", "reinforced"
DR_75 = "reinforced, lambda 0.75"
DR_REAL, DR_SYNTHETIC = "reinforced, real captions", "reinforced, synthetic captions"
SINGLE, MISMATCHED = "reinforced, one teacher", "reinforced, mismatched views"
LARGEST_DIFFERENCE = 1e-5
PAPER = "arXiv 2311.17049"

Values = Mapping[str, Mapping[str, list[float]]]
"""Metric (`top1`, `kind`, `cpu_s`) to arm to one value a seed."""
NAMES = {"top1": "test/top1", "kind": "test/kind_top1", "cpu_s": "train/cpu_s"}


def judge(values: Values, differences: list[float], *, scale: str, notes: str) -> dict[str, Result]:
    """Judge the claims; what is not judged stands in the tables beside them.

    Args:
        values: Of `REAL`, `BOTH`, `DR`, and what else there is.
        differences: Largest one, in each seed, of weights that stored and live teachers led to.
        scale: Name of the scale; results of `glyphs` are of the kept scale `small`.
        notes: What a reader should know.

    Returns:
        Results by file name.
    """
    kept = "small" if scale == "glyphs" else scale
    results = {
        "captions": _gain(
            values,
            BOTH,
            REAL,
            claim="Synthetic captions beside the real ones help plain CLIP",
            paper="table 2 (ImageNet 44.5 to 51.9)",
            scale=kept,
            notes=notes,
        ),
        "reinforcement": _gain(
            values,
            DR,
            BOTH,
            claim="Stored teacher embeddings help beyond both captions",
            paper="table 2 (ImageNet 51.9 to 61.7)",
            scale=kept,
            notes=notes,
        ),
        "storing": judged(
            "mobileclip",
            "Training on stored embeddings is training beside the live teachers",
            paper=f"{PAPER}, section 3.2 (by construction)",
            scale=kept,
            rows=[Row.of("largest difference of a weight", "difference", differences)],
            margin=LARGEST_DIFFERENCE - max(differences),
            notes=f"{notes} Three steps each, float32 embeddings; the margin is what is left of "
            f"{LARGEST_DIFFERENCE}.",
        ),
    }
    typed = f"--scale {scale} "
    return {
        file: replace(result, command=result.command.replace(f"--scale {kept} ", typed))
        for file, result in results.items()
    }


def _gain(
    values: Values, ours: str, theirs: str, *, claim: str, paper: str, scale: str, notes: str
) -> Result:
    gains = paired_differences(values["top1"], ours, theirs)
    rows = [
        Row.of(arm, NAMES[metric], per_seed)
        for metric, arms in values.items()
        for arm, per_seed in arms.items()
    ]
    rows.append(Row.of(f"{ours} - {theirs}", "gain/top1", gains))
    return judged(
        "mobileclip",
        f"{claim}, by more than the 95 % interval of the mean",
        paper=f"{PAPER}, {paper}",
        scale=scale,
        rows=rows,
        margin=mean_interval(gains).low,
        notes=f"{notes} The margin is the lower end of the interval of the gain.",
    )


def paired_differences(arms: Mapping[str, Sequence[float]], ours: str, theirs: str) -> list[float]:
    """Return what one arm has more than another, seed by seed."""
    return [one - other for one, other in zip(arms[ours], arms[theirs], strict=True)]
