"""The teacher: an ensemble that answers with the mean of its members' probabilities (spec 2.1).

`p(x) = 1/E sum_e softmax(t_e(x))` at temperature 1: probabilities are averaged, not logits. Every
member resizes and normalises views in its own way. Not here: building the members
(`teacher_members.py`).

Shapes: B views, C classes, S pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset_reinforcement.teacher_config import RGB, MemberConfig, Precision, TeacherConfig
from dataset_reinforcement.teacher_members import build_member
from tenfold.digests import weights_sha256

__all__ = ["Member", "Teacher", "build_teacher"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Member:
    """A network and how it wants its input.

    Attributes:
        name: Its model name.
        network: From normalised images `[B, 3, S, S]` to logits `[B, C]`.
        size: Side of its input; None takes views as they are.
        mean: Per channel, of pixels in 0..1.
        std: Per channel.
    """

    name: str
    network: nn.Module
    size: int | None
    mean: RGB
    std: RGB


class Teacher:
    """A frozen ensemble.

    No `nn.Module` itself, so that it never gets into a student's checkpoint or optimiser.

    Args:
        members: The networks; they are frozen and moved to `device`.
        device: Where they run.
        precision: `bf16` runs them under autocast.
        compile: Whether to compile them; give batches of one size then.
        batch: Views that go through a network at once, at most.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        compile: bool = False,
        batch: int = 256,
    ) -> None:
        if not members:
            raise ValueError("a teacher needs at least one member")
        self.device = torch.device(device)
        self.members = tuple(members)
        self.precision: Precision = precision
        self.compile = compile
        self.batch = batch
        self._memory_format = (
            torch.channels_last if self.device.type == "cuda" else torch.contiguous_format
        )
        for member in self.members:
            network = member.network.eval().requires_grad_(False)
            network.to(self.device)
            network.to(memory_format=self._memory_format)  # pyright: ignore[reportCallIssue]
        networks = [member.network for member in self.members]
        self._run = [torch.compile(n, dynamic=False) if compile else n for n in networks]

    def probabilities(self, views: Tensor) -> Tensor:
        """Return the mean of the members' probabilities.

        Args:
            views: `[B, 3, S, S]`, uint8 or float32 in 0..1, on any device.

        Returns:
            float32 `[B, C]` on the teacher's device.
        """
        with torch.inference_mode():
            parts = [self._mean(part.to(self.device)) for part in views.split(self.batch)]
            mean = torch.cat(parts)
        return mean.clone()  # a tensor made under inference mode could not stand in a loss

    def describe(self) -> dict[str, Any]:
        """Return all that its answers depend on as JSON: names, SHA-256 of weights, inputs."""
        return {
            "members": [
                {
                    "model": member.name,
                    "weights_sha256": weights_sha256(member.network),
                    "size": member.size,
                    "mean": list(member.mean),
                    "std": list(member.std),
                }
                for member in self.members
            ],
            "ensemble": "mean of probabilities, temperature 1",
            "resize": "bilinear, antialiased",
            "precision": self.precision,
            "compile": self.compile,
        }

    def _mean(self, views: Tensor) -> Tensor:
        images = views.float() / 255 if views.dtype == torch.uint8 else views.float()
        # In float64 the sum is exact enough that E copies of one network are that network.
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for member, run in zip(self.members, self._run, strict=True):
            inputs = prepare(images, size=member.size, mean=member.mean, std=member.std)
            with torch.autocast(
                self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
            ):
                logits = run(inputs.contiguous(memory_format=self._memory_format))
            total = total + logits.float().softmax(-1).double()
        return (total / len(self.members)).float()


def prepare(images: Tensor, *, size: int | None, mean: RGB, std: RGB) -> Tensor:
    """Resize (bilinear, antialiased) and normalise images `[B, 3, S, S]` in 0..1."""
    if size is not None and images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
    shift = images.new_tensor(mean).view(3, 1, 1)
    return (images - shift) / images.new_tensor(std).view(3, 1, 1)


def build_teacher(
    config: TeacherConfig,
    *,
    num_classes: int,
    classes: Sequence[str] = (),
    device: torch.device | str = "cpu",
) -> Teacher:
    """Build a teacher with its weights.

    Args:
        config: Its members.
        num_classes: Outputs of each head.
        classes: Names of the classes of the views, which those of a checkpoint must be.
        device: Where they run.

    Raises:
        FileNotFoundError: A checkpoint is missing.
        ValueError: A model is unknown, or it has other classes.
    """
    return Teacher(
        [_member(member, num_classes, classes) for member in config.members],
        device=device,
        precision=config.precision,
        compile=config.compile,
        batch=config.batch,
    )


def _member(config: MemberConfig, num_classes: int, classes: Sequence[str]) -> Member:
    built = build_member(config, num_classes=num_classes, classes=classes)
    return Member(name=built.name, network=built.network, **built.inputs._asdict())
