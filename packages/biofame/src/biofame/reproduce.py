"""The verb `reproduce`: few labels and missing sensors, from real and procedural signals (spec 7a).

Not here: what is measured (`study.py`) and concluded (`claims.py`), and the scale `gpu`
(`reproduce_gpu.py`).
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from biofame.claims import Wording, judge, judge_ladder, with_gains
from biofame.reproduce_gpu import compare_on_gpu
from biofame.resident_gpu import gpu_place
from biofame.study import ARMS, INPUT, OPERATORS, SETTINGS, Demo, Trial, ladder, measure
from biofame.study_gpu import GpuScale
from tenfold.cli.quiet import silence_adverts
from tenfold.jobs import run_jobs
from tenfold.loader_workers import processors
from tenfold.measurements import Measurements, by_arm
from tenfold.results import Result, save_result, show_result

Scale = Literal["tiny", "small", "gpu"]

WORDINGS = {
    "sleep": Wording(
        "procedural sleep recordings",
        "60 people, 60 windows of 6 s of EEG, EOG, EMG and respiration each, five stages, split by "
        "person, 50 labels; arms share data, labels, patches (100 ms) and steps; settings were "
        "chosen on another seed's data.",
    ),
    "motions": Wording(
        "BasicMotions",
        "A watch's accelerometer and gyroscope, 32 training windows of four activities, 8 labels, "
        "40 test windows; RevIN off, as amplitude tells the activities apart. There is no other "
        "such data: its settings were chosen with these test windows in sight.",
    ),
}
CURVE = (25.0, 100.0, 200.0)
"""Labelled windows beside the setting's own, at scale small."""


def reproduce(
    *,
    scale: Scale = "tiny",
    seeds: int = 5,
    workers: int | None = None,
    data: Path = Path("data/reproduce-biofame"),
    out: Path = Path("results/biofame"),
) -> int:
    """Compare pre-trained with random weights, and latent with input masking.

    Args:
        scale: `tiny` takes minutes; `small` adds each change between the released settings and the
            demo's own, all filter operators, and other numbers of labels; `gpu` trains the
            published recipe on 200,000 windows and measures speed, and needs a GPU.
        seeds: Data, weights and labels anew in each; at `gpu` fine-tunings alone.
        workers: Processes: what trains at a time with one thread each, by default 2; at `gpu`, what
            draws recordings, by default one less than the cores.
        data: Folder of what has been measured: the same command at the same commit goes on where
            it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when every claim holds, 1 when one does not.

    Raises:
        ValueError: There are too few seeds or workers, or no GPU for the scale `gpu`.
    """
    if workers is None:
        workers = max(1, processors() - 1) if scale == "gpu" else 2
    if seeds < 2 or workers < 1:
        raise ValueError(f"seeds must be >= 2 and workers >= 1, got {seeds} and {workers}")
    place = gpu_place() if scale == "gpu" else None
    silence_adverts()
    kept = Measurements(data / "measured")
    folder = data / f"{scale}-{kept.revision}"
    if not kept.is_reusable:
        shutil.rmtree(folder, ignore_errors=True)
    if place is not None:
        results = compare_on_gpu(
            GpuScale(),
            folder,
            recordings=data / "recordings-gpu",
            out=out,
            seeds=seeds,
            workers=workers,
            place=place,
        )
    else:
        settings = {"scale": scale, "revision": kept.revision}
        results = _compare(scale, folder, settings, seeds=seeds, workers=workers)
    for file, result in results.items():
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    return 0 if all(result.holds for result in results.values()) else 1


def _compare(
    scale: Scale, folder: Path, settings: Mapping[str, str], *, seeds: int, workers: int
) -> dict[str, Result]:
    trials = plan(scale, seeds)
    measured = run_jobs(
        measure,
        {trial.key: trial for trial in trials},
        out=folder,
        settings=settings,
        workers=workers,
        title="trials",
    )
    results: dict[str, Result] = {}
    for demo in get_args(Demo):
        chosen = [t for t in trials if t.demo == demo and t.arm in ARMS]
        values = by_arm(measured[trial.key] for trial in chosen)
        results |= judge(values, demo=demo, wording=WORDINGS[demo], scale=scale)
    if scale == "small":
        chosen = [t for t in trials if t.demo == "sleep" and t.arm != INPUT]
        values = with_gains(by_arm(measured[trial.key] for trial in chosen))
        results["ladder_sleep"] = judge_ladder(values, wording=WORDINGS["sleep"], scale=scale)
    return results


def plan(scale: Scale, seeds: int) -> list[Trial]:
    """Return what is to be measured, the longest trials first."""
    budgets = {"sleep": CURVE if scale == "small" else (), "motions": ()}
    trials = [
        Trial(
            demo=demo,
            arm=arm,
            how=how,
            seed=seed,
            budgets=tuple(sorted({SETTINGS[demo].labels, *budgets[demo]})),
        )
        for demo in get_args(Demo)
        for arm, how in ARMS.items()
        for seed in range(seeds)
    ]
    if scale == "small":
        between = list(ladder().items())[1:-1]  # first and last are among the arms
        trials += [
            Trial(demo="sleep", arm=arm, how=how, seed=seed, subsets=False)
            for arm, how in [*between, *OPERATORS.items()]
            for seed in range(seeds)
        ]
    return trials
