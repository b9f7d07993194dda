"""One update at the scale `gpu`: FCT, BCT and FastFill by every order, on rendered images (7b).

Queries and gallery are the test images, a query is left out of its own ranking. What is trained
and cached stays in the update's folder: an interrupted run goes on with it. Not here: training
(`shapes_training.py`), the gallery of a million vectors (`gallery_gpu.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fastfill.backbone import Backbone
from fastfill.cache_writing import write_cache
from fastfill.config import BackboneConfig, CompatConfig, ObjectiveConfig
from fastfill.evaluation.curve import curves
from fastfill.evaluation.metrics import retrieval
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.ordering import OrderInputs, order
from fastfill.shapes import NUM_CLASSES, ShapeImages, class_name
from fastfill.shapes_training import Recipe, embed_shapes, train_backbone, train_map
from fastfill.study import (
    DISC,
    FASTFILL,
    FCT,
    OBJECTIVES,
    PERMUTATIONS,
    Values,
    mean_random,
    merge,
    of_random,
    scores,
    widened,
)
from fastfill.transform import EmbeddingMap, transform_all
from fastfill.weights import (
    backbone_card,
    load_backbone,
    load_transformation,
    save_backbone,
    save_transformation,
)
from tenfold.cli.quiet import silence_adverts

BCT = "BCT"
OLD_MODEL = BackboneConfig(arch="resnet18", dim=128, num_classes=NUM_CLASSES)
NEW_MODEL = BackboneConfig(arch="resnet50", dim=128, num_classes=NUM_CLASSES)
MAPS: Mapping[str, ObjectiveConfig] = {arm: OBJECTIVES[arm] for arm in (FCT, DISC, FASTFILL)}


@dataclass(frozen=True, kw_only=True)
class ShapeScale:
    """Sizes of everything; the defaults fill 20 minutes of one H200, by estimate.

    Attributes:
        train: Images to learn from.
        test: Images of queries and gallery.
        image_size: Their side, pixels.
        seen: Classes of the old model, the first ones.
        old: The old model.
        new: The new model, and the compatible one.
        views: Cached views of a training image.
        recipe: How long networks train.
        gallery: Vectors of the gallery that is searched during a backfill.
        queries: Of that gallery.
        rate: Items a second that are written to it.
    """

    train: int = 40_000
    test: int = 10_000
    image_size: int = 64
    seen: int = 100
    old: BackboneConfig = OLD_MODEL
    new: BackboneConfig = NEW_MODEL
    views: int = 8
    recipe: Recipe = field(default_factory=Recipe)
    gallery: int = 1_000_000
    queries: int = 1000
    rate: float = 10_000


@dataclass(frozen=True, kw_only=True)
class ShapeUpdate:
    """An update to measure.

    Attributes:
        seed: Of models, maps and orders; the images are the same for all.
        size: Sizes of everything.
        folder: Of all updates.
        device: `cpu` or `cuda`.
    """

    seed: int
    size: ShapeScale
    folder: Path
    device: str

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"shapes-{self.seed}"

    @property
    def place(self) -> Path:
        """Folder of the models and features."""
        return self.folder / self.key

    def images(self, split: str, count: int) -> ShapeImages:
        """Return images of a split."""
        return ShapeImages(split, count=count, size=self.size.image_size, device=self.device)


@dataclass(frozen=True, kw_only=True)
class Models:
    """The backbones of an update."""

    old: Backbone
    new: Backbone
    bct: Backbone


def measure_shapes(update: ShapeUpdate, folder: Path) -> Values:
    """Return metric to arm to value, mAP in percent; a job, which leaves no file in its folder."""
    silence_adverts()
    models = update_models(update)
    test = cached(update, models, "test", update.size.test, views=1)
    values: Values = _reference(test, update.device)
    for arm in MAPS:
        z, s = transform_all(trained_map(update, models, arm), test.old())
        merge(values, _of_gallery(arm, z, s if arm == FASTFILL else None, test, update))
    new = embed_shapes(models.bct, update.images("test", update.size.test))
    head = models.bct.head.weight.detach().cpu().numpy()
    z = widened(test.old(), new.shape[1])
    merge(values, _of_gallery(BCT, z, None, test, update, new=new, head=head))
    return values


def update_models(update: ShapeUpdate) -> Models:
    """Train what is missing of the update's models."""
    old = _model(update, "old", update.size.old, steps=update.size.recipe.old_steps)
    new = _model(update, "new", update.size.new, steps=update.size.recipe.steps)
    compat = CompatConfig(
        method="bct", old=update.place / "old.safetensors", old_classes=update.size.seen
    )
    bct = _model(update, "bct", update.size.new, steps=update.size.recipe.steps, compat=compat)
    return Models(old=old, new=new, bct=bct)


def cached(
    update: ShapeUpdate, models: Models, split: str, count: int, *, views: int
) -> FeatureCache:
    """Cache what old and new model say of a split; the first view is the image itself."""
    path = update.place / split
    if (path / "cache.json").is_file():
        return read_cache(path)
    images, names = update.images(split, count), list(map(class_name, range(NUM_CLASSES)))
    old, new = (
        np.stack(
            [embed_shapes(model, images)]
            + [embed_shapes(model, images, "cache", view) for view in range(1, views)],
            axis=1,
        )
        for model in (models.old, models.new)
    )
    return write_cache(
        path,
        ids=images.ids,
        old=old,
        new=new,
        old_card=backbone_card(models.old, name="old"),
        new_card=backbone_card(models.new, name="new"),
        labels=images.labels,
        head=models.new.head.weight.detach().cpu().numpy(),
        old_head=models.old.head.weight.detach().cpu().numpy(),
        class_names=names,
        dtype="float32",
    )


def trained_map(update: ShapeUpdate, models: Models, arm: str) -> EmbeddingMap:
    """Return the map of an arm, trained where it is missing."""
    path = update.place / f"h-{arm.replace('+', '-')}.safetensors"
    if not path.is_file():
        size = update.size
        cached(update, models, "train", size.train, views=size.views)
        module = train_map(
            update.place / "train",
            size.recipe,
            MAPS[arm],
            seed=update.seed,
            device=update.device,
        )
        assert module.card is not None
        save_transformation(path, module.h, module.card)
    return load_transformation(path)[0].to(update.device)


def _model(
    update: ShapeUpdate,
    name: str,
    config: BackboneConfig,
    *,
    steps: int,
    compat: CompatConfig | None = None,
) -> Backbone:
    path = update.place / f"{name}.safetensors"
    if not path.is_file():
        size = update.size
        backbone = train_backbone(
            config,
            update.images("train", size.train),
            size.recipe,
            steps=steps,
            seed=2 * update.seed + (name != "old"),
            seen=size.seen if name == "old" else NUM_CLASSES,
            compat=compat,
        )
        save_backbone(path, backbone, backbone_card(backbone, name=name))
    backbone = load_backbone(path)[0].to(update.device)
    return backbone.to(memory_format=torch.channels_last)  # what a GPU's convolutions like best


def _reference(test: FeatureCache, device: str) -> Values:
    rows, labels = np.arange(len(test)), test.labels
    both = {"no update (old/old)": test.old(), "full backfill (new/new)": test.new()}
    return {
        "map_before": {
            arm: 100 * retrieval(x, x, labels, labels, self_rows=rows, device=device).map
            for arm, x in both.items()
        }
    }


def _of_gallery(
    arm: str,
    z: NDArray[np.float32],
    s: NDArray[np.float32] | None,
    test: FeatureCache,
    update: ShapeUpdate,
    *,
    new: NDArray[np.float32] | None = None,
    head: NDArray[np.float32] | None = None,
) -> Values:
    """Measure every order of a gallery of `z`, to which new vectors come.

    There is none by sigma without `s`.
    """
    new = test.new() if new is None else new
    head = test.head if head is None else head
    inputs = {
        "entropy": OrderInputs(size=len(z), z=z, head=head),
        "distance": OrderInputs(size=len(z), z=z, new=new),
    }
    if s is not None:
        inputs["sigma"] = OrderInputs(size=len(z), s=s, z=z, head=head)
    orders = {name: order(name, inputs[name]) for name in inputs}
    for seed in range(PERMUTATIONS):
        orders[f"random-{seed}"] = order("random", OrderInputs(size=len(z), seed=seed))
    rows = np.arange(len(z))
    found = curves(new, z, new, test.labels, orders, self_rows=rows, device=update.device)
    values = of_random(arm, mean_random(found))
    for name in inputs:
        merge(values, scores(f"{arm}, {name}", found[name].map))
    return values
