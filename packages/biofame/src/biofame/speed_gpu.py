"""How fast training is: against the naive way, and filters against attention (spec 7b, 10)."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from biofame.config import DecoderConfig, LossConfig, ModelConfig
from biofame.encoder import Encoder
from biofame.mae import MaskedAutoencoder
from biofame.naive_gpu import naive_autoencoder
from biofame.resident_gpu import Place, training_step
from biofame.seeding import torch_seed
from tenfold import atomic
from tenfold.optim import OptimConfig

OURS, NAIVE = "ours", "naive"
FILTER, ATTENTION = "filter", "attention"
WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class SpeedTask:
    """Whole training steps to be timed.

    Attributes:
        model: The network; its operator is `pool`.
        decoder: Its decoders.
        loss: Its loss.
        length: Samples of a window.
        batch_size: Windows of a step.
        steps: Of a round.
        rounds: In which both ways take turns.
    """

    model: ModelConfig
    decoder: DecoderConfig
    loss: LossConfig
    length: int
    batch_size: int
    steps: int
    rounds: int


@dataclass(frozen=True, kw_only=True)
class LengthTask:
    """Encoders to be timed at one length.

    Attributes:
        model: The network, without dropout.
        tokens: Of a window.
        windows: Of a step.
        rounds: In which both encoders take turns.
    """

    model: ModelConfig
    tokens: int
    windows: int
    rounds: int


class Curve(NamedTuple):
    """Time a token, in microseconds, of each round at one length."""

    tokens: int
    filter: Sequence[float]
    attention: Sequence[float]


def time_training(task: SpeedTask, folder: Path, *, place: Place) -> dict[str, list[float]]:
    """Return windows a second of each round, and the peak memory of a step in GiB on a GPU.

    Ours is as `place` says, with one fused update; the naive way is eager and in float32, as the
    released code. A job, which leaves no file.
    """
    shape = (task.batch_size, len(task.model.channels), task.length)
    optim = OptimConfig(name="adam", lr=1e-3, min_lr=1e-3, total_steps=1, decay_all=True)
    with torch_seed("speed"):
        samples = torch.randn(shape, device=place.device)
        parts = (task.model, task.decoder, task.loss)
        arms = {
            OURS: training_step(MaskedAutoencoder(*parts).to(place.device), optim, place),
            NAIVE: training_step(
                naive_autoencoder(*parts).to(place.device),
                optim,
                replace(place, mixed=False, compiled=False),
            ),
        }
        calls = {name: _call(step, samples) for name, step in arms.items()}
        found = _rounds(calls, place, steps=task.steps, rounds=task.rounds)
        peaks = _peaks(calls, place)
    rates = {
        name: [task.batch_size * task.steps / each for each in seconds]
        for name, seconds in found.items()
    }
    return rates | {f"{name}_gib": [peak] * task.rounds for name, peak in peaks.items()}


def time_encoders(task: LengthTask, folder: Path, *, place: Place) -> dict[str, list[float]]:
    """Return microseconds a token, forward and backward, of each round; a job without files.

    Neither encoder is compiled.
    """
    with torch_seed("encoders"):
        shape = (task.windows, 1, task.tokens, task.model.dim)
        tokens = torch.randn(shape, device=place.device, requires_grad=True)
        encoders = {
            FILTER: Encoder(task.model).to(place.device),
            ATTENTION: Encoder(replace(task.model, mixing="attention")).to(place.device),
        }
        calls = {name: _pass(encoder, tokens, place) for name, encoder in encoders.items()}
        found = _rounds(calls, place, steps=1, rounds=task.rounds)
    count = task.windows * task.tokens
    return {name: [1e6 * each / count for each in seconds] for name, seconds in found.items()}


def plot_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draw time a token over the number of tokens, mean over rounds, as PNG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), layout="constrained")
    axes = figure.subplots()
    for arm in (FILTER, ATTENTION):
        means = [sum(getattr(curve, arm)) / len(getattr(curve, arm)) for curve in curves]
        axes.loglog([curve.tokens for curve in curves], means, "o-", label=arm)
    axes.set(xlabel="tokens of a window", ylabel="us a token, forward and backward")
    axes.legend()
    with atomic.open_atomic(path) as file:
        figure.savefig(file, format="png", dpi=120)


def _call(step: Callable[[Tensor], Tensor], samples: Tensor) -> Callable[[], object]:
    return lambda: step(samples)


def _pass(encoder: nn.Module, tokens_BCND: Tensor, place: Place) -> Callable[[], object]:
    def run() -> None:
        tokens_BCND.grad = None
        with place.autocast():
            out = encoder(tokens_BCND, rate=100.0)
        out.float().square().mean().backward()

    return run


def _rounds(
    calls: dict[str, Callable[[], object]], place: Place, *, steps: int, rounds: int
) -> dict[str, list[float]]:
    """Return the seconds of `steps` calls of each arm, round by round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        for _ in range(WARM_UP):
            call()
    for _ in range(rounds):
        for name, call in calls.items():
            place.wait()
            started = time.perf_counter()
            for _ in range(steps):
                call()
            place.wait()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def _peaks(calls: dict[str, Callable[[], object]], place: Place) -> dict[str, float]:
    """Return the peak memory of a call of each arm, all arms' weights included; none on a CPU."""
    if place.device.type != "cuda":
        return {}
    peaks: dict[str, float] = {}
    for name, call in calls.items():
        torch.cuda.reset_peak_memory_stats(place.device)
        call()
        peaks[name] = torch.cuda.max_memory_allocated(place.device) / 2**30
    return peaks
