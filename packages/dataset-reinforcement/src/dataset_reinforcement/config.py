"""Options of model, loss, curriculum and resolution; standard library only."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Mode = Literal["erm", "kd", "dr"]
Form = Literal["sparse", "dense"]
Rest = Literal["uniform", "renormalise"]
Order = Literal["none", "easy_to_hard", "hard_to_easy", "band"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The student.

    Args:
        name: A timm model, or ours for small images: `conv<width>`, `separable<width>`.
        classes: Outputs of the head; must be the number of classes of data and store.
        image_size: Side of the images; that of `data.augment.size`.
        mean: Mean of each channel over 0..1, taken off the images.
        std: Standard deviation of each channel, by which the images are divided.
        init_from: What a new run takes its body from: a run folder or checkpoint of `fit`,
            safetensors, or a torch file of tensors; the head is always new.
    """

    name: str = "resnet50"
    classes: int = 1000
    image_size: int = 224
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    init_from: Path | None = None

    def __post_init__(self) -> None:
        _require(self.classes >= 2, "model.classes", "must be >= 2", self.classes)
        _require(self.image_size >= 1, "model.image_size", "must be >= 1", self.image_size)
        _require(all(s > 0 for s in self.std), "model.std", "must be three numbers > 0", self.std)


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """What the student is trained on (paper section 3; official trainers).

    Args:
        mode: `erm` hard labels, `kd` a teacher that runs beside the student, `dr` stored labels.
        form: `dr` only: `sparse` never builds the dense target, `dense` does, as the official code.
        rest: `dr` only: the probability that was not stored goes to all other classes alike
            (`uniform`), or the stored ones are divided by their sum (`renormalise`).
        label_smoothing: Of hard labels; stored and teacher labels are never smoothed.
        mixup_alpha: Beta parameter of MixUp of a whole batch, 0 for none; not for `dr`.
        cutmix_alpha: Likewise of CutMix; with both, each batch gets one of them by chance.
        ce_weight: `kd` only: weight of the cross-entropy with hard labels.
        kd_weight: `kd` only: weight of `T^2 KL(teacher_T || student_T)`.
        temperature: `kd` only: T; stored labels are those of temperature 1.
        compat: `dr` only: `apple` takes the softmax of labels whose sum exceeds 1, and with
            `renormalise` of all, as the official code does; not what the paper says.
    """

    mode: Mode = "dr"
    form: Form = "sparse"
    rest: Rest = "uniform"
    label_smoothing: float = 0.1
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    ce_weight: float = 0.0
    kd_weight: float = 1.0
    temperature: float = 1.0
    compat: Literal["apple"] | None = None

    def __post_init__(self) -> None:
        for name, choices in (("mode", Mode), ("form", Form), ("rest", Rest)):
            value, known = getattr(self, name), get_args(choices)
            _require(value in known, f"loss.{name}", f"must be one of {', '.join(known)}", value)
        smoothing = self.label_smoothing
        _require(0 <= smoothing < 1, "loss.label_smoothing", "must lie in [0, 1)", smoothing)
        for name in ("mixup_alpha", "cutmix_alpha", "ce_weight", "kd_weight"):
            value = getattr(self, name)
            _require(0 <= value < math.inf, f"loss.{name}", "must be >= 0", value)
        positive = 0 < self.temperature < math.inf
        _require(positive, "loss.temperature", "must be > 0", self.temperature)
        _require(self.compat in (None, "apple"), "loss.compat", "must be apple", self.compat)
        if self.mode == "dr":
            self._refuse_mixing()
        else:
            _require(self.compat is None, "loss.compat", "is of dr only", self.compat)
        if self.mode != "kd":
            _require(self.temperature == 1, "loss.temperature", "is of kd only", self.temperature)
            _require(self.ce_weight == 0, "loss.ce_weight", "is of kd only", self.ce_weight)

    def _refuse_mixing(self) -> None:
        for name in ("mixup_alpha", "cutmix_alpha"):
            value = getattr(self, name)
            remedy = "must be 0 for dr: a store's own views are mixed when it is generated"
            _require(value == 0, f"loss.{name}", remedy, value)


@dataclass(frozen=True, kw_only=True)
class CurriculumConfig:
    """Which of an image's stored views may be drawn, by the entropy of their labels.

    Args:
        order: `none`, `easy_to_hard` (low entropy first), `hard_to_easy`, or `band`.
        start: Share of the views that may be drawn at the beginning.
        ramp: Fraction of the run over which that share grows to 1.
        band: Lowest and highest quantile of a `band`, the same for the whole run.
    """

    order: Order = "none"
    start: float = 0.25
    ramp: float = 0.5
    band: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        orders = get_args(Order)
        name = "curriculum.order"
        _require(self.order in orders, name, f"must be one of {', '.join(orders)}", self.order)
        _require(0 < self.start <= 1, "curriculum.start", "must lie in (0, 1]", self.start)
        _require(0 <= self.ramp <= 1, "curriculum.ramp", "must lie in 0..1", self.ramp)
        low, high = self.band
        rising = 0 <= low < high <= 1
        _require(rising, "curriculum.band", "must be two rising numbers in 0..1", self.band)


@dataclass(frozen=True, kw_only=True)
class ResolutionConfig:
    """Another image size at each step, with as many images as keep the pixels constant.

    Args:
        low: Smallest side.
        high: Largest side.
        scales: Number of sides, evenly spaced.
        multiple: Every side is rounded to a multiple of this.
    """

    low: int = 128
    high: int = 320
    scales: int = 5
    multiple: int = 32

    def __post_init__(self) -> None:
        span = (self.low, self.high)
        _require(1 <= self.low <= self.high, "resolution", "must be two rising sides", span)
        _require(1 <= self.scales <= 16, "resolution.scales", "must lie in 1..16", self.scales)
        _require(self.multiple >= 1, "resolution.multiple", "must be >= 1", self.multiple)


def _require(holds: bool, name: str, expectation: str, value: object) -> None:
    if not holds:
        raise ValueError(f"{name} {expectation}, got {value}")
