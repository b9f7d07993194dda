"""Options of a teacher; standard library only."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Precision = Literal["fp32", "bf16"]
RGB = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class MemberConfig:
    """One network of an ensemble, with weights from a file or from timm's hub.

    Args:
        model: A timm name (`resnext101_32x8d.fb_wsl_ig1b_ft_in1k`), or `conv<width>`,
            `separable<width>`. Model, size, mean and std of a checkpoint of `fit` stand in it: need
            not be given, and must not be others.
        checkpoint: safetensors, a run folder or checkpoint of `fit`, or a torch file of tensors.
        pretrained: Take timm's weights instead.
        size: Side to which views are resized for this member; by default the checkpoint's, or
            timm's own for the model.
        mean: Subtracted per channel from pixels in 0..1; likewise.
        std: Divides per channel; likewise.

    Raises:
        ValueError: No weights or two sets of them, or a value out of range.
    """

    model: str | None = None
    checkpoint: Path | None = None
    pretrained: bool = False
    size: int | None = None
    mean: RGB | None = None
    std: RGB | None = None

    def __post_init__(self) -> None:
        if self.model is None and self.checkpoint is None:
            raise ValueError("teacher.members: one has neither a model nor a checkpoint: give them")
        name = self.model or self.checkpoint
        if self.pretrained == (self.checkpoint is not None):
            raise ValueError(
                f"teacher.members: {name} needs either a checkpoint or pretrained true: "
                f"got checkpoint {self.checkpoint}, pretrained {self.pretrained}"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"teacher.members: {name}: size must be > 0, got {self.size}")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"teacher.members: {name}: std must be > 0, got {self.std}")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """An ensemble whose prediction is the mean of its members' probabilities.

    Args:
        members: The networks; one is enough.
        precision: `bf16` runs the networks under autocast; probabilities stay fp32.
        compile: Whether to compile the networks.
        batch: Views that go through a network at once, at most.

    Raises:
        ValueError: No member, an unknown precision, or a batch below 1.
    """

    members: tuple[MemberConfig, ...]
    precision: Precision = "fp32"
    compile: bool = False
    batch: int = 256

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("teacher.members is empty: give at least one model")
        if self.precision not in get_args(Precision):
            raise ValueError(f"teacher.precision must be fp32 or bf16, got {self.precision!r}")
        if self.batch < 1:
            raise ValueError(f"teacher.batch must be >= 1, got {self.batch}")
