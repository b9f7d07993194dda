"""The released code's linear probe: one layer on frozen features (spec 2.5, 4).

Unlike there, no MixUp, and the epoch is chosen on the validation split instead of on the test one.

Shapes: n windows, D width, K outputs.
"""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from biofame.config import Task
from biofame.losses import class_loss, label_loss, number_loss, one_hot
from biofame.metrics import SELECTION, scores
from biofame.seeding import torch_seed
from tenfold import keyed


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """How a probe is trained; defaults are the released code's.

    Args:
        epochs: Passes over the labelled windows.
        lr: Learning rate of Adam.
        weight_decay: Its L2 penalty.
        batch_size: Windows of a step.
    """

    epochs: int = 50
    lr: float = 1e-2
    weight_decay: float = 1e-5
    batch_size: int = 1024

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise ValueError(f"lr must be > 0, got {self.lr}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay must be >= 0, got {self.weight_decay}")


@dataclass(frozen=True)
class Labelled:
    """Features float32 `[n, D]` and classes int64 `[n]` or targets float32 `[n, K]`."""

    features: Tensor
    truth: Tensor


class Probe(nn.Module):
    """A linear layer; the outputs of a regression start at the targets' mean and deviation.

    Args:
        train: What it will be trained on.
        task: Whose outputs it gives.
        outputs: K.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, train: Labelled, task: Task, outputs: int) -> None:
        super().__init__()
        self.task: Task = task
        self.layer = nn.Linear(train.features.shape[1], outputs)
        self.register_buffer("shift", torch.zeros(outputs))
        self.register_buffer("scale", torch.ones(outputs))
        if task == "regression":
            known = train.truth[~train.truth.isnan().any(dim=1)]
            deviation, mean = torch.std_mean(known, dim=0, correction=0)
            self.shift = mean
            self.scale = torch.where(deviation > 0, deviation, 1.0)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits or numbers `[n, K]`."""
        return self.layer(features) * self.scale + self.shift

    def loss(self, part: Labelled) -> Tensor:
        """Return the mean loss of labelled windows."""
        outputs = self(part.features)
        if self.task == "multilabel":
            return label_loss(outputs, part.truth)
        if self.task == "regression":
            return number_loss(outputs, part.truth, scale=self.scale)
        return class_loss(outputs, one_hot(part.truth, outputs.shape[1]))


def train_probe(
    train: Labelled, val: Labelled, *, task: Task, outputs: int, config: ProbeConfig, seed: int
) -> Probe:
    """Return the probe of the epoch that scores best on the validation split.

    Args:
        train: Labelled windows.
        val: Validation windows.
        task: `classification`, `multilabel` or `regression`.
        outputs: K.
        config: How it is trained.
        seed: Of first weights and order.

    Raises:
        ValueError: Neither split may be without labels.
    """
    metric, direction = SELECTION[task]
    with torch_seed("probe", seed):
        probe = Probe(train, task, outputs)
    adam = torch.optim.Adam(probe.parameters(), lr=config.lr, weight_decay=config.weight_decay)
    best, best_state = -math.inf, probe.state_dict()
    for epoch in range(config.epochs):
        order = keyed.generator("probe order", seed, epoch).permutation(len(train.features))
        for rows in torch.from_numpy(order).split(config.batch_size):
            adam.zero_grad()
            probe.loss(Labelled(train.features[rows], train.truth[rows])).backward()
            adam.step()
        value = score_probe(probe, val)[metric] * (1 if direction == "max" else -1)
        if value > best:
            best, best_state = value, copy.deepcopy(probe.state_dict())
    probe.load_state_dict(best_state)
    return probe


@torch.inference_mode()
def score_probe(probe: Probe, part: Labelled) -> dict[str, float]:
    """Return all scores of a probe."""
    return scores(probe.task, probe(part.features), part.truth)
