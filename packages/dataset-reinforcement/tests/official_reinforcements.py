"""An official folder of reinforcements, written from its description (spec section 3)."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_stores import CLASSES, NUM_IMAGES, TOP_K

from tenfold.augment.magnitudes import magnitude
from tenfold.augment.params import Box, MixParams, Op, ViewParams

OFFICIAL: dict[str, dict[str, Any]] = {
    "uint8": {"enable": True},
    "random_resized_crop": {"enable": True, "size": 16},
    "random_horizontal_flip": {"enable": True, "p": 0.5},
    "rand_augment": {"enable": True, "p": 1.0},
    "to_tensor": {"enable": True},
    "normalize": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "random_erase": {"enable": True, "p": 0.25},
    "mixup": {"enable": True, "alpha": 1.0, "div_by": 2.0, "p": 0.5},
    "cutmix": {"enable": True, "alpha": 1.0, "p": 0.5},
}
"""`+M*+R*` of section 2.2, at another size."""


def _magnitude(op: int, level: int) -> float:
    return magnitude(op, level, height=16, width=16, bins=31)


SHEAR, BRIGHT = _magnitude(1, 9), _magnitude(6, 9)
PLAIN_VIEW = [None, [2, 3, 10, 12], True, [[1, -SHEAR], [13, 0.0]], None, None, None]
MIXED_VIEW = [
    7,
    [[0, 0, 24, 28], [1, 2, 20, 21]],
    [False, True],
    [[[6, BRIGHT], [0, 0.0]], [[1, SHEAR], [6, -BRIGHT]]],
    [[1, 2, 3, 4], None],
    0.37,
    (0.4, np.int64(2), np.int64(3), np.int64(8), np.int64(10)),
]
PARAMS = [PLAIN_VIEW, MIXED_VIEW]
EXPECTED: list[tuple[ViewParams, MixParams | None]] = [
    (ViewParams(Box(2, 3, 10, 12), True, (Op(1, -9), Op(13, 0)), None), None),
    (
        ViewParams(Box(0, 0, 24, 28), False, (Op(6, 9), Op(0, 0)), Box(1, 2, 3, 4)),
        MixParams(
            7,
            ViewParams(Box(1, 2, 20, 21), True, (Op(1, 9), Op(6, -9)), None),
            mixup=float(np.float32(0.37)),
            cutmix=Box(2, 3, 6, 7),
        ),
    ),
]


def label(index: int, view: int) -> tuple[list[float], list[int]]:
    """Unordered, as `argpartition` leaves it."""
    rng = np.random.Generator(np.random.Philox(key=[index, view]))
    dense = rng.dirichlet(np.ones(len(CLASSES))).astype(np.float32)
    chosen = np.argpartition(dense, -TOP_K)[-TOP_K:]
    return dense[chosen].tolist(), chosen.tolist()


def official_config(augmentation: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "dataset": "imagenet",
        "num_classes": len(CLASSES),
        "seed": None,
        "teacher": {"timm_ensemble": True, "name": "ig_resnext101_32x8d,ig_resnext101_32x16d"},
        "reinforce": {
            "num_samples": len(PARAMS),
            "num_candidates": None,
            "topk": TOP_K,
            "compress": True,
            "joblib": False,
            "gzip": True,
            "image_augmentation": augmentation or OFFICIAL,
        }
        | changes,
    }


def save(path: Path, value: object, *, zipped: bool = True) -> None:
    torch.save(value, path, pickle_protocol=4, _use_new_zipfile_serialization=zipped)


def write_official(folder: Path, *, zipped: bool = True, config: Any = None) -> Path:
    folder.mkdir()
    for index in range(NUM_IMAGES):
        views = [
            {"params": params, "prob": label(index, view)} for view, params in enumerate(PARAMS)
        ]
        save(folder / f"{index}.pth.tar", (index, views), zipped=zipped)
    torch.save(config or official_config(), folder / "config.pth.tar")
    return folder
