"""Models, features and maps of `reproduce --scale gpu`: the paper's recipes, shortened (spec 2.4).

Not here: the images (`shapes.py`), what is measured (`study_gpu.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, IterableDataset

from fastfill.backbone import Backbone, frozen
from fastfill.backbone_module import BackboneModule
from fastfill.config import BackboneConfig, CompatConfig, ObjectiveConfig, TransformConfig
from fastfill.image_data import ImageBatch
from fastfill.pair_data import PairData
from fastfill.shapes import NUM_CLASSES, ShapeImages
from fastfill.transform_module import TransformModule
from tenfold import keyed
from tenfold.bare_trainer import bare_trainer
from tenfold.optim import OptimConfig

Device = Literal["cpu", "cuda"]

WEIGHT_DECAY = 2**-15
EMBED_AT_ONCE = 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How long networks train; rates are the paper's, scaled to the batch.

    Attributes:
        steps: Of the new model, and of those that are compatible.
        old_steps: Of the old model.
        batch_size: Images of a step.
        inner: Width of h's mixer.
        epochs: Of h.
        pairs: Of h's step.
    """

    steps: int = 1600
    old_steps: int = 1000
    batch_size: int = 512
    inner: int = 2048
    epochs: int = 80
    pairs: int = 1024


class ShapeStream(IterableDataset[ImageBatch]):
    """Batches of fresh views without end, drawn where the network is.

    Args:
        images: What is drawn.
        rows: Of the images to train on.
        batch_size: Images of a batch.
        seed: Key of order and views.
    """

    def __init__(
        self, images: ShapeImages, rows: NDArray[np.int64], *, batch_size: int, seed: int
    ) -> None:
        self.images, self.rows, self.batch_size, self.seed = images, rows, batch_size, seed

    def __iter__(self) -> Iterator[ImageBatch]:
        step = 0
        while True:
            draw = keyed.generator("shapes batch", self.seed, step)
            rows = draw.choice(self.rows, size=min(self.batch_size, len(self.rows)), replace=False)
            labels = torch.from_numpy(self.images.labels[rows]).to(self.images.device)
            image = self.images.images(rows, "training", self.seed, step)
            yield {"image": image, "label": labels, "keys": [], "bad": []}
            step += 1


def train_backbone(
    model: BackboneConfig,
    images: ShapeImages,
    recipe: Recipe,
    *,
    steps: int,
    seed: int,
    seen: int = NUM_CLASSES,
    compat: CompatConfig | None = None,
) -> Backbone:
    """Train a backbone on the first `seen` classes and return it frozen, on the images' device."""
    torch.manual_seed(seed)
    optim = OptimConfig(
        lr=1.024 * recipe.batch_size / 1024,
        total_steps=steps,
        warmup_steps=steps // 20,
        name="sgd",
        momentum=0.875,
        nesterov=False,
        weight_decay=WEIGHT_DECAY,
        decay_all=True,
    )
    module = BackboneModule(model, compat or CompatConfig(), optim)
    module.network.to(memory_format=torch.channels_last)  # what a GPU's convolutions like best
    rows = np.flatnonzero(images.labels < seen)
    stream = ShapeStream(images, rows, batch_size=recipe.batch_size, seed=seed)
    loader = DataLoader(stream, batch_size=None)
    # Never validated on; Lightning warns of a module that could validate and has nothing to.
    trainer_on(images.device, steps).fit(module, loader, val_dataloaders=loader)
    return frozen(module.network).to(images.device)


def train_map(
    train: Path, recipe: Recipe, loss: ObjectiveConfig, *, seed: int, device: str
) -> TransformModule:
    """Train h on cached features by the paper's schedule and return its module."""
    torch.manual_seed(seed)
    data = PairData(train, batch_size=recipe.pairs, seed=seed)
    data.setup("fit")
    epoch = len(data.cache) // recipe.pairs
    optim = OptimConfig(
        lr=5e-4,
        total_steps=recipe.epochs * epoch,
        warmup_steps=recipe.epochs // 16 * epoch,
        hold_steps=epoch,
        name="adam",
        betas=(0.9, 0.999),
        weight_decay=WEIGHT_DECAY,
        decay_all=True,
    )
    module = TransformModule(TransformConfig(inner=recipe.inner), loss, optim)
    trainer_on(device, optim.total_steps).fit(module, datamodule=data)
    module.h.to(device)
    return module


def trainer_on(device: str, steps: int) -> lightning.Trainer:
    """Return a trainer that does nothing but train, in bfloat16 on a GPU."""
    on_gpu = device == "cuda"
    return bare_trainer(
        steps,
        accelerator="gpu" if on_gpu else "cpu",
        precision="bf16-mixed" if on_gpu else "32-true",
    )


@torch.inference_mode()
def embed_shapes(backbone: Backbone, images: ShapeImages, *view: str | int) -> NDArray[np.float32]:
    """Return what a backbone says of all images, or of one more view of each, `[n, dim]`."""
    found = np.empty((len(images), backbone.dim), dtype=np.float32)
    for start in range(0, len(images), EMBED_AT_ONCE):
        rows = np.arange(start, min(start + EMBED_AT_ONCE, len(images)))
        key = (*view, start) if view else ()
        found[rows] = backbone.embed_uint8(images.images(rows, *key)).float().cpu().numpy()
    return found
