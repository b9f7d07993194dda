"""Fine-tuning in memory, for studies of many short runs (spec 4).

It trains as the verb `finetune` does, through the same module and data, but leaves no run folder:
the weights that score best on the validation split are kept, and the test split is not touched.
"""

import copy
import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from biofame.config import HeadConfig, InitConfig, ModelConfig
from biofame.data import SignalData
from biofame.finetune import FinetuneModule
from biofame.heads import Classifier
from biofame.metrics import SELECTION
from biofame.model import BioFame
from biofame.passes import rows_with_channels, score_classifier
from biofame.seeding import torch_seed
from biofame.store import SignalStore
from biofame.weights import fit_channels
from tenfold.bare_trainer import bare_trainer
from tenfold.callbacks import StepSeed
from tenfold.cli.quiet import quiet_loggers, silence_adverts
from tenfold.optim import OptimConfig

TALKATIVE = ("lightning.pytorch.utilities.rank_zero", "tenfold.optim")


class Finetuned(NamedTuple):
    """A fine-tuned network.

    Attributes:
        classifier: Its best weights, on the CPU, in `eval()`.
        val_score: The score `metrics.SELECTION` of the validation split.
        step: Optimiser steps after which it had them.
    """

    classifier: Classifier
    val_score: float
    step: int


def finetune_once(
    network: BioFame,
    store: SignalStore,
    *,
    head: HeadConfig,
    labels: float | None = None,
    seed: int = 0,
    steps: int = 1000,
    lr: float = 1e-3,
    weight_decay: float = 1e-4,
    batch_size: int = 128,
    channels: list[str] | None = None,
    validations: int = 20,
    device: torch.device = torch.device("cpu"),
) -> Finetuned:
    """Train a copy of a network and a new head by Adam at a constant learning rate.

    Args:
        network: Stays as it is; the copy has parameters for exactly the channels used.
        store: With the splits train and val.
        head: Task and head.
        labels: Labelled training windows, a share in (0, 1) or their number; all by default.
        seed: Of the head, labels, order, MixUp and dropout.
        steps: Optimiser steps.
        lr: Learning rate.
        weight_decay: L2 penalty of all parameters.
        batch_size: Windows, or sequences, of a step.
        channels: The store's channels to use, in this order; all by default.
        validations: How often the validation split is scored, evenly spaced, last of all at the
            end.
        device: Where to train.

    Raises:
        ValueError: An option is impossible, or store and head do not fit.
    """
    if steps < 1 or validations < 1:
        raise ValueError(f"steps and validations must be >= 1, got {steps} and {validations}")
    data = SignalData(store.folder, batch_size, seed, channels, labels, head.context)
    data.setup("fit")
    with torch_seed("head", seed):
        classifier = Classifier(fit_channels(network, data.channels), head).train()
    if head.task == "regression" and data.store.targets is not None:
        classifier.standardise_targets(torch.from_numpy(data.store.targets[data.training_rows]))
    keeper = BestWeights(data, every=-(-steps // validations), device=device)
    module = _module(classifier, steps=steps, lr=lr, weight_decay=weight_decay)
    with _quiet(), torch_seed("fine-tuning", seed):
        trainer = bare_trainer(steps, callbacks=[StepSeed(seed), keeper], **_accelerator(device))
        trainer.fit(module, datamodule=data)
    classifier.load_state_dict(keeper.state)
    return Finetuned(classifier.cpu().eval(), keeper.score, keeper.step)


def scratch_network(model: ModelConfig, store: SignalStore, *, seed: int) -> BioFame:
    """Return random weights for a store's channels and rate, otherwise set as `model` says."""
    config = replace(model, channels=store.info.channels, rate=store.info.rate)
    with torch_seed("scratch", seed):
        return BioFame(config)


class BestWeights(Callback):
    """Keep the classifier's weights that score best on the validation split.

    It scores the windows itself: the trainer's own validation costs more than a step does.

    Args:
        data: After `setup("fit")`.
        every: Steps between two validations; the last step has one in any case.
        device: Where the classifier is trained.
    """

    def __init__(self, data: SignalData, *, every: int, device: torch.device) -> None:
        self.score, self.step = math.nan, 0
        self.state: dict[str, Tensor] = {}
        self._source, self._every, self._device = data.source, every, device
        self._batch_size = max(data.batch_size, 256 // data.context)
        self._rows = rows_with_channels(data.source, "val")

    def on_train_batch_end(
        self,
        trainer: lightning.Trainer,
        pl_module: lightning.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Score the classifier when its turn has come."""
        step = trainer.global_step
        if step % self._every == 0 or step == trainer.max_steps:
            assert isinstance(pl_module, FinetuneModule)
            self._look_at(pl_module.classifier, step)

    def _look_at(self, classifier: Classifier, step: int) -> None:
        metric, direction = SELECTION[classifier.config.task]
        found = score_classifier(
            classifier, self._source, self._rows, batch_size=self._batch_size, device=self._device
        )
        classifier.train()
        classifier.network.train(not classifier.config.freeze)  # frozen: without dropout
        score = found[metric]
        is_better = score > self.score if direction == "max" else score < self.score
        if not self.state or is_better:
            self.score, self.step = score, step
            self.state = copy.deepcopy(classifier.state_dict())


def _module(
    classifier: Classifier, *, steps: int, lr: float, weight_decay: float
) -> FinetuneModule:
    """Return a module that holds the classifier and so does not make one of its own."""
    optim = OptimConfig(
        name="adam",
        lr=lr,
        min_lr=lr,
        total_steps=steps,
        weight_decay=weight_decay,
        decay_all=True,
    )
    module = FinetuneModule(
        InitConfig(scratch=True), classifier.config, optim, classifier.network.config
    )
    module.classifier = classifier
    return module


def _accelerator(device: torch.device) -> dict[str, Any]:
    if device.type == "cpu":
        return {}
    return {"accelerator": device.type, "devices": [device.index or 0]}


@contextmanager
def _quiet() -> Generator[None]:
    """Keep devices, limits and parameter groups from being told once a run."""
    silence_adverts()
    with quiet_loggers(*TALKATIVE):
        yield
