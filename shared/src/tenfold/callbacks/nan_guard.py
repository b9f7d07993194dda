"""Stop at the first loss or gradient that is not finite, and say which samples it came from."""

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tenfold import atomic

# A loss scale that starts at 2**16 has come down to 2**-16 by then: no scale helps any more.
MOST_BACK_OFFS = 32
# Ranks whose samples a message lists; the captures of the others tell as much.
MOST_RANKS = 4


class NonFiniteError(ArithmeticError):
    """A loss or gradient was NaN or infinite; names step, rank, loss terms and sample keys.

    Attributes:
        step: The optimiser step, from 0.
    """

    def __init__(self, message: str, *, step: int | None = None) -> None:
        super().__init__(message)
        self.step = step


class _MicroBatch(NamedTuple):
    """What is known of one backward pass; `loss` and `terms` stay on the device."""

    number: int
    loss: Tensor
    terms: dict[str, Tensor]
    keys: Any


class _Step(NamedTuple):
    step: int
    norm: Tensor
    parts: list[_MicroBatch]


class NanGuard(Callback):
    """Watch the loss of every micro-batch and the total gradient norm of every step.

    On a CPU each step is checked before the optimiser moves. On an accelerator the values stay on
    the device and are looked at every `every_n_steps` optimiser steps and before each checkpoint,
    so that no checkpoint holds spoiled weights: one synchronisation an interval. Until then only
    losses, loss terms and keys are held, so the batch itself is captured only if it is the newest
    one, otherwise it has to be loaded again by its keys.

    All ranks agree on the first bad step and raise together. The culprits are the micro-batches
    with a bad loss, on whatever rank; if no loss is bad (a backward pass alone overflowed), every
    micro-batch of the step is a suspect and every rank captures its own.

    With a loss scaler (`16-mixed`) an infinite gradient is how the scale is found, and the step is
    skipped. There only a NaN loss stops the run, or more than `MOST_BACK_OFFS` skipped steps in a
    row.

    A batch that is a mapping may hold `keys`, the names of its samples. Loss terms are what the
    module logs as `train/loss*`.

    Args:
        folder: Where `nan-step-<n>-rank-<r>.pt` goes: micro-batches and loss terms, safe to load.
        every_n_steps: Optimiser steps between two checks on an accelerator.
    """

    def __init__(self, folder: Path, *, every_n_steps: int = 50) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.checks_each_step = False
        self._numbers = itertools.count()
        self._number = -1
        self._batches: dict[int, Any] = {}
        self._newest_terms: dict[str, Tensor] = {}
        self._parts: list[_MicroBatch] = []
        self._pending: list[_Step] = []
        self._back_offs = 0

    def on_train_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule
    ) -> None:
        """Choose the interval by the device: on a CPU looking costs nothing."""
        self.checks_each_step = pl_module.device.type == "cpu"

    def on_train_batch_start(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Hold on to the batch while it can be told whether it is a bad one."""
        # Whole batches of an interval would fill an accelerator.
        if not (self.checks_each_step and self._parts):
            self._batches.clear()
        self._number = next(self._numbers)
        self._batches[self._number] = batch

    def on_before_backward(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, loss: Tensor
    ) -> None:
        """Note loss, loss terms and keys of this micro-batch."""
        logged = _logged_terms(trainer)
        # Lightning also keeps what only earlier batches logged.
        terms = {name: v for name, v in logged.items() if self._newest_terms.get(name) is not v}
        self._newest_terms = logged
        batch = self._batches[self._number]
        keys = batch.get("keys") if isinstance(batch, Mapping) else None
        # The sum has storage of its own; a compiled step may write its next loss into the old one.
        self._parts.append(_MicroBatch(self._number, _whole(loss.detach()).sum(), terms, keys))

    def on_before_optimizer_step(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        optimizer: Optimizer,
    ) -> None:
        """Note this step's gradient norm and look at the steps that are due.

        Raises:
            NonFiniteError: One is not finite.
        """
        norm = gradient_norm(pl_module.parameters(), shards=_shard_group(trainer.strategy.model))
        pl_module.log("train/grad_norm", norm, batch_size=1)
        self._pending.append(_Step(trainer.global_step, norm, self._parts))
        self._parts = []
        if self.checks_each_step or len(self._pending) >= self.every_n_steps:
            self._check(trainer)

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
        self._check(trainer)

    def _check(self, trainer: lightning.Trainer) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        first_bad = self._first_bad(pending, scaled=trainer.scaler is not None)
        if trainer.world_size > 1:
            agreed = torch.tensor(first_bad, device=trainer.strategy.root_device)
            torch.distributed.all_reduce(agreed, op=torch.distributed.ReduceOp.MIN)
            first_bad = int(agreed)
        if first_bad < len(pending):
            self._fail(trainer, pending[first_bad])

    def _first_bad(self, steps: list[_Step], *, scaled: bool) -> int:
        """Return the index of the first bad step on this rank, `len(steps)` if all are good."""
        norms = torch.stack([step.norm for step in steps])
        losses = [_all_good(step.parts, scaled=scaled).to(norms.device) for step in steps]
        found = torch.stack([norms.isfinite(), torch.stack(losses)]).tolist()
        for index, (norm_is_finite, loss_is_good) in enumerate(zip(*found, strict=True)):
            self._back_offs = 0 if norm_is_finite else self._back_offs + 1
            if not loss_is_good or self._back_offs > (MOST_BACK_OFFS if scaled else 0):
                return index
        return len(steps)

    def _fail(self, trainer: lightning.Trainer, bad: _Step) -> None:
        """Capture what this rank knows, tell all ranks, and raise the same error on each."""
        scaled, norm = trainer.scaler is not None, float(bad.norm)
        culprits = [part for part in bad.parts if not _all_good([part], scaled=scaled)]
        reports = _gathered(trainer, self._report(trainer, bad, culprits) if culprits else None)
        guilty = [report for report in reports if report is not None]
        if not guilty:
            guilty = [self._report(trainer, bad, bad.parts)]
        more = f"; and {len(guilty) - MOST_RANKS} more ranks" if len(guilty) > MOST_RANKS else ""
        found = "; ".join(guilty[:MOST_RANKS]) + more
        what = "loss is not finite" if math.isfinite(norm) else f"gradient is {norm}"
        raise NonFiniteError(f"{what} at step {bad.step}; {found}", step=bad.step)

    def _report(self, trainer: lightning.Trainer, bad: _Step, parts: list[_MicroBatch]) -> str:
        """Write the capture and describe its micro-batches in one line."""
        captured = [
            {
                "loss": float(part.loss),
                "terms": {name: float(value) for name, value in part.terms.items()},
                "keys": _plain(part.keys),
                "batch": _plain(self._batches.get(part.number)),
            }
            for part in parts
        ]
        capture = self.folder / f"nan-step-{bad.step}-rank-{trainer.global_rank}.pt"
        try:
            with atomic.open_atomic(capture) as file:
                torch.save({"step": bad.step, "micro_batches": captured}, file)
            where = f"saved in {capture}"
        except OSError as error:  # the other ranks wait for this report
            where = f"not saved: {error}"
        rank = f"rank {trainer.global_rank}: " if trainer.world_size > 1 else ""
        return f"{rank}{'; '.join(map(_described, parts))}; {where}"


def gradient_norm(
    parameters: Iterable[torch.nn.Parameter],
    *,
    shards: torch.distributed.ProcessGroup | None = None,
) -> Tensor:
    """Return the 2-norm of all gradients together, a scalar on their device.

    The same number on every rank. Gradients that are `DTensor`s (FSDP2, tensor parallel) bring
    their own reduction. Plain gradients are taken as whole ones, unless `shards` names the ranks
    over which their parts are spread (FSDP1); only then the squares are summed over ranks. Nothing
    here waits for the device.
    """
    listed = list(parameters)
    grads = [p.grad for p in listed if p.grad is not None]
    zero = torch.zeros((), device=listed[0].device if listed else None)
    by_mesh: defaultdict[Any, list[Tensor]] = defaultdict(list)
    for grad in grads:
        by_mesh[grad.device_mesh if isinstance(grad, DTensor) else None].append(grad)
    norms = [_whole(torch.nn.utils.get_total_norm(group)) for group in by_mesh.values()]
    norm = torch.linalg.vector_norm(torch.stack(norms)) if norms else zero
    if shards is not None:
        square = norm.square()
        torch.distributed.all_reduce(square, group=shards)
        norm = square.sqrt()
    return norm


def _shard_group(model: torch.nn.Module | None) -> torch.distributed.ProcessGroup | None:
    """Return the ranks among which FSDP1 has spread the parameters, `None` where each has all."""
    if not isinstance(model, FullyShardedDataParallel):
        return None
    whole = model.sharding_strategy == ShardingStrategy.NO_SHARD
    return None if whole else cast(torch.distributed.ProcessGroup, model.process_group)


def _logged_terms(trainer: lightning.Trainer) -> dict[str, Tensor]:
    """Return the newest `train/loss*` that were logged, still on the device.

    Lightning's `callback_metrics` would wait for the device: it makes a number of each metric of
    the progress bar whenever it is read.
    """
    results = trainer._results  # pyright: ignore[reportPrivateUsage]
    metrics = results.result_metrics if results is not None else []
    newest = {m.meta.name: m._forward_cache for m in metrics}  # pyright: ignore[reportPrivateUsage]
    return {
        name: value
        for name, value in newest.items()
        if name.startswith("train/loss") and isinstance(value, Tensor)
    }


def _whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def _all_good(parts: list[_MicroBatch], *, scaled: bool) -> Tensor:
    """Return whether all losses are finite; a scaled one may overflow where the loss does not."""
    if not parts:
        return torch.tensor(True)
    losses = torch.stack([part.loss for part in parts])
    return (~losses.isnan() if scaled else losses.isfinite()).all()


def _gathered(trainer: lightning.Trainer, mine: str | None) -> list[str | None]:
    if trainer.world_size == 1:
        return [mine]
    reports: list[str | None] = [None] * trainer.world_size
    torch.distributed.all_gather_object(reports, mine)
    return reports


def _described(part: _MicroBatch) -> str:
    terms = ", ".join(f"{name}={float(value):.4g}" for name, value in sorted(part.terms.items()))
    return f"{terms or 'no loss was logged'}; sample keys: {_shortened(part.keys)}"


def _plain(value: Any) -> Any:
    """Keep what a checkpoint may hold: tensors and plain values."""
    if isinstance(value, Mapping):
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
