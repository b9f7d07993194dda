"""The claim at small scale: fewer seconds and a lower loss for the same tokens.

Each arm sees the same documents, tokens, steps and schedule (spec 7a): concat-and-chunk at the
longest length and dataset decomposition with the uniform and the Grow-P2 curriculum; at scale
`small` also the two baselines with a document mask. The time is the process's CPU time of training
alone, on one thread, since threads that wait for each other count as busy; the loss is that of each
held-out document scored alone, by position.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import lightning
import torch

from dataset_decomposition.bench import make_timer
from dataset_decomposition.claims import (
    BASELINE,
    OURS,
    Measured,
    judge_loss,
    judge_step_time,
    judge_time,
)
from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.heldout_loss import heldout_loss
from dataset_decomposition.module import DecompositionModule
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.settings import Method
from dataset_decomposition.step_timer import measure
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.measurements import Measurements, one_thread
from tenfold.optim import OptimConfig
from tenfold.results import save_result, show_result

log = logging.getLogger(__name__)

DOCUMENTS = "demo:documents/docstrings"
LONGEST = 11
TOKENS_PER_STEP = 4096
MODEL = ModelConfig(vocab_size=1024, dim=96, layers=3, heads=3)
LENGTHS = tuple(1 << k for k in range(5, LONGEST + 1))


class Arm(NamedTuple):
    """One way to batch the same documents: what `prepare` makes, and in which order it is seen."""

    method: Method
    curriculum: str = "uniform"
    cycles: int = 1


ARMS = {
    BASELINE: Arm("concat"),
    "DD uniform": Arm("dd"),
    OURS: Arm("dd", "grow_p2", 4),
    "concat-2048, document mask": Arm("concat_docmask"),
    "best fit, document mask": Arm("bestfit"),
}


@dataclass(frozen=True)
class Scale:
    """How long each arm trains, which arms there are, and how often a step is timed."""

    steps: int
    arms: tuple[str, ...]
    repeats: int


SCALES = {"tiny": Scale(60, tuple(ARMS)[:3], 3), "small": Scale(700, tuple(ARMS), 10)}


def reproduce(
    *,
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 2,
    data: Path = Path("data/reproduce"),
    out: Path = Path("results/dataset-decomposition"),
) -> int:
    """Check time and held-out loss at equal tokens against concat-and-chunk.

    Args:
        scale: `tiny` takes minutes on one CPU core and is too short to say anything of the loss,
            which is reported only; `small` takes an hour or more and judges everything.
        seeds: Runs of each arm.
        data: Folder for the prepared documents and what has been measured: the same command at the
            same commit goes on where it was interrupted.
        out: Folder of the result files and their plots.

    Returns:
        0 when what is judged holds in every seed, 1 when it does not.

    Raises:
        ValueError: `seeds` is not positive.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    silence_adverts()
    size = SCALES[scale]
    kept = Measurements(data / "measured")
    runs: dict[str, list[Measured]] = {arm: [] for arm in size.arms}
    times: list[dict[int, float]] = []
    with one_thread():
        for seed in range(seeds):
            name = f"{scale}-{size.steps}-seed{seed}"
            step_ms = kept.get(f"{name}-step-time", lambda: _step_times(size.repeats))
            times.append({int(length): ms for length, ms in step_ms.items()})
            for arm in size.arms:
                numbers = kept.get(
                    f"{name}-{arm}",
                    lambda arm=arm, seed=seed: _train(
                        ARMS[arm], seed=seed, steps=size.steps, data=data
                    ),
                )
                runs[arm].append(_measured(numbers))
                log.info("seed %d, %s: %.0f CPU s, loss %.3f", seed, arm, *runs[arm][-1][:2])
    notes = f"{size.steps} steps of {TOKENS_PER_STEP:,} tokens, one thread."
    timed, scored = judge_time(runs, scale, notes), judge_loss(runs, scale, notes)
    fitted = judge_step_time(times, scale, f"Medians of {size.repeats} steps, one thread.")
    for file, result in (("cpu_time", timed), ("heldout_loss", scored), ("step_time", fitted)):
        save_result(result, out / f"{file}_{scale}.json")
        show_result(result)
    judged = (timed, fitted) if scale == "tiny" else (timed, fitted, scored)
    return 0 if all(result.holds for result in judged) else 1


def _step_times(repeats: int) -> dict[str, float]:
    timer = make_timer(MODEL, LENGTHS, tokens=TOKENS_PER_STEP, device="cpu", precision="fp32")
    timings = measure(timer, LENGTHS, repeats=repeats)
    return {str(timing.length): timing.ms for timing in timings}


def _measured(numbers: dict[str, float]) -> Measured:
    bands = {name: value for name, value in numbers.items() if name not in ("seconds", "loss")}
    return Measured(numbers["seconds"], numbers["loss"], bands)


def _train(arm: Arm, *, seed: int, steps: int, data: Path) -> dict[str, float]:
    batches = _data(arm, seed=seed, steps=steps, data=data)
    batches.prepare_data()  # outside of the measured time
    lightning.seed_everything(seed, verbose=False)
    module = _module(steps)
    trainer = bare_trainer(steps, gradient_clip_val=1.0)
    started = time.process_time()
    trainer.fit(module, datamodule=batches)
    seconds = time.process_time() - started
    scorer = Scorer(
        module.decoder.eval(),
        trained_length=1 << LONGEST,
        batch_tokens=8192,
        device=torch.device("cpu"),
    )
    heldout = batches.dataset.heldout()
    longest = (1 << LONGEST) + 1  # positions that no arm has seen would tell them apart by chance
    documents = [heldout.document(n)[:longest] for n in range(heldout.num_documents)]
    loss = heldout_loss(scorer, documents)
    by_position = {band: group.nll_per_token or 0.0 for band, group in loss.by_position.items()}
    return {"seconds": seconds, "loss": loss.total.nll_per_document or 0.0, **by_position}


def _data(arm: Arm, *, seed: int, steps: int, data: Path) -> DecompositionData:
    return DecompositionData(
        data / arm.method,
        tokens_per_step=TOKENS_PER_STEP,
        total_steps=steps,
        curriculum=arm.curriculum,
        cycles=arm.cycles,
        mixture="natural",
        seed=seed,
        workers=0,
        prepare={
            "input": [f"{DOCUMENTS}/train"],
            "heldout": [f"{DOCUMENTS}/heldout"],
            "tokenizer": "bpe",
            "vocab_size": MODEL.vocab_size,
            "method": arm.method,
            "min_bucket": 5,
            "max_bucket": LONGEST,
            "mode": "overlap1",
            "seed": 0,
        },
    )


def _module(steps: int) -> DecompositionModule:
    return DecompositionModule(
        MODEL,
        LossConfig(),
        OptimConfig(
            lr=4e-3,
            min_lr=4e-5,
            warmup_steps=20,
            total_steps=steps,
            weight_decay=0.033,
            decay_all=True,
        ),
    )
