"""The claim: one hidden layer beats a linear classifier on held-out digits."""

from pathlib import Path
from statistics import fmean
from typing import Literal

import lightning

from mobileclip.config import ModelConfig
from mobileclip.data import MobileclipData
from mobileclip.module import MobileclipModule
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.optim import OptimConfig
from tenfold.results import Result, Row, judged, save_result, show_result

CLAIM = "One hidden layer classifies held-out digits better than a linear classifier"
METRIC = "test/accuracy"
ARMS = {"one hidden layer": ModelConfig(hidden=32), "linear": ModelConfig(hidden=0)}
STEPS = {"tiny": 200, "gpu": 5000}


def reproduce(
    *,
    scale: Literal["tiny", "gpu"] = "tiny",
    seeds: int = 3,
    out: Path = Path("results/mobileclip"),
) -> int:
    """Check the claim against its baseline and write the result.

    Args:
        scale: `tiny` for two CPU cores, `gpu` for one GPU.
        seeds: Runs of each arm.
        out: Folder of the result file and its plot.

    Returns:
        0 when the claim holds, 1 when it does not.

    Raises:
        ValueError: `seeds` is not positive.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be >= 1, got {seeds}")
    silence_adverts()
    scores = {
        arm: [_score(model, seed=seed, steps=STEPS[scale]) for seed in range(seeds)]
        for arm, model in ARMS.items()
    }
    result = _judge(scores, scale)
    save_result(result, out / f"hidden_layer_{scale}.json")
    show_result(result)
    return 0 if result.holds else 1


def _score(model: ModelConfig, *, seed: int, steps: int) -> float:
    lightning.seed_everything(seed, verbose=False)
    optim = OptimConfig(lr=1e-2, total_steps=steps, warmup_steps=10, weight_decay=0.01)
    module, data = MobileclipModule(model, optim), MobileclipData(seed=seed)
    trainer = bare_trainer(steps, accelerator="auto")
    trainer.fit(module, datamodule=data)
    (metrics,) = trainer.test(module, datamodule=data, verbose=False)
    return metrics[METRIC]


def _judge(scores: dict[str, list[float]], scale: str) -> Result:
    ours, baseline = map(fmean, scores.values())
    return judged(
        "mobileclip",
        CLAIM,
        paper="an example, no paper",
        scale=scale,
        rows=[Row.of(arm, METRIC, values) for arm, values in scores.items()],
        margin=ours - baseline,
    )
