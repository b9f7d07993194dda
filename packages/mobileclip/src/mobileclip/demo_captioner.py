"""The demo's captioner: a small classifier of aspects, trained on what the teachers learn from.

Not here: CoCa, the captioner for photographs (`generate.captioner`).
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileclip.demo_pairs import Aspects, Drawings, Source
from tenfold import keyed

BATCH_SIZE = 128
SIDE = 32


class AspectClassifier(nn.Module):
    """Three convolutions that keep the places of strokes, and one head an aspect.

    Args:
        vocabularies: The values of each aspect, in their order.
    """

    def __init__(self, vocabularies: Sequence[list[str]]) -> None:
        super().__init__()
        widths = (1, 32, 64, 96)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [
                nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.GELU(),
            ]
        features = widths[-1] * (SIDE // 2 ** (len(widths) - 1)) ** 2
        self.body = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(0.2))
        self.heads = nn.ModuleList(nn.Linear(features, len(words)) for words in vocabularies)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Return logits of each aspect for float images `[B, 1, 32, 32]` in 0..1."""
        features = self.body(image)
        return [head(features) for head in self.heads]


def train_captioner(source: Source, teaching: Drawings, *, steps: int, seed: int) -> "Captioner":
    """Train on drawings whose names are known; the same numbers whatever ran before."""
    told = [source.aspects(name) for name in teaching.names]
    vocabularies: list[list[str]] = [sorted(set(words)) for words in zip(*told, strict=True)]
    targets = torch.tensor(
        [
            [words.index(word) for word, words in zip(each, vocabularies, strict=True)]
            for each in told
        ]
    )[torch.from_numpy(teaching.label)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = AspectClassifier(vocabularies)
        _fit(network, teaching, targets, steps=steps, rng=keyed.generator("captioner", seed))
    return Captioner(network.eval(), vocabularies)


def _fit(
    network: AspectClassifier,
    teaching: Drawings,
    targets: Tensor,
    *,
    steps: int,
    rng: np.random.Generator,
) -> None:
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        rows = rng.choice(len(teaching.label), size=min(BATCH_SIZE, len(teaching.label)))
        logits = network(_pixels(teaching, rows, rng))
        losses = [F.cross_entropy(each, targets[rows, i]) for i, each in enumerate(logits)]
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        schedule.step()


class Captioner:
    """What a trained classifier tells of drawings."""

    def __init__(self, network: AspectClassifier, vocabularies: Sequence[list[str]]) -> None:
        self._network = network
        self._vocabularies = vocabularies

    @torch.inference_mode()
    def aspects(self, drawn: Drawings) -> Iterator[Aspects]:
        """Yield what the classifier sees in each drawing."""
        for first in range(0, len(drawn.label), 512):
            rows = np.arange(first, min(first + 512, len(drawn.label)))
            found = [logits.argmax(1).tolist() for logits in self._network(_pixels(drawn, rows))]
            for numbers in zip(*found, strict=True):
                pairs = zip(self._vocabularies, numbers, strict=True)
                yield tuple(words[number] for words, number in pairs)


def _pixels(drawn: Drawings, rows: Any, rng: np.random.Generator | None = None) -> Tensor:
    """Return `[B, 1, S, S]` in 0..1, shifted by up to two pixels where there is a generator."""
    image = torch.from_numpy(drawn.images[rows]).float().div(255)[:, None]
    if rng is None:
        return image
    down, right = rng.integers(-2, 3, size=2).tolist()
    return image.roll((down, right), (2, 3))
