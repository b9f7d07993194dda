"""How a training example is made of a stored pair; free of torch."""

import re
from dataclasses import dataclass
from typing import Literal, get_args

from mobileclip.config import Captions, Mode
from mobileclip.members import SYNTHETIC_KEYS
from mobileclip.schema import MOBILECLIP_AUGMENT
from tenfold.augment.config import AugmentConfig

Sampling = Literal["random", "sequential"]


@dataclass(frozen=True, kw_only=True)
class ReaderConfig:
    """Options of reading (spec 2.1 and 2.2).

    Attributes:
        mode: Training mode, see `LossConfig`.
        captions: Which captions an example has, see `LossConfig`.
        mix_ratio: Probability of a synthetic caption where `captions` is `mix`.
        image_size: Side of the student's images, pixels.
        context_length: Tokens of a text.
        sampling: `random` draws view and captions anew each epoch, `sequential` takes number
            epoch mod n of each.
        synthetic_keys: Regular expression of the keys of `syn.json` whose captions are used.
        scale_translate: Whether RandAugment's translations, stored in pixels of the teacher's view,
            grow with the student's image; the official code does not scale them.
        rescale_boxes: Whether crop boxes are scaled to images that were only resized since their
            views were drawn; otherwise such samples are rejected.
        min_image_size: Pixels that the shorter side of a stored image must have; 0 for any. Smaller
            ones are passed over, and are not bad samples.
        augment: Views that are drawn and not stored; None for the baseline's light crop in mode
            `clip` and for the published pipeline in mode `online`.
        seed: Key of all draws.

    Raises:
        ValueError: A value is out of its range.
    """

    mode: Mode = "dr"
    captions: Captions = "both"
    mix_ratio: float = 0.5
    image_size: int = 256
    context_length: int = 77
    sampling: Sampling = "random"
    synthetic_keys: str = SYNTHETIC_KEYS
    scale_translate: bool = False
    rescale_boxes: bool = False
    min_image_size: int = 0
    augment: AugmentConfig | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("mode", Mode), ("captions", Captions), ("sampling", Sampling)):
            value, known = getattr(self, name), get_args(choices)
            _require(value in known, name, f"must be one of {', '.join(known)}", value)
        _require(0 <= self.mix_ratio <= 1, "mix_ratio", "must lie in 0..1", self.mix_ratio)
        _require(self.image_size >= 1, "image_size", "must be >= 1", self.image_size)
        _require(self.seed >= 0, "seed", "must be >= 0", self.seed)
        least = self.min_image_size
        _require(least >= 0, "min_image_size", "must be >= 0 (0 for any size)", least)
        mixes = self.augment is not None and self.augment.mixes
        _require(not mixes, "augment", "must not mix images", self.augment)
        _require(
            _compiles(self.synthetic_keys),
            "synthetic_keys",
            "must be a regular expression",
            self.synthetic_keys,
        )

    @property
    def needs_real(self) -> bool:
        """Whether an example may have a real caption."""
        return self.captions != "synthetic"

    @property
    def needs_synthetic(self) -> bool:
        """Whether an example may have a synthetic caption."""
        return self.captions != "real"

    @property
    def drawn_augment(self) -> AugmentConfig:
        """Pipeline of the views that are not stored."""
        if self.augment is not None:
            return self.augment
        if self.mode == "clip":
            return AugmentConfig(size=self.image_size, scale=(0.9, 1.0), flip=0.0)
        return MOBILECLIP_AUGMENT


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"data.{name} {expectation}, got {value}")
