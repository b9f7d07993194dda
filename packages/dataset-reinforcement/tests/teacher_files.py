"""Small teachers on disk, a tiny data set, and the options of a quick generation."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from dataset_reinforcement.config import IMAGENET_MEAN, IMAGENET_STD
from dataset_reinforcement.model import build_model
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig

SIZE = 16
MEAN, STD = IMAGENET_MEAN, IMAGENET_STD
CLASSES = ("cat", "dog", "owl", "yak")
OPTIONS: dict[str, Any] = {
    "variant": "randaug_mixing",
    "size": SIZE,
    "views": 3,
    "top_k": 3,
    "shard_size": 5,
    "view_batch": 8,
}


def write_member(path: Path, seed: int = 0, classes: int = len(CLASSES)) -> MemberConfig:
    """Save a random network whose answers differ clearly from view to view."""
    torch.manual_seed(seed)
    network = build_model("conv4", num_classes=classes, image_size=SIZE)
    weights = network.state_dict()
    for name in ("head.weight", "head.bias"):
        weights[name] = 20 * weights[name]
    save_file(weights, path)
    return MemberConfig(model="conv4", checkpoint=path, size=SIZE, mean=MEAN, std=STD)


def make_teacher(folder: Path, members: int = 2, **options: Any) -> TeacherConfig:
    """Save an ensemble."""
    configs = [write_member(folder / f"member-{seed}.safetensors", seed) for seed in range(members)]
    return TeacherConfig(members=tuple(configs), **options)


def write_images(folder: Path, count: int = 4) -> Path:
    """Write `count` noisy images of several sizes and modes a class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            shape = (18 + 3 * number, 20 + 2 * label, 3)
            image = Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8))
            image = image.convert("L") if number == 1 else image
            image.save(folder / name / f"{number}.png")
    return folder


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file by its path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
