"""Options of the teachers; standard library only."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Precision = Literal["fp32", "bf16"]

OURS = "mobileclip:"
"""Prefix of a model that `fit` trained."""


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """One teacher, with weights; there is no teacher without.

    Args:
        model: Name in open_clip (`ViT-L-14`), `local-dir:<folder>` or `hf-hub:<repository>` as
            open_clip takes them, or `mobileclip:<checkpoint>` for one that `fit` trained.
        pretrained: Weights of an open_clip name: its tag (`datacomp_xl_s13b_b90k`), a file, or a
            `local-dir:<folder>`, whose model is then taken. Empty for the other forms of `model`.
        logit_scale: Inverse temperature 1/tau of its affinities; by default its own, learned one.
            The published data have 100.
        size: Side of its input; by default its own.

    Raises:
        ValueError: The weights are not named, or twice, or a number is not positive.
    """

    model: str
    pretrained: str = ""
    logit_scale: float | None = None
    size: int | None = None

    def __post_init__(self) -> None:
        whole = self.model.startswith((OURS, "local-dir:", "hf-hub:"))
        if not self.model or whole == bool(self.pretrained):
            raise ValueError(
                f"teachers.members: {self.model or 'a teacher'} needs "
                + ("no pretrained, its weights are there" if whole else "its weights in pretrained")
                + f"; got {self.pretrained!r}"
            )
        if self.logit_scale is not None and not 0 < self.logit_scale < math.inf:
            raise ValueError(
                f"teachers.members: {self.model}: logit_scale must be > 0, got {self.logit_scale}"
            )
        if self.size is not None and self.size < 1:
            raise ValueError(f"teachers.members: {self.model}: size must be > 0, got {self.size}")


@dataclass(frozen=True, kw_only=True)
class TeacherEnsembleConfig:
    """Teachers whose embeddings stand side by side, in this order.

    Args:
        members: The teachers; one is enough.
        precision: `bf16` runs them under autocast; embeddings are float32 in either case.
        batch: Images or texts that go through a teacher at once, at most.

    Raises:
        ValueError: No teacher, an unknown precision, or a batch below 1.
    """

    members: tuple[TeacherConfig, ...]
    precision: Precision = "fp32"
    batch: int = 256

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("teachers.members is empty: give at least one model")
        if self.precision not in get_args(Precision):
            raise ValueError(f"teachers.precision must be fp32 or bf16, got {self.precision!r}")
        if self.batch < 1:
            raise ValueError(f"teachers.batch must be >= 1, got {self.batch}")
