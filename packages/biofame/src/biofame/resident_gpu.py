"""Pre-training on windows that lie on the device as one tensor, without a trainer around it.

The network is so small that a trainer's and a loader's time a step would be most of it (spec 10).

Shapes: n windows, B windows of a batch, C channels, L samples.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from biofame.mae import MaskedAutoencoder
from biofame.store import SignalStore
from tenfold import keyed
from tenfold.optim import OptimConfig, configure

logger = logging.getLogger(__name__)

READ_AT_ONCE = 2048
WARM_UP = 10
"""One in so many steps is not timed at the start: kernels are compiled and chosen."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and how networks are trained.

    Attributes:
        device: Of weights and windows.
        mixed: Whether all but Fourier transforms, norms and losses is in bfloat16.
        compiled: Whether `torch.compile` is used.
    """

    device: torch.device
    mixed: bool
    compiled: bool

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context that a forward pass runs in."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed)

    def wait(self) -> None:
        """Wait until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def gpu_place() -> Place:
    """Return the GPU.

    Raises:
        ValueError: There is none.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            "scale gpu needs an NVIDIA GPU and torch sees none: run it on a machine with one, or "
            "take scale tiny"
        )
    return Place(device=torch.device("cuda"), mixed=True, compiled=True)


class ResidentWindows:
    """Windows of a store's training split, copied to the device when they are first asked for.

    Args:
        store: Its windows must have all channels.
        device: Where they shall lie.
    """

    def __init__(self, store: SignalStore, device: torch.device) -> None:
        self._store, self._device = store, device
        self._rows = store.rows("train")

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def samples(self) -> Tensor:
        """All windows, float32 `[n, C, L]`."""
        shape = (len(self), *self._store.samples.shape[1:])
        samples = torch.empty(shape, device=self._device)
        for first in range(0, len(self), READ_AT_ONCE):
            rows = self._rows[first : first + READ_AT_ONCE]
            samples[first : first + len(rows)] = torch.from_numpy(self._store.samples[rows])
        return samples

    def batches(self, batch_size: int, *, seed: int) -> Iterator[Tensor]:
        """Yield `[B, C, L]` endlessly, in a new order each pass; what does not fill one is left.

        Raises:
            ValueError: There are fewer windows than a batch has.
        """
        if batch_size > len(self):
            raise ValueError(f"batch_size must be <= {len(self)} training windows: {batch_size}")
        epoch = 0
        while True:
            order = keyed.generator("resident order", seed, epoch).permutation(len(self))
            rows = torch.from_numpy(order).to(self._device)
            whole = len(rows) // batch_size * batch_size
            for chosen in rows[:whole].split(batch_size):
                yield self.samples[chosen]
            epoch += 1


def train_resident(
    autoencoder: MaskedAutoencoder,
    optim: OptimConfig,
    windows: ResidentWindows,
    *,
    batch_size: int,
    seed: int,
    place: Place,
) -> float:
    """Train for `optim.total_steps` and return windows a second after the warm-up.

    Args:
        autoencoder: On the device; left in `train()`.
        optim: Optimiser and schedule.
        windows: What to learn from.
        batch_size: Windows of a step.
        seed: Key of their order; masks and dropout come from torch's generator.
        place: Where and how.

    Raises:
        FloatingPointError: The loss is no number at the end.
        ValueError: There are fewer windows than a batch has.
    """
    step = training_step(autoencoder, optim, place)
    steps, batches = optim.total_steps, windows.batches(batch_size, seed=seed)
    untimed, started, loss = steps // WARM_UP, 0.0, torch.zeros(())
    for number in range(steps):
        if number == untimed:
            place.wait()
            started = time.perf_counter()
        loss = step(next(batches))
        if (number + 1) % max(steps // 10, 1) == 0:
            # One look in a tenth of the run: each makes the processor wait for the device.
            logger.info("step %d of %d, loss %.4g", number + 1, steps, float(loss))
    place.wait()
    seconds = time.perf_counter() - started
    if not torch.isfinite(loss):
        raise FloatingPointError(
            f"the loss is {float(loss)} after {steps} steps: lower the learning rate"
        )
    return (steps - untimed) * batch_size / seconds


def training_step(
    autoencoder: MaskedAutoencoder, optim: OptimConfig, place: Place
) -> Callable[[Tensor], Tensor]:
    """Return what trains on windows `[B, C, L]` and returns the loss, which nothing waits for."""
    made = configure(autoencoder, optim)
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    assert isinstance(schedule, dict)
    scheduler = schedule["scheduler"]
    assert isinstance(scheduler, LambdaLR)

    def loss_of(samples_BCL: Tensor) -> Tensor:
        return autoencoder.loss(autoencoder(samples_BCL)).total

    forward = loss_of
    if place.compiled:
        # Else networks of earlier calls count towards the most variants torch compiles of a code.
        torch.compiler.reset()
        forward = torch.compile(loss_of, dynamic=False)
    autoencoder.train()

    def step(samples_BCL: Tensor) -> Tensor:
        with place.autocast():
            loss = forward(samples_BCL)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss.detach()

    return step
