"""Old and new models of the small experiments, trained in seconds (spec 7a)."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fastfill.backbone import Backbone, frozen
from fastfill.backbone_module import BackboneModule
from fastfill.config import BackboneConfig, CompatConfig
from fastfill.demo_views import images_of, view_of
from fastfill.image_data import ImageBatch
from fastfill.models import build_backbone
from fastfill.sources import Source
from tenfold import keyed
from tenfold.bare_trainer import bare_trainer
from tenfold.cli.quiet import silence_adverts
from tenfold.optim import OptimConfig

BATCH_SIZE = 128


def train_backbone(
    model: BackboneConfig,
    source: Source,
    *,
    steps: int,
    lr: float,
    seed: int,
    compat: CompatConfig | None = None,
    seen: int = 0,
) -> Backbone:
    """Train a backbone on a demo source's first `seen` classes (0: all), as `train_on` does."""
    images = images_of(source, build_backbone(model).input_size[0])
    labels = torch.from_numpy(source.labels)
    if seen:
        images, labels = images[labels < seen], labels[labels < seen]
    return train_on(images, labels, model, steps=steps, lr=lr, seed=seed, compat=compat)


def train_on(
    images: Tensor,
    labels: Tensor,
    model: BackboneConfig,
    *,
    steps: int,
    lr: float,
    seed: int,
    compat: CompatConfig | None = None,
) -> Backbone:
    """Train a backbone on fresh views of images and return it frozen.

    The recipe is the paper's (SGD, cosine, label smoothing), but for rate, decay and a schedule by
    the step.

    Args:
        images: uint8 `[n, C, H, W]`.
        labels: `[n]`.
        model: The backbone.
        steps: Optimiser steps.
        lr: Highest learning rate.
        seed: Key of weights, order and views.
        compat: Compatibility with an old model.
    """
    silence_adverts()
    torch.manual_seed(seed)
    optim = OptimConfig(
        lr=lr,
        total_steps=steps,
        warmup_steps=steps // 20,
        name="sgd",
        momentum=0.875,
        nesterov=False,
        weight_decay=1e-3,
        decay_all=True,
    )
    module = BackboneModule(model, compat or CompatConfig(), optim)
    stream = DemoImageStream(images, labels, seed=seed, shift=model.arch == "tiny_conv")
    loader = DataLoader(stream, batch_size=None)
    # Never validated on; Lightning warns of a module that could validate and has nothing to.
    bare_trainer(steps).fit(module, loader, val_dataloaders=loader)
    return frozen(module.network)


class DemoImageStream(IterableDataset[ImageBatch]):
    """Batches of fresh views without end.

    Args:
        images: uint8 `[n, C, H, W]`.
        labels: `[n]`.
        seed: Key of order and views.
        shift: See `demo_views.view_of`.
    """

    def __init__(self, images: Tensor, labels: Tensor, *, seed: int, shift: bool) -> None:
        self.images, self.labels, self.seed, self.shift = images, labels, seed, shift

    def __iter__(self) -> Iterator[ImageBatch]:
        step = 0
        while True:
            draw = keyed.generator("demo batch", self.seed, step)
            size = min(BATCH_SIZE, len(self.labels))
            rows = torch.from_numpy(draw.choice(len(self.labels), size=size, replace=False))
            image = view_of(self.images[rows], self.seed, step, shift=self.shift)
            yield {"image": image, "label": self.labels[rows], "keys": [], "bad": []}
            step += 1
