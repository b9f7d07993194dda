"""The claim at small scale: fewer seconds and a lower loss for the same tokens.

Each arm sees the same documents, tokens, steps and schedule (spec 7a): concat-and-chunk at the
longest length and dataset decomposition with the uniform and the Grow-P2 curriculum; at scale
`small` also the two baselines with a document mask. The time is the process's CPU time of training
alone; the loss is that of each held-out document scored alone, by position.
"""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import lightning
import torch

from dataset_decomposition.config import LossConfig, ModelConfig
from dataset_decomposition.data import DecompositionData
from dataset_decomposition.heldout_loss import heldout_loss
from dataset_decomposition.module import DecompositionModule
from dataset_decomposition.scoring import Scorer
from dataset_decomposition.settings import Method
from tenfold.cli.quiet import silence_adverts
from tenfold.optim import OptimConfig
from tenfold.results import Result, Row, save_result, show_result, this_machine
from tenfold.runs import git_revision

log = logging.getLogger(__name__)

LARGEST_RATIO = 0.85
TIME_CLAIM = "The same tokens train in at most 0.85 of concat-and-chunk's CPU time"
LOSS_CLAIM = "Held-out documents have a lower loss than after concat-and-chunk of the same tokens"
TIME, LOSS = "train/cpu_s", "test/nll_per_document"
DOCUMENTS = "demo:documents/docstrings"
LONGEST = 11


class Arm(NamedTuple):
    """One way to batch the same documents: what `prepare` makes, and in which order it is seen."""

    method: Method
    curriculum: str = "uniform"
    cycles: int = 1


BASELINE, OURS = "concat-2048", "DD Grow-P2, 4 cycles"
ARMS = {
    BASELINE: Arm("concat"),
    "DD uniform": Arm("dd"),
    OURS: Arm("dd", "grow_p2", 4),
    "concat-2048, document mask": Arm("concat_docmask"),
    "best fit, document mask": Arm("bestfit"),
}


@dataclass(frozen=True)
class Scale:
    """How long each arm trains, and which arms there are."""

    steps: int
    arms: tuple[str, ...]


SCALES = {"tiny": Scale(60, tuple(ARMS)[:3]), "small": Scale(700, tuple(ARMS))}


class Measured(NamedTuple):
    """CPU seconds of training; loss of held-out documents in nats a token, also by position."""

    seconds: float
    loss: float
    by_position: dict[str, float]


def reproduce(
    *,
    scale: Literal["tiny", "small"] = "tiny",
    seeds: int = 2,
    data: Path = Path("data/reproduce"),
    out: Path = Path("results/dataset-decomposition"),
) -> int:
    """Check time and held-out loss at equal tokens against concat-and-chunk.

    Args:
        scale: `tiny` takes minutes on two CPU cores and is too short to say anything of the loss,
            which is reported only; `small` takes an hour or more and judges both.
        seeds: Runs of each arm.
        data: Folder for the prepared documents.
        out: Folder of the result files and their plots.

    Returns:
        0 when what is judged holds in every seed, 1 when it does not.

    Raises:
        ValueError: `seeds` is not positive.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    silence_adverts()
    steps, arms = SCALES[scale].steps, SCALES[scale].arms
    runs: dict[str, list[Measured]] = {arm: [] for arm in arms}
    for seed in range(seeds):
        for arm in arms:
            measured = _measure(ARMS[arm], seed=seed, steps=steps, data=data)
            runs[arm].append(measured)
            log.info("seed %d, %s: %.0f CPU s, loss %.3f", seed, arm, *measured[:2])
    timed, scored = _judge_time(runs, scale), _judge_loss(runs, scale)
    for name, result in (("cpu_time", timed), ("heldout_loss", scored)):
        save_result(result, out / f"{name}_{scale}.json")
        show_result(result)
    return 0 if timed.holds and (scored.holds or scale == "tiny") else 1


def _measure(arm: Arm, *, seed: int, steps: int, data: Path) -> Measured:
    batches = _data(arm, seed=seed, steps=steps, data=data)
    batches.prepare_data()  # outside of the measured time
    lightning.seed_everything(seed, verbose=False)
    module = _module(steps)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        gradient_clip_val=1.0,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
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
    return Measured(seconds, loss.total.nll_per_document or 0.0, by_position)


def _data(arm: Arm, *, seed: int, steps: int, data: Path) -> DecompositionData:
    return DecompositionData(
        data / arm.method,
        tokens_per_step=4096,
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
            "vocab_size": 1024,
            "method": arm.method,
            "min_bucket": 5,
            "max_bucket": LONGEST,
            "mode": "overlap1",
            "seed": 0,
        },
    )


def _module(steps: int) -> DecompositionModule:
    return DecompositionModule(
        ModelConfig(vocab_size=1024, dim=96, layers=3, heads=3),
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


def _judge_time(runs: dict[str, list[Measured]], scale: str) -> Result:
    pairs = zip(runs[OURS], runs[BASELINE], strict=True)
    ratios = [ours.seconds / theirs.seconds for ours, theirs in pairs]
    rows = [Row.of(arm, TIME, [run.seconds for run in measured]) for arm, measured in runs.items()]
    rows += [Row.of("Grow-P2 / concat", "ratio/cpu_s", ratios)]
    paper = "arXiv 2405.13226, table 5 (244 ms against 304 ms a step)"
    return _result(TIME_CLAIM, paper, scale, rows, margin=LARGEST_RATIO - max(ratios))


def _judge_loss(runs: dict[str, list[Measured]], scale: str) -> Result:
    pairs = zip(runs[OURS], runs[BASELINE], strict=True)
    margins = [theirs.loss - ours.loss for ours, theirs in pairs]
    rows = [Row.of(arm, LOSS, [run.loss for run in measured]) for arm, measured in runs.items()]
    for band in runs[OURS][0].by_position:
        rows += [
            Row.of(arm, f"test/nll_position_{band}", [run.by_position[band] for run in measured])
            for arm, measured in runs.items()
        ]
    paper = "arXiv 2405.13226, table 5 (better by 2.9 points at equal tokens)"
    return _result(LOSS_CLAIM, paper, scale, rows, margin=min(margins))


def _result(claim: str, paper: str, scale: str, rows: list[Row], *, margin: float) -> Result:
    seeds = len(rows[0].per_seed)
    return Result(
        claim=claim,
        paper=paper,
        scale=scale,
        command=f"uv run dataset-decomposition reproduce --scale {scale} --seeds {seeds}",
        commit=git_revision() or "unknown",
        seeds=tuple(range(seeds)),
        rows=tuple(rows),
        margin=margin,
        holds=margin >= 0,
        machine=this_machine(),
        notes=f"The margin is that of the worst seed. {SCALES[scale].steps} steps of 4,096 tokens.",
    )
