"""The verb `reproduce`: an update served at once, and better sooner by sigma (spec 7a).

Not here: what is measured (`study.py`, `bias_study.py`) and concluded (`claims.py`).
"""

import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from fastfill.bias_study import SHARE, BiasedUpdate, measure_bias
from fastfill.claims import judge_bias, judge_update
from fastfill.config import Method
from fastfill.demo_data import DEMOS, Demo
from fastfill.study import PERMUTATIONS, STEPS, Update, measure
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.measurements import Measurements
from tenfold.results import save_result, show_result

Scale = Literal["tiny", "small"]


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
    seeds: int = 5,
    workers: int = 2,
    data: Path = Path("data/reproduce-fastfill"),
    out: Path = Path("results/fastfill"),
) -> int:
    """Compare FastFill with FCT, its own ablations, closed forms and compatible training.

    Args:
        scale: `tiny` takes minutes; `small` trains BCT and RACT on the characters too.
        seeds: Updates of each kind: models, maps and orders anew.
        workers: Processes that train at a time, with one thread each.
        data: Folder of what has been measured: the same command at the same commit goes on where
            it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are too few seeds or workers.
    """
    if seeds < 2 or workers < 1:
        raise ValueError(f"seeds must be >= 2 and workers >= 1, got {seeds} and {workers}")
    silence_adverts()
    kept = Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    updates = [
        Update(demo=demo, seed=seed, methods=SCALES[scale].methods[demo])
        for demo in reversed(get_args(Demo))  # the longest first
        for seed in range(seeds)
    ]
    biased = [BiasedUpdate(seed=seed) for seed in range(seeds)]
    settings = {"scale": scale, "revision": kept.revision}
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
    results = {"bias_digits": judge_bias(_by_arm(bias.values()), scale=scale, notes=BIAS_NOTES)}
    for demo in DEMOS:
        of_demo = [measured[update.key] for update in updates if update.demo == demo]
        results |= judge_update(_by_arm(of_demo), demo=demo, scale=scale, notes=_notes(demo))
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    return 0 if all(result.holds for result in results.values()) else 1


def _by_arm(seeds: Iterable[Any]) -> dict[str, dict[str, list[float]]]:
    """Return metric to arm to one value a seed."""
    values: dict[str, dict[str, list[float]]] = {}
    for measured in seeds:
        for metric, arms in measured.items():
            for arm, value in arms.items():
                values.setdefault(metric, {}).setdefault(arm, []).append(value)
    return values


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
