"""One seed of the small experiment: pre-train, fine-tune with few labels, take sensors away (7a).

All arms of a seed share data, labels, steps and rates. Not here: what is concluded (`claims.py`).
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from biofame.config import DecoderConfig, HeadConfig, LossConfig, ModelConfig
from biofame.data import SignalData
from biofame.demo_data import demo_data, write_sleep
from biofame.finetune_loop import finetune_once, scratch_network
from biofame.heads import Classifier
from biofame.mismatch_views import View, all_subsets, sensors_of
from biofame.model import BioFame
from biofame.passes import open_source, rows_with_channels, score_classifier
from biofame.pretrain import PretrainModule
from biofame.seeding import torch_seed
from biofame.store import SignalStore, open_store
from biofame.structure import structural_differences
from biofame.synthetic import SleepConfig
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks import StepSeed
from tenfold.cli.quiet import silence_adverts
from tenfold.measurements import one_thread
from tenfold.optim import OptimConfig

Demo = Literal["sleep", "motions"]

CPU = torch.device("cpu")
SCORE = "accuracy"


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How the demo's networks are trained.

    Attributes:
        model: Of all arms; channels and rate are the data's.
        batch_size: Windows of a pre-training step.
        steps: Of pre-training.
        lr: Highest rate of pre-training.
        labels: Labelled windows of fine-tuning.
        finetune_steps: Of fine-tuning.
        finetune_lr: Its rate.
        by_modality: Whether a sensor that is taken away is all channels of a kind.
    """

    model: ModelConfig
    batch_size: int
    steps: int
    lr: float
    labels: float
    finetune_steps: int
    finetune_lr: float
    by_modality: bool


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A way of pre-training; fields are what differs from the released code's options.

    Patches, steps, optimiser and the standardised target are the setting's in all of them.

    Attributes:
        model: Fields of `ModelConfig`.
        decoder: Fields of `DecoderConfig`.
        loss: Fields of `LossConfig`.
    """

    model: Mapping[str, object] = field(default_factory=dict)
    decoder: Mapping[str, object] = field(default_factory=dict)
    loss: Mapping[str, object] = field(default_factory=dict)

    def but(self, **changes: Mapping[str, object]) -> "Arm":
        """Return the arm with more fields changed, given as `model={...}` and the like."""
        merged = {name: {**getattr(self, name), **value} for name, value in changes.items()}
        return replace(self, **merged)


FAME, RELEASED, INPUT = "bioFAME", "released options", "input masking"
STEPS_OF_LADDER = (
    ("time positions in the mixer", {"model": {"mixer_positional": "time"}}),
    ("small decoder positions", {"decoder": {"embedding_std": 0.02}}),
    ("no dropout", {"model": {"dropout": 0.0}, "decoder": {"dropout": 0.0}}),
    ("larger filters", {"model": {"filter_std": 0.2}}),
    ("no norm of patches", {"model": {"patch_norm": False}}),
    ("query operator", {"model": {"operator": "query"}}),
    ("positions of modalities too", {"model": {"mixer_positional": "both"}}),
)
"""What makes the released options learn at this size, each a field of the configurations."""


def ladder() -> dict[str, Arm]:
    """Return the arms from the released options to the demo's own, each with one change more."""
    arm, arms = Arm(), {RELEASED: Arm()}
    for name, changes in STEPS_OF_LADDER:
        arm = arm.but(**changes)
        arms[f"+ {name}"] = arm
    return arms


SETTLED = list(ladder().values())[-1]
ARMS = {
    FAME: SETTLED,
    RELEASED: Arm(),
    INPUT: SETTLED.but(
        model={"mixing": "attention", "encoder_positional": True}, loss={"masking": "input"}
    ),
}
"""The last is a transformer of equal width and depth that masks what it gets."""

OPERATORS = {
    f"operator {name}": SETTLED.but(model={"operator": name})
    for name in ("pool", "query_complex", "softpool", "bandfilter")
}

SMALL = ModelConfig(dim=32, depth=2, mlp=64, mixer_mlp=32)
SETTINGS: Mapping[Demo, Setting] = {
    "sleep": Setting(
        model=replace(SMALL, tokens=60, patch=10),
        batch_size=64,
        steps=600,
        lr=2e-3,
        labels=50,
        finetune_steps=200,
        finetune_lr=2e-3,
        by_modality=False,
    ),
    "motions": Setting(
        model=replace(SMALL, tokens=10, patch=10, revin=False),
        batch_size=32,
        steps=150,
        lr=2e-3,
        labels=8,
        finetune_steps=100,
        finetune_lr=2e-3,
        by_modality=True,
    ),
}
FIRST_SEED = 100
"""Of the procedural data; settings were chosen on seed 0."""

SLEEP = SleepConfig(subjects=60, windows_per_subject=60, seconds=6.0, difficulty=0.5, noise=0.5)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is measured with one seed.

    Attributes:
        demo: Name of the data.
        arm: Name of the way of pre-training.
        how: The way.
        seed: Of data, weights, labels and order.
        subsets: Whether sensors are taken away.
        budgets: Labelled windows, by default the setting's.
    """

    demo: Demo
    arm: str
    how: Arm
    seed: int
    subsets: bool = True
    budgets: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"{self.demo}-{self.arm.replace(' ', '_').replace('+', 'plus')}-{self.seed}"


def measure(trial: Trial, folder: Path) -> dict[str, dict[str, float]]:
    """Return metric to arm to value, accuracies in percent; a job, which leaves no file."""
    silence_adverts()
    setting = SETTINGS[trial.demo]
    with one_thread(), tempfile.TemporaryDirectory() as made:
        store = demo_store(trial.demo, Path(made) / "store", seed=trial.seed)
        model = model_of(trial.how, setting, store)
        pretrained, error = pretrain(trial, model, store)
        values = {"masked_error": {trial.arm: error}}
        starts = {
            f"{trial.arm}, pre-trained": pretrained,
            f"{trial.arm}, scratch": scratch_network(model, store, seed=trial.seed),
        }
        for labels in trial.budgets or (setting.labels,):
            for name, network in starts.items():
                classifier = _finetune(network, store, setting, labels=labels, seed=trial.seed)
                _merge(values, _tested(trial, name, classifier, store, labels))
        if trial.arm == FAME:
            pool = scratch_network(replace(model, operator="pool"), store, seed=trial.seed)
            values["structure"] = structural_differences(pretrained, store, pool=pool)
    return values


def demo_store(demo: Demo, folder: Path, *, seed: int) -> SignalStore:
    """Write and open the data of a seed."""
    if demo == "sleep":
        return write_sleep(folder, SLEEP, seed=FIRST_SEED + seed)
    demo_data(folder, source="basic_motions", seed=seed)
    return open_store(folder)


def model_of(how: Arm, setting: Setting, store: SignalStore) -> ModelConfig:
    """Return the network of an arm for a store."""
    changes = dict(how.model)
    return replace(
        setting.model,
        channels=store.info.channels,
        rate=store.info.rate,
        **changes,  # pyright: ignore[reportArgumentType]
    )


def pretrain(trial: Trial, model: ModelConfig, store: SignalStore) -> tuple[BioFame, float]:
    """Pre-train on a store's training windows without their labels.

    Returns:
        The network, and the mean over channels of the masked error of the validation windows.
    """
    setting = SETTINGS[trial.demo]
    optim = OptimConfig(
        lr=setting.lr,
        total_steps=setting.steps,
        warmup_steps=setting.steps // 20,
        weight_decay=0.01,
    )
    decoder = DecoderConfig(**{"mlp": model.mixer_mlp, **trial.how.decoder})  # pyright: ignore[reportArgumentType]
    loss = LossConfig(**trial.how.loss)  # pyright: ignore[reportArgumentType]
    with torch_seed("pre-training", trial.seed):
        module = PretrainModule(model, decoder, loss, optim)
        data = SignalData(store.folder, setting.batch_size, trial.seed)
        trainer = bare_trainer(setting.steps, callbacks=[StepSeed(trial.seed)])
        trainer.fit(module, datamodule=data)
        scores = bare_trainer(limit_val_batches=1.0).validate(
            module, datamodule=data, verbose=False
        )
    return module.autoencoder.network.eval(), float(scores[0]["val/masked_error"])


def _finetune(
    network: BioFame, store: SignalStore, setting: Setting, *, labels: float, seed: int
) -> Classifier:
    return finetune_once(
        network,
        store,
        head=HeadConfig(outputs=len(store.info.classes)),
        labels=labels,
        seed=seed,
        steps=setting.finetune_steps,
        lr=setting.finetune_lr,
        batch_size=32,
        validations=5,
    ).classifier


def _tested(
    trial: Trial, name: str, classifier: Classifier, store: SignalStore, labels: float
) -> dict[str, dict[str, float]]:
    """Test with all sensors and, where asked for, with each subset of them."""
    source = open_source(store)
    rows = rows_with_channels(source, "test")
    usual = labels == SETTINGS[trial.demo].labels
    metric = SCORE if usual else f"{SCORE}_{labels:g}_labels"
    whole = 100 * score_classifier(classifier, source, rows, device=CPU)[SCORE]
    values = {metric: {name: whole}}
    if not (trial.subsets and usual):
        return values
    channels = store.info.channels
    sensors = sensors_of(channels, by_modality=SETTINGS[trial.demo].by_modality)
    dropped: list[float] = []
    for kept in all_subsets(tuple(sensors))[1:]:
        names = [channel for sensor in kept for channel in sensors[sensor]]
        view = View(open_source(store, names))
        accuracy = 100 * score_classifier(classifier, view, rows, device=CPU)[SCORE]
        dropped.append(accuracy)
        values[f"{SCORE}_{'+'.join(kept)}"] = {name: accuracy}
    mean = sum(dropped) / len(dropped)
    values["dropout_accuracy"] = {name: mean}
    values["dropout_loss"] = {name: 100 * (whole - mean) / whole if whole else 0.0}
    return values


def _merge(values: dict[str, dict[str, float]], more: Mapping[str, Mapping[str, float]]) -> None:
    for metric, arms in more.items():
        values.setdefault(metric, {}).update(arms)
