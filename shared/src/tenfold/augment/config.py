"""Options of a replayable augmentation; standard library only."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast

Crop = Literal["random_resized", "random", "center", "none"]
Interpolation = Literal["bilinear", "bicubic"]


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """One pipeline: resize, crop, flip, RandAugment, erasing, MixUp, CutMix, in this order.

    The order is that of the official code of Dataset Reinforcement and of MobileCLIP and is no
    option. Defaults are torchvision's.

    Attributes:
        size: Side of the output, pixels.
        resize: Side to which the shorter edge is scaled before the crop; None for none.
        crop: How the output is cut: `random_resized`, `random` (with `padding`), `center`, or
            `none` (the image is resized to the output as a whole).
        scale: Area of a random resized crop, as share of the image's.
        ratio: Aspect ratio of a random resized crop.
        padding: Black pixels round the image before a `random` crop.
        interpolation: Of resizing.
        antialias: Whether resizing smooths before it shrinks.
        flip: Probability of mirroring left to right.
        rand_augment: Probability of the whole RandAugment block.
        num_ops: Operations of the block.
        magnitude: Magnitude bin of every operation.
        bins: Number of magnitude bins.
        translate_pixels: Output size for which translations are computed; None for the actual one.
            The official code replays the pixels of 224 at every size.
        erase: Probability of erasing a region.
        erase_scale: Area of the erased region, as share of the output's.
        erase_ratio: Aspect ratio of the erased region.
        mixup: Probability of MixUp.
        mixup_alpha: Both parameters of its Beta distribution.
        mixup_owner: `most` gives the owner image a weight of at least one half; `apple` divides the
            draw by two, as the official code does, so the partner has it.
        cutmix: Probability of CutMix, drawn independently of MixUp's.
        cutmix_alpha: Both parameters of its Beta distribution.

    Raises:
        ValueError: A value is out of its range.
    """

    size: int = 224
    resize: int | None = None
    crop: Crop = "random_resized"
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    padding: int = 0
    interpolation: Interpolation = "bilinear"
    antialias: bool = True
    flip: float = 0.5
    rand_augment: float = 0.0
    num_ops: int = 2
    magnitude: int = 9
    bins: int = 31
    translate_pixels: int | None = None
    erase: float = 0.0
    erase_scale: tuple[float, float] = (0.02, 0.33)
    erase_ratio: tuple[float, float] = (0.3, 3.3)
    mixup: float = 0.0
    mixup_alpha: float = 1.0
    mixup_owner: Literal["most", "apple"] = "most"
    cutmix: float = 0.0
    cutmix_alpha: float = 1.0

    def __post_init__(self) -> None:
        for name in ("flip", "rand_augment", "erase", "mixup", "cutmix"):
            value = getattr(self, name)
            _require(0 <= value <= 1, name, "must be a probability", value)
        for name in ("scale", "ratio", "erase_scale", "erase_ratio"):
            low, high = getattr(self, name)
            _require(0 < low <= high, name, "must be two rising numbers > 0", (low, high))
        for name in ("scale", "erase_scale"):
            _require(getattr(self, name)[1] <= 1, name, "must not exceed 1", getattr(self, name))
        for name in ("size", "num_ops", "mixup_alpha", "cutmix_alpha"):
            _require(getattr(self, name) > 0, name, "must be > 0", getattr(self, name))
        for name in ("resize", "translate_pixels"):
            value = getattr(self, name)
            _require(value is None or value > 0, name, "must be > 0 or null", value)
        _require(self.padding >= 0, "padding", "must be >= 0", self.padding)
        _require(
            self.padding == 0 or self.crop == "random",
            "padding",
            "must be 0 unless crop is random",
            self.padding,
        )
        _require(
            self.resize is None or self.crop != "none",
            "resize",
            "must be null where crop is none, which resizes the whole image to the output",
            self.resize,
        )
        _require(2 <= self.bins <= 128, "bins", "must lie in 2..128", self.bins)
        _require(
            0 <= self.magnitude < self.bins,
            "magnitude",
            f"must lie in 0..{self.bins - 1}",
            self.magnitude,
        )

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the configuration whose fields JSON has kept, with lists for tuples."""
        plain: dict[str, Any] = dict(values)
        for name, value in values.items():
            if isinstance(value, list):
                plain[name] = tuple(cast("list[Any]", value))
        return cls(**plain)

    @property
    def mixes(self) -> bool:
        """Whether a view may need a second image."""
        return self.mixup > 0 or self.cutmix > 0


def _require(holds: bool, field: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"augment.{field} {expectation}, got {value}")
