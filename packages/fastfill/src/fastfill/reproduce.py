"""The verb `reproduce`: an update served at once, and better sooner by sigma (spec 7a).

Not here: what is measured (`study.py`, `bias_study.py`, `sequence_study.py`), concluded
(`claims.py`), and the scale `gpu` (`reproduce_gpu.py`).
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch

from fastfill.bias_study import SHARE, BiasedUpdate, measure_bias
from fastfill.claims import judge_bias, judge_sequence, judge_update
from fastfill.config import Method
from fastfill.demo_data import DEMOS, Demo
from fastfill.reproduce_gpu import compare_on_shapes
from fastfill.sequence_study import SEEN, SequenceOfUpdates, measure_sequence
from fastfill.study import PERMUTATIONS, STEPS, Update, measure
from fastfill.study_gpu import ShapeScale
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.measurements import Measurements, by_arm
from tenfold.results import Result, save_result, show_result

Scale = Literal["tiny", "small", "gpu"]


@dataclass(frozen=True, kw_only=True)
class Size:
    """What a scale measures.

    Attributes:
        methods: New models trained to be compatible, by demo: they cost as much again.
    """

    methods: Mapping[Demo, tuple[Method, ...]]


SCALES = {
    "tiny": Size(methods={"digits": ("bct", "ract"), "glyphs": ()}),
    "small": Size(methods={"digits": ("bct", "ract"), "glyphs": ("bct", "ract")}),
}


def reproduce(
    *,
    scale: Scale = "tiny",
    seeds: int | None = None,
    workers: int = 2,
    data: Path = Path("data/reproduce-fastfill"),
    out: Path = Path("results/fastfill"),
) -> int:
    """Compare FastFill with FCT, its own ablations, closed forms and compatible training.

    Args:
        scale: `tiny` takes minutes; `small` trains BCT and RACT on the characters too; `gpu` has
            ResNets on rendered images and a gallery of a million vectors, and needs a GPU.
        seeds: Updates of each kind: models, maps and orders anew; by default 5, and 2 at `gpu`.
        workers: Processes that train at a time, with one thread each; `gpu` has one, with all.
        data: Folder of what has been measured: the same command at the same commit goes on where
            it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are too few seeds or workers, or no GPU for the scale `gpu`.
    """
    seeds = _checked(seeds, workers, on_gpu=scale == "gpu")
    silence_adverts()
    kept = Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    if scale == "gpu":
        results = compare_on_shapes(ShapeScale(), folder, seeds=seeds, device="cuda")
    else:
        settings = {"scale": scale, "revision": kept.revision}
        results = _compare(scale, folder, settings, seeds=seeds, workers=workers)
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    return 0 if all(result.holds for result in results.values()) else 1


def _checked(seeds: int | None, workers: int, *, on_gpu: bool) -> int:
    """Return the number of seeds.

    Raises:
        ValueError: There are too few seeds or workers, or there is no GPU.
    """
    if on_gpu and not torch.cuda.is_available():
        raise ValueError(
            "scale gpu needs an NVIDIA GPU and torch sees none: run it on a machine with one, or "
            "take scale tiny"
        )
    seeds = (2 if on_gpu else 5) if seeds is None else seeds
    if seeds < (least := 1 if on_gpu else 2) or workers < 1:
        raise ValueError(f"seeds must be >= {least} and workers >= 1, got {seeds} and {workers}")
    return seeds


def _compare(
    scale: str, folder: Path, settings: Mapping[str, str], *, seeds: int, workers: int
) -> dict[str, Result]:
    """Measure updates, biased ones and sequences on small images, and judge."""
    updates = [
        Update(demo=demo, seed=seed, methods=SCALES[scale].methods[demo])
        for demo in reversed(get_args(Demo))  # the longest first
        for seed in range(seeds)
    ]
    biased = [BiasedUpdate(seed=seed) for seed in range(seeds)]
    measured = run_jobs(
        measure,
        {update.key: update for update in updates},
        out=folder,
        settings=settings,
        workers=workers,
        title="updates",
    )
    bias = run_jobs(
        measure_bias,
        {update.key: update for update in biased},
        out=folder,
        settings=settings,
        workers=workers,
        title="biased-updates",
    )
    sequences = run_jobs(
        measure_sequence,
        {update.key: update for update in map(SequenceOfUpdates, range(seeds))},
        out=folder,
        settings=settings,
        workers=workers,
        title="sequences",
    )
    results = {
        "bias_digits": judge_bias(by_arm(bias.values()), scale=scale, notes=BIAS_NOTES),
        "sequence_digits": judge_sequence(
            by_arm(sequences.values()), scale=scale, notes=SEQUENCE_NOTES
        ),
    }
    for demo in DEMOS:
        of_demo = [measured[update.key] for update in updates if update.demo == demo]
        results |= judge_update(by_arm(of_demo), demo=demo, scale=scale, notes=_notes(demo))
    return results


def _notes(demo: str) -> str:
    setting = DEMOS[demo]
    return (
        f"Old model on {setting.seen} classes, new one on all; h with inner 128, {STEPS} steps; "
        f"areas are means of 22 points, random is the mean of {PERMUTATIONS} orders; rates and "
        "steps were chosen on seed 0."
    )


BIAS_NOTES = (
    f"Digits upright (A) and turned (B), the old model saw {SHARE:.0%} of B; gaps are mAP of A's "
    "queries less that of B's, in points."
)

SEQUENCE_NOTES = (
    f"Three models of digits, trained on {SEEN[0]}, {SEEN[1]} and all ten classes; half of the "
    "gallery was embedded by the first and half by the second, and queries come from the third."
)
