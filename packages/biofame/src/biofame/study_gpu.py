"""The trainings of the scale `gpu`: three ways of pre-training, few labels, all sets of sensors.

Each is a job of its own, and one that is finished is kept. Not here: recordings
(`recordings_gpu.py`), speed (`speed_gpu.py`), what is concluded (`claims_gpu.py`).
"""

import gc
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

from biofame.config import DecoderConfig, HeadConfig, LossConfig, ModelConfig
from biofame.data import SignalData
from biofame.finetune_loop import finetune_once, scratch_network
from biofame.mismatch_views import View, all_subsets
from biofame.model import BioFame
from biofame.passes import open_source, rows_with_channels, score_classifier
from biofame.pretrain import PretrainModule
from biofame.resident_gpu import Place, ResidentWindows, train_resident
from biofame.seeding import torch_seed
from biofame.store import SignalStore, open_store
from biofame.study import SETTINGS, SETTLED, Arm
from biofame.synthetic import SleepConfig
from biofame.weights import load_network, save_network
from tenfold import atomic
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.optim import OptimConfig

PUBLISHED, LARGE, OURS = "published recipe", "published recipe, large batch", "settled settings"
KEYS = {PUBLISHED: "published", LARGE: "published-large", OURS: "settled"}
NIGHTS = SleepConfig(subjects=400, windows_per_subject=500)
RAW_TARGET = Arm(loss={"target": "raw"})
"""The released code undoes RevIN before it compares; the rest of it is the defaults."""


@dataclass(frozen=True, kw_only=True)
class GpuScale:
    """Sizes of everything; the defaults fill 17 minutes of an H200 with 16 cores, by estimate.

    Attributes:
        sleep: Who is recorded; 200,000 windows of four sensors and 30 s.
        shares: Of people in training, validation and test.
        model: The released sizes; channels, rate and tokens are the recordings'.
        decoder: The released decoders.
        windows: Seen in a pre-training, the same number in all; the published recipe has 7.7
            million, for which 20 minutes are too short.
        batch_size: Windows of a pre-training step.
        large_batch: Of the second arm's.
        labels: Labelled windows of a fine-tuning.
        finetune_steps: Of a fine-tuning.
        speed_batches: Windows of a step whose speed is measured; the last is judged.
        speed_steps: Of a round.
        lengths: Tokens of windows at which encoders are compared; the last is judged.
        tokens_in_all: Of a step there, so that longer windows are fewer.
    """

    sleep: SleepConfig = NIGHTS
    shares: tuple[float, float, float] = (0.94, 0.03, 0.03)
    model: ModelConfig = field(default_factory=ModelConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    windows: int = 1_536_000
    batch_size: int = 128
    large_batch: int = 4096
    labels: int = 100
    finetune_steps: int = 200
    speed_batches: tuple[int, ...] = (128, 1024)
    speed_steps: int = 20
    lengths: tuple[int, ...] = (150, 1500, 15_000)
    tokens_in_all: int = 600_000

    @property
    def network(self) -> ModelConfig:
        """The released network for the recordings."""
        return replace(
            self.model,
            channels=self.sleep.channels,
            rate=self.sleep.rate,
            tokens=self.sleep.samples // self.model.patch,
        )


@dataclass(frozen=True, kw_only=True)
class PretrainTask:
    """One pre-training; its seed is 0."""

    arm: str
    model: ModelConfig
    decoder: DecoderConfig
    loss: LossConfig
    optim: OptimConfig
    batch_size: int

    @property
    def weights(self) -> str:
        """Name of the file that is left."""
        return f"{KEYS[self.arm]}.safetensors"


@dataclass(frozen=True, kw_only=True)
class FinetuneTask:
    """One fine-tuning.

    Attributes:
        model: Of random weights.
        weights: SHA-256 of the pre-trained weights to start from instead, "" for none; they are
            looked for under the name of `arm`.
        arm: Which pre-training they are of.
        labels: Labelled windows.
        steps: Optimiser steps.
        seed: Of labels, head, order and random weights.
    """

    model: ModelConfig
    weights: str
    arm: str
    labels: int
    steps: int
    seed: int


def pretrain_tasks(size: GpuScale) -> dict[str, PretrainTask]:
    """Return the pre-trainings by arm; all see the same number of windows."""
    return {
        PUBLISHED: _task(size, PUBLISHED, RAW_TARGET, size.batch_size),
        LARGE: _task(size, LARGE, RAW_TARGET, size.large_batch),
        OURS: _task(size, OURS, SETTLED, size.batch_size),
    }


def pretrain(
    task: PretrainTask, folder: Path, *, windows: ResidentWindows, data: Path, place: Place
) -> dict[str, float]:
    """Pre-train and leave the network; a job that returns masked error and windows a second.

    The masked error is the mean over channels, of the validation windows, in float32.
    """
    silence_adverts()
    gc.collect()  # what the last training left would crowd this one's memory
    with torch_seed("pre-training", 0):
        module = PretrainModule(task.model, task.decoder, task.loss, task.optim)
        speed = train_resident(
            module.autoencoder.to(place.device),
            task.optim,
            windows,
            batch_size=task.batch_size,
            seed=0,
            place=place,
        )
    trainer = bare_trainer(limit_val_batches=1.0, accelerator=place.device.type)
    scores = trainer.validate(module, datamodule=SignalData(data, 256), verbose=False)
    save_network(folder / task.weights, module.autoencoder.network.cpu().eval())
    return {"masked_error": float(scores[0]["val/masked_error"]), "windows_per_s": speed}


def finetune_tasks(
    pretrained: dict[str, PretrainTask], folder: Path, size: GpuScale, *, seeds: int
) -> dict[str, FinetuneTask]:
    """Return the fine-tunings, `<pre-training>-<start>-<seed>`.

    Args:
        pretrained: What `folder` has weights of.
        folder: Where they are.
        size: Sizes of everything.
        seeds: Fine-tunings of each start.
    """
    tasks: dict[str, FinetuneTask] = {}
    for arm, task in pretrained.items():
        starts = {"pretrained": atomic.sha256_file(folder / task.weights)}
        if arm != LARGE:  # the same random weights as of the smaller batch
            starts["scratch"] = ""
        for start, weights in starts.items():
            for seed in range(seeds):
                tasks[f"{KEYS[arm]}-{start}-{seed}"] = FinetuneTask(
                    model=task.model,
                    weights=weights,
                    arm=arm,
                    labels=size.labels,
                    steps=size.finetune_steps,
                    seed=seed,
                )
    return tasks


def finetune(
    task: FinetuneTask, folder: Path, *, pretrained: Path, data: Path, place: Place
) -> dict[str, dict[str, float]]:
    """Fine-tune, and test with every set of sensors; a job, which leaves no file.

    Returns:
        `accuracy` in percent by set, such as `eeg+eog`.
    """
    silence_adverts()
    store = open_store(data)
    done = finetune_once(
        _start(task, store, pretrained),
        store,
        head=HeadConfig(outputs=len(store.info.classes)),
        labels=task.labels,
        seed=task.seed,
        steps=task.steps,
        validations=4,
        device=place.device,
    )
    classifier = done.classifier.to(place.device)
    found: dict[str, float] = {}
    for kept in all_subsets(store.info.channels):
        view = View(open_source(store, list(kept)))
        rows = rows_with_channels(view.source, "test")
        scores = score_classifier(classifier, view, rows, device=place.device)
        found["+".join(kept)] = 100 * scores["accuracy"]
    return {"accuracy": found}


def _start(task: FinetuneTask, store: SignalStore, pretrained: Path) -> BioFame:
    if task.weights:
        return load_network(pretrained / f"{KEYS[task.arm]}.safetensors")
    return scratch_network(task.model, store, seed=task.seed)


def _task(size: GpuScale, arm: str, how: Arm, batch_size: int) -> PretrainTask:
    steps = math.ceil(size.windows / batch_size)
    return PretrainTask(
        arm=arm,
        model=replace(size.network, **how.model),  # pyright: ignore[reportArgumentType]
        decoder=replace(size.decoder, **how.decoder),  # pyright: ignore[reportArgumentType]
        loss=LossConfig(**how.loss),  # pyright: ignore[reportArgumentType]
        optim=_settled(steps) if arm == OURS else _published(steps),
        batch_size=batch_size,
    )


def _published(steps: int) -> OptimConfig:
    """Adam at a constant rate, as released (spec 2.5)."""
    return OptimConfig(
        name="adam", lr=1e-3, min_lr=1e-3, total_steps=steps, weight_decay=1e-4, decay_all=True
    )


def _settled(steps: int) -> OptimConfig:
    """As the small experiment pre-trains its arms."""
    return OptimConfig(
        lr=SETTINGS["sleep"].lr, total_steps=steps, warmup_steps=steps // 20, weight_decay=0.01
    )
