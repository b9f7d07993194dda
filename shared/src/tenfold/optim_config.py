"""The optimiser's configuration and its learning-rate curve; standard library only.

A separate file from `tenfold.optim`, so that a member's `config.py` and its `--help` need no torch.
"""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, Adam or SGD with linear warm-up and one cosine over the rest of the run.

    Attributes:
        lr: Highest learning rate, reached at the end of the warm-up.
        total_steps: Optimiser steps of the run; the cosine ends there.
        min_lr: Learning rate at the end of the cosine.
        warmup_steps: Steps of the linear warm-up, 0 for none; a run of fewer steps ends in it.
        warmup_lr: Learning rate that the warm-up starts from.
        constant_steps: Steps, warm-up included, before the cosine begins; 0 begins it at the end of
            the warm-up (half of the steps: MobileCLIP-B (LT)).
        hold_steps: Steps that share one learning rate: those of an epoch, for recipes that set it
            once an epoch. The other numbers of steps must be multiples of it.
        name: `adamw`, `adam`, or `sgd` with momentum.
        betas: Decay rates of the two moments of AdamW and Adam.
        eps: Their denominator term.
        momentum: SGD's momentum.
        nesterov: Whether SGD looks ahead (needs a momentum).
        weight_decay: Decoupled from the gradient in AdamW, added to it in Adam and SGD; norms,
            biases and vectors are exempt.
        decay_all: Whether to decay norms, biases and vectors too.

    Raises:
        ValueError: A value is out of its range.
    """

    lr: float
    total_steps: int
    min_lr: float = 0.0
    warmup_steps: int = 0
    warmup_lr: float = 0.0
    constant_steps: int = 0
    hold_steps: int = 1
    name: Literal["adamw", "adam", "sgd"] = "adamw"
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 0.0
    decay_all: bool = False

    def __post_init__(self) -> None:
        """Check every value; NaN fits no range."""
        _require(0 < self.lr < math.inf, "lr", "must be > 0", self.lr)
        _require(self.total_steps > 0, "total_steps", "must be > 0", self.total_steps)
        _require(0 <= self.min_lr <= self.lr, "min_lr", f"must lie in 0..{self.lr}", self.min_lr)
        _require(self.warmup_steps >= 0, "warmup_steps", "must be >= 0", self.warmup_steps)
        _require(self.constant_steps >= 0, "constant_steps", "must be >= 0", self.constant_steps)
        _require(self.hold_steps >= 1, "hold_steps", "must be >= 1", self.hold_steps)
        for name in ("warmup_steps", "constant_steps"):
            value = getattr(self, name)
            multiple = f"must be a multiple of hold_steps {self.hold_steps}"
            _require(value % self.hold_steps == 0, name, multiple, value)
        _require(
            0 <= self.warmup_lr <= self.lr, "warmup_lr", f"must lie in 0..{self.lr}", self.warmup_lr
        )
        names = ("adamw", "adam", "sgd")
        _require(self.name in names, "name", f"must be one of {', '.join(names)}", self.name)
        _require(0 <= self.momentum < 1, "momentum", "must lie in [0, 1)", self.momentum)
        _require(
            self.momentum > 0 or not self.nesterov,
            "momentum",
            "must be > 0 with nesterov",
            self.momentum,
        )
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "betas",
            "must be two values in [0, 1)",
            self.betas,
        )
        _require(0 < self.eps < math.inf, "eps", "must be > 0", self.eps)
        _require(
            0 <= self.weight_decay < math.inf, "weight_decay", "must be >= 0", self.weight_decay
        )

    def lr_at(self, step: int) -> float:
        """Return the learning rate of optimiser step `step`, counted from 0.

        A line from `warmup_lr` (before the first step) to `lr` during the w warm-up steps, `lr` up
        to step c = max(w, `constant_steps`), then a half cosine from `lr` at step c to `min_lr` at
        `total_steps` and after. The off-by-one is that of open_clip's and OpenLM's `cosine_lr`,
        which the published recipes used: the last warm-up step already has `lr`. With `hold_steps`
        h all of this is counted in units of h steps: steps n h to n h + h - 1 have one rate.
        """
        step, hold = step // self.hold_steps, self.hold_steps
        warmup_steps, constant_steps = self.warmup_steps // hold, self.constant_steps // hold
        total_steps = self.total_steps / hold
        if step < warmup_steps:
            rise = (step + 1) / warmup_steps
            return self.warmup_lr + (self.lr - self.warmup_lr) * rise
        begin = max(warmup_steps, constant_steps)
        progress = (step - begin) / max(total_steps - begin, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(max(progress, 0.0), 1.0)))
        return self.min_lr + (self.lr - self.min_lr) * cosine


def _require(holds: bool, field: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"optim.{field} {expectation}, got {value}")
