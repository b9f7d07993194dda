"""An old model that has hardly seen a subgroup: whom does a partial backfill serve first (spec 7a).

Digits come upright (group A) and turned by 90 degrees (group B), and a turned digit is a class of
its own, as a person belongs to one group: what a query should find is of its group. The old model
saw all of A and 5 % of B, the new one all of both. The gap between the groups' queries is followed
along the backfill.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fastfill.backbone import Backbone
from fastfill.cache_writing import write_cache
from fastfill.config import BackboneConfig, ObjectiveConfig
from fastfill.demo_data import DEMOS, TEST, TRAIN, embed_in_parts
from fastfill.demo_training import train_on
from fastfill.demo_views import images_of, view_of
from fastfill.evaluation.curve import Curve
from fastfill.feature_cache import read_cache
from fastfill.ordering import OrderInputs, order
from fastfill.sources import Source, open_source
from fastfill.study import PERMUTATIONS, train_map, update_curves
from fastfill.transform import transform_all
from fastfill.weights import backbone_card
from tenfold import keyed
from tenfold.cli.quiet import silence_adverts
from tenfold.measurements import one_thread

SHARE = 0.05
"""Of group B that the old model was trained on."""

CLASSES = 10
VIEWS = 8
BETA = 0.3
"""Where the gap is judged."""


@dataclass(frozen=True, kw_only=True)
class BiasedUpdate:
    """A biased old model to be replaced.

    Attributes:
        seed: Of models, map and orders.
    """

    seed: int

    @property
    def key(self) -> str:
        """Name of the job."""
        return f"bias-{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Turned:
    """Images upright and turned, uint8 `[2n, C, H, W]`, classes `[2n]`, group B `[2n]` bool."""

    images: Tensor
    labels: Tensor
    turned: Tensor

    @classmethod
    def of(cls, source: Source) -> "Turned":
        """Return all images of a source in both groups."""
        images, labels = images_of(source, 1), torch.from_numpy(source.labels)
        return cls(
            images=torch.cat([images, images.rot90(dims=(2, 3))]),
            labels=torch.cat([labels, labels + CLASSES]),
            turned=torch.arange(2 * len(labels)) >= len(labels),
        )


def measure_bias(update: BiasedUpdate, folder: Path) -> dict[str, dict[str, float]]:
    """Return metric to arm to value, mAP gap of A over B in points; a job without files."""
    silence_adverts()
    with one_thread(), tempfile.TemporaryDirectory() as made:
        demo = Path(made)
        train, test = (Turned.of(open_source(f"digits:{split}")) for split in ("train", "test"))
        old = _backbone(train, _mostly_upright(train, update.seed), seed=2 * update.seed)
        new = _backbone(train, torch.arange(len(train.labels)), seed=2 * update.seed + 1)
        _cache(demo / TRAIN, old, new, train, views=VIEWS, seed=update.seed)
        _cache(demo / TEST, old, new, test, views=1, seed=update.seed)
        h = train_map(demo, ObjectiveConfig(), seed=update.seed)
        kept = read_cache(demo / TEST)
        z, s = transform_all(h.h, kept.old())
        sigma = order("sigma", OrderInputs(size=len(z), s=s))
        found = update_curves(kept.new(), z, kept.new(), kept.labels, {"sigma": sigma})
    turned = test.turned.numpy()
    random = [found[f"random-{seed}"] for seed in range(PERMUTATIONS)]
    gaps = {
        "sigma": gap(found["sigma"], turned),
        "random": np.mean([gap(each, turned) for each in random], axis=0),
    }
    betas = found["sigma"].betas
    first = sigma[: round(BETA * len(sigma))]
    return {
        f"gap_at_{BETA}": {a: 100 * float(np.interp(BETA, betas, g)) for a, g in gaps.items()},
        "gap": {
            "before": 100 * float(gaps["sigma"][0]),
            "full backfill": 100 * float(gaps["sigma"][-1]),
        },
        f"share_of_group_b_at_{BETA}": {"sigma": float(turned[first].mean())},
    }


def gap(curve: Curve, turned: np.ndarray) -> np.ndarray:
    """Return by how much mAP of group A is above that of B at each point."""
    return curve.of_queries(~turned).map - curve.of_queries(turned).map


def _mostly_upright(train: Turned, seed: int) -> Tensor:
    turned = train.turned.numpy()
    of_b = np.flatnonzero(turned)
    few = keyed.generator("bias", seed).choice(of_b, size=round(SHARE * len(of_b)), replace=False)
    return torch.from_numpy(np.concatenate([np.flatnonzero(~turned), np.sort(few)]))


def _backbone(train: Turned, rows: Tensor, *, seed: int) -> Backbone:
    setting = DEMOS["digits"]
    model = BackboneConfig(arch=setting.arch, dim=setting.dim, num_classes=2 * CLASSES)
    images, labels = train.images[rows], train.labels[rows]
    return train_on(images, labels, model, steps=setting.steps, lr=setting.lr, seed=seed)


@torch.inference_mode()
def _cache(
    folder: Path, old: Backbone, new: Backbone, data: Turned, *, views: int, seed: int
) -> None:
    each = [data.images]
    each += [view_of(data.images, seed, view, shift=False) for view in range(1, views)]
    said = [np.stack([embed_in_parts(b, v) for v in each], axis=1) for b in (old, new)]
    write_cache(
        folder,
        ids=[f"digit-{row}" for row in range(len(data.labels))],
        old=said[0],
        new=said[1],
        old_card=backbone_card(old, name="old"),
        new_card=backbone_card(new, name="new"),
        labels=data.labels.numpy(),
        head=new.head.weight.detach().numpy(),
        old_head=old.head.weight.detach().numpy(),
        groups=["B" if turned else "A" for turned in data.turned.tolist()],
        dtype="float32",
    )
