"""Accuracy on noise, blur and low contrast, at one severity, for studies of many small runs.

Not here: the whole set of corruptions and severities, which `evaluate` measures.
"""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from dataset_reinforcement.corruptions import LEVELS, CorruptedImages
from dataset_reinforcement.images import open_images
from dataset_reinforcement.module import ReinforcementModule

SEVERITY = 3
BATCH = 256


class CorruptedSet(NamedTuple):
    """Every image once for each corruption: uint8 `[N, 3, S, S]`, labels int64 `[N]`."""

    images: Tensor
    labels: Tensor


@lru_cache(maxsize=1)  # the runs of a study share it
def corrupted_set(spec: str) -> CorruptedSet:
    """Return images of one size under each corruption of `corruptions.LEVELS`, severity 3."""
    clean = open_images(spec)
    sources = [CorruptedImages(clean, name, SEVERITY) for name in LEVELS]
    images = [source.load(index) for source in sources for index in range(len(source))]
    labels = [clean.label(index) for index in range(len(clean))] * len(sources)
    return CorruptedSet(torch.stack(images), torch.tensor(labels))


@torch.inference_mode()
def corrupted_top1(module: ReinforcementModule, spec: str, *, device: str) -> float:
    """Return the mean top-1 over the corruptions, 0..1, of images of the module's size."""
    module.to(device).eval()
    images, labels = corrupted_set(spec)
    hits = 0
    for part, truth in zip(images.split(BATCH), labels.split(BATCH), strict=True):
        hits += int((module(part.to(device)).argmax(1).cpu() == truth).sum())
    return hits / len(labels)
