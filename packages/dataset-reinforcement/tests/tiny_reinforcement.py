"""A tiny data set, a teacher of two small networks, and stores of it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD
from dataset_reinforcement.generate import generate
from dataset_reinforcement.model import build_model
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from tenfold import checkpoints
from tenfold.augment.config import AugmentConfig

CLASSES = 5
SIZE = 12
AUGMENT = AugmentConfig(size=SIZE, scale=(0.3, 1.0), rand_augment=1.0, erase=0.25)
SEED = 7


@dataclass
class TinyData:
    """Images of 5 classes in files, 23 to train and 11 to measure on.

    Attributes:
        folder: Where all of it is.
        train: Images to train on.
        val: Images to measure on.
        teacher: Two random networks that look at one view at a time.
    """

    folder: Path
    train: str
    val: str
    teacher: TeacherConfig
    _stores: dict[str, Path] = field(default_factory=dict)

    def store(self, **options: Any) -> Path:
        """Generate a store, once for equal options."""
        name = repr(sorted(options.items()))
        if name not in self._stores:
            out = self.folder / f"store-{len(self._stores)}"
            options = {"augment": AUGMENT, "views": 3, "top_k": 3, "seed": SEED} | options
            generate(self.train, out, teacher=self.teacher, **options)
            self._stores[name] = out
        return self._stores[name]


def make_tiny(folder: Path) -> TinyData:
    """Write images and teacher into `folder`."""
    rng = np.random.Generator(np.random.Philox(key=1))
    for name, number in (("train", 23), ("val", 11)):
        labels = np.arange(number) % CLASSES
        images = rng.integers(0, 120, (number, 16, 15, 3)) + 20 * labels[:, None, None, None]
        names = [f"class-{label}" for label in range(CLASSES)]
        np.savez(
            folder / f"{name}.npz", images=images.astype(np.uint8), labels=labels, classes=names
        )
    members = [_member(folder / f"teacher-{seed}.safetensors", seed) for seed in (0, 1)]
    return TinyData(
        folder=folder,
        train=str(folder / "train.npz"),
        val=str(folder / "val.npz"),
        teacher=TeacherConfig(members=tuple(members), batch=1),
    )


def _member(path: Path, seed: int) -> MemberConfig:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_model("conv4", num_classes=CLASSES, image_size=SIZE)
        network.head.weight.data *= 30  # untrained, but of decided opinions
    checkpoints.save_weights(path, network.state_dict(), {})
    return MemberConfig(
        model="conv4", checkpoint=path, size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD
    )
