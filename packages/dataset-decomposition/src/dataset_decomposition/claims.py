"""What `reproduce` concludes from its measurements; the worst seed decides."""

from collections.abc import Sequence
from typing import NamedTuple

from dataset_decomposition.cost import StepTime, fit_step_time
from tenfold.results import Result, Row, judged

BASELINE, OURS = "concat-2048", "DD Grow-P2, 4 cycles"
LARGEST_RATIO = 0.85
LEAST_R2 = 0.95
TIME, LOSS = "train/cpu_s", "test/nll_per_document"


class Measured(NamedTuple):
    """CPU seconds of training; loss of held-out documents in nats a token, also by position."""

    seconds: float
    loss: float
    by_position: dict[str, float]


Runs = dict[str, list[Measured]]
"""One entry a seed, by arm."""


def judge_time(runs: Runs, scale: str, notes: str) -> Result:
    """Compare the CPU time of Grow-P2 with that of concat-and-chunk."""
    ratios = {arm: _ratios(runs, arm) for arm in runs if arm != BASELINE}
    rows = [Row.of(arm, TIME, [run.seconds for run in each]) for arm, each in runs.items()]
    rows += [Row.of(f"{arm} / {BASELINE}", "ratio/cpu_s", each) for arm, each in ratios.items()]
    return _result(
        f"The same tokens train in at most {LARGEST_RATIO} of concat-and-chunk's CPU time",
        "arXiv 2405.13226, table 5 (244 ms against 304 ms a step)",
        scale,
        rows,
        margin=LARGEST_RATIO - max(ratios[OURS]),
        notes=notes,
    )


def judge_loss(runs: Runs, scale: str, notes: str) -> Result:
    """Compare the loss of held-out documents after the same tokens."""
    pairs = zip(runs[OURS], runs[BASELINE], strict=True)
    margins = [theirs.loss - ours.loss for ours, theirs in pairs]
    rows = [Row.of(arm, LOSS, [run.loss for run in each]) for arm, each in runs.items()]
    for band in runs[OURS][0].by_position:
        rows += [
            Row.of(arm, f"test/nll_position_{band}", [run.by_position[band] for run in each])
            for arm, each in runs.items()
        ]
    return _result(
        "Held-out documents have a lower loss than after concat-and-chunk of the same tokens",
        "arXiv 2405.13226, table 5 (better by 2.9 points at equal tokens)",
        scale,
        rows,
        margin=min(margins),
        notes=notes,
    )


def judge_step_time(times: Sequence[dict[int, float]], scale: str, notes: str) -> Result:
    """Fit `T(L) = alpha + beta L` to the milliseconds by length of each seed."""
    fits: list[StepTime] = [fit_step_time(each) for each in times]
    rows = [
        Row.of(f"L = {length:,}", "step/cpu_ms", [each[length] for each in times])
        for length in times[0]
    ]
    rows += [
        Row.of("T(L)", "fit/r2", [fit.r2 for fit in fits]),
        Row.of("T(L)", "fit/alpha_ms", [fit.alpha_ms for fit in fits]),
        Row.of("T(L)", "fit/beta_ms_per_token", [fit.beta_ms for fit in fits]),
    ]
    return _result(
        f"At constant tokens a step's time is linear in the length, R2 above {LEAST_R2}",
        "arXiv 2405.13226, figure 7",
        scale,
        rows,
        margin=min(fit.r2 for fit in fits) - LEAST_R2,
        notes=notes,
    )


def _ratios(runs: Runs, arm: str) -> list[float]:
    pairs = zip(runs[arm], runs[BASELINE], strict=True)
    return [ours.seconds / theirs.seconds for ours, theirs in pairs]


def _result(
    claim: str, paper: str, scale: str, rows: list[Row], *, margin: float, notes: str
) -> Result:
    return judged(
        "dataset-decomposition",
        claim,
        paper=paper,
        scale=scale,
        rows=rows,
        margin=margin,
        notes=f"The margin is that of the worst seed. {notes}",
    )
