"""Stop at the first loss or gradient that is not finite, before it reaches the weights."""

import logging
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.optim import Optimizer

from tenfold import atomic

log = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """A gradient norm was NaN or infinite; the message names step, loss terms and sample keys."""


class _Step(NamedTuple):
    step: int
    norm: Tensor
    terms: dict[str, Tensor]
    batch: Any


class NanGuard(Callback):
    """Watch the total gradient norm, which is not finite as soon as the loss is not.

    On a CPU every step is checked before the optimiser moves. On an accelerator the norms stay on
    the device and are looked at every `every_n_steps` and before each checkpoint, so that the last
    checkpoint is always clean; one synchronisation an interval.

    A batch that is a mapping may hold `keys`, the names of its samples.

    Args:
        folder: Where `nan-step-<n>.pt` goes: batch and loss terms, safe to load.
        every_n_steps: Interval of the check on an accelerator.
    """

    def __init__(self, folder: Path, *, every_n_steps: int = 50) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self._batch: Any = None
        self._pending: deque[_Step] = deque()

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Hold on to the batch until its gradient is known."""
        self._batch = batch

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Note this step's norm and look at those that are due.

        Raises:
            NonFiniteError: One is not finite.
        """
        norm = gradient_norm(pl_module.parameters())
        pl_module.log("train/grad_norm", norm, batch_size=1)
        metrics = trainer.callback_metrics
        terms = {name: metrics[name] for name in metrics if name.startswith("train/loss")}
        self._pending.append(_Step(trainer.global_step, norm, terms, self._batch))
        on_cpu = norm.device.type == "cpu"
        if on_cpu or len(self._pending) >= self.every_n_steps:
            self._check()

    def on_save_checkpoint(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Let no checkpoint be written over weights that a bad step has spoiled.

        Raises:
            NonFiniteError: A step since the last check was not finite.
        """
        self._check()

    def _check(self) -> None:
        pending = list(self._pending)
        self._pending.clear()
        if not pending:
            return
        finite = torch.isfinite(torch.stack([step.norm for step in pending])).tolist()
        if not all(finite):
            self._fail(pending[finite.index(False)])

    def _fail(self, bad: _Step) -> None:
        terms = {name: float(value) for name, value in bad.terms.items()}
        capture = self.folder / f"nan-step-{bad.step}.pt"
        with atomic.open_atomic(capture) as file:
            torch.save({"step": bad.step, "terms": terms, "batch": _plain(bad.batch)}, file)
        keys = bad.batch.get("keys") if isinstance(bad.batch, dict) else None
        listed = ", ".join(f"{name}={value:.4g}" for name, value in sorted(terms.items()))
        raise NonFiniteError(
            f"gradient is {float(bad.norm)} at step {bad.step}; {listed or 'no loss was logged'}; "
            f"sample keys: {_shortened(keys)}; batch saved in {capture}"
        )


def gradient_norm(parameters: Iterable[torch.nn.Parameter]) -> Tensor:
    """Return the 2-norm of all gradients together, a scalar on their device."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients) if gradients else torch.zeros(())


def _plain(value: Any) -> Any:
    """Keep what a checkpoint may hold: tensors and plain values."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, Tensor | str | int | float | bool | None) else repr(value)


def _shortened(keys: Any, most: int = 16) -> str:
    if keys is None:
        return "the batch has no 'keys'"
    listed = keys.tolist() if isinstance(keys, Tensor) else list(keys)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(map(str, listed[:most])) + more
