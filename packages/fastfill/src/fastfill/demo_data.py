"""The verb `demo-data`: an old model, a better new one, and what both say of real small images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console

from fastfill.backbone import Backbone
from fastfill.cache_writing import write_cache
from fastfill.config import BackboneConfig
from fastfill.demo_training import train_backbone
from fastfill.demo_views import images_of, view_of
from fastfill.feature_cache import FeatureCache, read_cache
from fastfill.sources import Source, open_source
from fastfill.weights import backbone_card, load_backbone, save_backbone
from tenfold import atomic

Demo = Literal["digits", "glyphs"]

OLD, NEW, TRAIN, TEST = "old.safetensors", "new.safetensors", "train", "test"


@dataclass(frozen=True, kw_only=True)
class DemoSetting:
    """What a demo is made of.

    Attributes:
        train: Source that the models are trained on.
        test: Source of gallery and queries.
        seen: Classes the old model was trained on, the first ones.
        arch: Of both backbones.
        old_dim: Width of the old model's embeddings.
        dim: Width of the new model's.
        old_steps: Of the old model's training.
        steps: Of the new model's.
        lr: Their highest learning rate.
    """

    train: str
    test: str
    seen: int
    arch: str
    old_dim: int
    dim: int
    old_steps: int
    steps: int
    lr: float


DEMOS = {
    "digits": DemoSetting(
        train="digits:train",
        test="digits:test",
        seen=5,
        arch="tiny_mlp",
        old_dim=16,
        dim=16,
        old_steps=1000,
        steps=1000,
        lr=0.2,
    ),
    "glyphs": DemoSetting(
        train="glyphs:train:200",
        test="glyphs:test:200",
        seen=100,
        arch="tiny_conv",
        old_dim=32,
        dim=64,
        old_steps=200,
        steps=600,
        lr=0.5,
    ),
}


def demo_data(out: Path, *, source: Demo = "digits", views: int = 8, seed: int = 0) -> None:
    """Train an old model on half of the classes and a new one on all, and cache what they say.

    Written are `old.safetensors` and `new.safetensors` (backbones), `train` and `test` (cached
    features), and what a service would have: `old.npy`, `old.card.json` and `ids.txt`, the old
    model's vectors of the test images. What is there already is kept.

    Args:
        out: Folder to write.
        source: `digits`, handwritten, ten classes; or `glyphs`, 200 characters in 16 faces.
        views: Cached views of a training image.
        seed: Key of all draws.

    Raises:
        ValueError: There are no views.
    """
    if views < 1:
        raise ValueError(f"views must be >= 1, got {views}")
    out, setting = Path(out), DEMOS[source]  # a recipe's data.prepare has text
    train, test = open_source(setting.train), open_source(setting.test)
    old = _backbone(out / OLD, setting, train, seed=2 * seed)
    new = _backbone(out / NEW, setting, train, seed=2 * seed + 1)
    cache_demo(out / TRAIN, old, new, train, views=views, seed=seed)
    kept = cache_demo(out / TEST, old, new, test, views=1, seed=seed)
    with atomic.open_atomic(out / "old.npy") as file:
        np.save(file, kept.old(), allow_pickle=False)
    atomic.write_json(out / "old.card.json", kept.cards.old.to_json())
    atomic.write_text(out / "ids.txt", "".join(f"{id}\n" for id in kept.ids))
    Console(markup=False).print(
        f"{out}: {len(kept)} vectors of the old model, {len(train.ids())} images to learn from",
        soft_wrap=True,
    )


def cache_demo(
    folder: Path, old: Backbone, new: Backbone, source: Source, *, views: int, seed: int
) -> FeatureCache:
    """Cache what two backbones say of the same views of a source; the first view is the image."""
    if (folder / "cache.json").is_file():
        return read_cache(folder)
    said = [features(backbone, source, views=views, seed=seed) for backbone in (old, new)]
    return write_cache(
        folder,
        ids=source.ids(),
        old=said[0],
        new=said[1],
        old_card=backbone_card(old, name="old"),
        new_card=backbone_card(new, name="new"),
        labels=source.labels,
        head=new.head.weight.detach().numpy(),
        old_head=old.head.weight.detach().numpy(),
        class_names=source.class_names,
        dtype="float32",
    )


@torch.inference_mode()
def features(backbone: Backbone, source: Source, *, views: int, seed: int) -> np.ndarray:
    """Return what a backbone says of views of a source, float32 `[n, V, d]`."""
    images = images_of(source, backbone.input_size[0])
    shift = backbone.input_size[0] == 3
    each = [images, *(view_of(images, seed, view, shift=shift) for view in range(1, views))]
    return np.stack([embed_in_parts(backbone, view) for view in each], axis=1)


def embed_in_parts(backbone: Backbone, images: torch.Tensor, *, size: int = 512) -> np.ndarray:
    """Return embeddings float32 `[n, d]` of uint8 images, some at a time."""
    parts: Sequence[torch.Tensor] = images.split(size)
    return torch.cat([backbone.embed_uint8(part) for part in parts]).numpy()


def demo_model(setting: DemoSetting, train: Source, *, dim: int) -> BackboneConfig:
    """Return the configuration of a demo's backbone; the old one has a row for each class too."""
    return BackboneConfig(arch=setting.arch, dim=dim, num_classes=len(train.class_names))


def _backbone(path: Path, setting: DemoSetting, train: Source, *, seed: int) -> Backbone:
    if path.is_file():
        return load_backbone(path)[0]
    is_old = path.name == OLD
    backbone = train_backbone(
        demo_model(setting, train, dim=setting.old_dim if is_old else setting.dim),
        train,
        steps=setting.old_steps if is_old else setting.steps,
        lr=setting.lr,
        seed=seed,
        seen=setting.seen if is_old else 0,
    )
    save_backbone(path, backbone, backbone_card(backbone, name=path.stem))
    return backbone
