"""One training example: which view of an image, its pixels and its target (spec 2.1, 2.4).

Every draw depends on (seed, epoch, index) alone, so that neither workers, nor ranks, nor an
interruption change an example. The same code serves random access and streams.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NotRequired, Protocol, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dataset_reinforcement.config import CurriculumConfig, Mode
from dataset_reinforcement.curriculum import admissible_views
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.views import make_view
from tenfold import keyed
from tenfold.augment.config import AugmentConfig
from tenfold.augment.mixing import to_float
from tenfold.augment.params import MixParams, ViewParams
from tenfold.augment.pipeline import Augment

DrawView = Callable[[int, int], tuple[ViewParams, MixParams | None]]
"""Draws the parameters of a view from image and view number."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an example stands in a run.

    Attributes:
        epoch: Pass over the data, from 0.
        index: Image.
        size: Side of the view.
        progress: Part of the run that is done, for the curriculum.
    """

    epoch: int
    index: int
    size: int
    progress: float = 0.0


class Example(TypedDict):
    """One view `[3, S, S]`, uint8 or float32 in 0..1, and what it is trained on.

    `classes` int64 `[K]` and `probabilities` float32 `[K]` are its label for `dr`.
    """

    image: Tensor
    label: int
    key: str
    reinforced: bool
    classes: NotRequired[NDArray[np.int64]]
    probabilities: NotRequired[NDArray[np.float32]]


class ImageBatch(TypedDict):
    """Images `[B, 3, S, S]`, uint8 or float32 in 0..1, their labels int64 `[B]`, sample names.

    Training on stored labels adds `classes` int64 `[B, K]` and `probabilities` float32 `[B, K]`,
    one-hot where `reinforced` `[B]` is false.
    """

    image: Tensor
    label: Tensor
    keys: list[str]
    reinforced: NotRequired[Tensor]
    classes: NotRequired[Tensor]
    probabilities: NotRequired[Tensor]


class Record(Protocol):
    """An image and what is stored for it."""

    @property
    def label(self) -> int:
        """The class."""
        ...

    @property
    def key(self) -> str:
        """The name."""
        ...

    @property
    def num_views(self) -> int:
        """Number of stored views; 0 for an image that is not reinforced."""
        ...

    def reinforcement(self, view: int) -> Reinforcement:
        """Return a stored view."""
        ...

    def entropies(self) -> NDArray[np.floating]:
        """Return the entropy of each stored label, `[num_views]`."""
        ...

    def load(self, index: int) -> Tensor:
        """Return the pixels of an image, its own or a partner's, uint8 `[3, H, W]`."""
        ...


@dataclass(frozen=True, kw_only=True)
class ReplayConfig:
    """How examples are drawn.

    Attributes:
        mode: `erm` uses no stored views, `kd` their pixels, `dr` their labels too.
        augment: Augmentation of images that are not reinforced, MixUp and CutMix left out: they
            would need a mixed label. For `kd` without a store, of all views.
        stored: Augmentation of the store's views; None without a store.
        seed: Key of all draws.
        share: Probability p of taking a stored view in `dr`.
        num_views: Views of an image that `kd` draws without a store; 0 draws another each epoch.
        num_classes: C.
        top_k: K, length of the stored labels.
        curriculum: Which stored views may be drawn.

    Raises:
        ValueError: `dr` without a store, or `erm` with an augmentation that mixes.
    """

    mode: Mode
    augment: AugmentConfig
    stored: AugmentConfig | None = None
    seed: int = 0
    share: float = 0.99
    num_views: int = 0
    num_classes: int = 1000
    top_k: int = 10
    curriculum: CurriculumConfig = field(default_factory=CurriculumConfig)

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"data.share must lie in 0..1, got {self.share}")
        if self.num_views < 0:
            raise ValueError(f"data.views must be >= 0, got {self.num_views}")
        if self.mode == "dr" and self.stored is None:
            raise ValueError("loss.mode dr needs data.store: a folder that `generate` wrote")
        if self.mode == "erm" and self.augment.mixes:
            raise ValueError(
                "data.augment.mixup and cutmix must be 0 for loss.mode erm, whose labels would "
                "not fit; mix batches with loss.mixup_alpha and loss.cutmix_alpha"
            )


class Replay:
    """Makes examples.

    Args:
        config: How they are drawn.
        draw: Draws a view's parameters where `kd` runs without a store.
    """

    def __init__(self, config: ReplayConfig, *, draw: DrawView | None = None) -> None:
        self.config = config
        self.plain = Augment(replace(config.augment, mixup=0.0, cutmix=0.0))
        self.views = Augment(config.stored or config.augment)
        self.draw = draw

    def example(self, record: Record, place: Place) -> Example:
        """Return the example of an image at a place of the run."""
        mode = self.config.mode
        rng = keyed.generator("example", self.config.seed, place.epoch, place.index)
        taken = rng.random() < self.config.share or mode == "kd"
        if mode == "kd" and self.config.stored is None:
            return self._drawn_view(record, place, rng)
        if mode == "erm" or not taken or not record.num_views:
            return self._plain_view(record, place)
        return self._stored_view(record, place, rng)

    def _stored_view(self, record: Record, place: Place, rng: np.random.Generator) -> Example:
        stored = record.reinforcement(self._choose(record, place, rng))
        image = self._make(record, place, stored.own, stored.mix)
        example = _example(record, image, reinforced=True)
        if self.config.mode == "dr":
            example["classes"] = stored.classes.astype(np.int64)
            example["probabilities"] = stored.probabilities.astype(np.float32)
        return example

    def _drawn_view(self, record: Record, place: Place, rng: np.random.Generator) -> Example:
        assert self.draw is not None
        views = self.config.num_views
        view = int(rng.integers(views)) if views else place.epoch
        image = self._make(record, place, *self.draw(place.index, view))
        return _example(record, image, reinforced=True)

    def _plain_view(self, record: Record, place: Place) -> Example:
        image = record.load(place.index)
        rng = keyed.generator("plain view", self.config.seed, place.epoch, place.index)
        params = self.plain.draw(rng, image.shape[1], image.shape[2])
        view = self.plain.apply(image, params, size=place.size)
        example = _example(record, view, reinforced=False)
        if self.config.mode == "dr":
            example["classes"], example["probabilities"] = one_hot(
                record.label, top_k=self.config.top_k, num_classes=self.config.num_classes
            )
        return example

    def _choose(self, record: Record, place: Place, rng: np.random.Generator) -> int:
        if self.config.curriculum.order == "none":
            return int(rng.integers(record.num_views))
        views = admissible_views(record.entropies(), self.config.curriculum, place.progress)
        return int(views[rng.integers(views.size)])

    def _make(self, record: Record, place: Place, own: ViewParams, mix: MixParams | None) -> Tensor:
        return make_view(self.views, record.load, own, mix, place.index, size=place.size)


def one_hot(
    label: int, *, top_k: int, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return a hard label in the form of a stored one: K classes, none twice, all on `label`."""
    classes = (label + np.arange(top_k, dtype=np.int64)) % num_classes
    probabilities = np.zeros(top_k, dtype=np.float32)
    probabilities[0] = 1
    return classes, probabilities


def collate(examples: Sequence[Example]) -> ImageBatch:
    """Join examples of one size; as uint8 unless one of them is mixed."""
    images = [example["image"] for example in examples]
    if any(image.is_floating_point() for image in images):
        images = [as_float(image) for image in images]
    batch: ImageBatch = {
        "image": torch.stack(images),
        "label": torch.tensor([example["label"] for example in examples]),
        "keys": [example["key"] for example in examples],
        "reinforced": torch.tensor([example["reinforced"] for example in examples]),
    }
    labels = [
        (example["classes"], example["probabilities"])
        for example in examples
        if "classes" in example and "probabilities" in example
    ]
    if labels:
        classes, probabilities = zip(*labels, strict=True)
        batch["classes"] = torch.from_numpy(np.stack(classes))
        batch["probabilities"] = torch.from_numpy(np.stack(probabilities))
    return batch


def as_float(image: Tensor) -> Tensor:
    """Return images as float32 in 0..1; such as are float already are taken for that."""
    return image if image.is_floating_point() else to_float(image)


def _example(record: Record, image: Tensor, *, reinforced: bool) -> Example:
    return {"image": image, "label": record.label, "key": record.key, "reinforced": reinforced}
