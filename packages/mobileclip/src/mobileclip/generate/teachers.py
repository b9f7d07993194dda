"""The teachers: frozen CLIPs whose embeddings stand side by side (spec 2.1, paper section 3.2).

The same object makes stored embeddings, checks them, and teaches beside the student, so that stored
and online distillation see the same vectors. Each teacher resizes and normalises in its own way,
and each slice of a row is a unit vector of its own. Not here: loading networks of open_clip
(`open_clip_networks`).

Shapes: n images or texts, T pixels, d_k width of teacher k.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mobileclip.generate.open_clip_networks import load_network
from mobileclip.generate.teacher_config import (
    OURS,
    Precision,
    TeacherConfig,
    TeacherEnsembleConfig,
)
from mobileclip.models.keymap import detect_layout, read_state
from mobileclip.schema import TeacherInfo
from tenfold.digests import weights_sha256

__all__ = ["Teacher", "Teachers", "build_teachers"]

RGB = tuple[float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Teacher:
    """One CLIP and how it wants its input.

    Attributes:
        name: Model and weights.
        network: Has `encode_image` of normalised images `[n, 3, size, size]` and `encode_text` of
            token ids, both to `[n, d]`.
        tokenize: From a list of n texts to token ids `[n, L]`.
        logit_scale: Inverse temperature of its affinities.
        size: Side of its input.
        mean: Per channel, of pixels in 0..1.
        std: Per channel.
    """

    name: str
    network: nn.Module
    tokenize: Callable[[list[str]], Tensor]
    logit_scale: float
    size: int
    mean: RGB = (0.0, 0.0, 0.0)
    std: RGB = (1.0, 1.0, 1.0)


class Teachers:
    """A frozen ensemble.

    No `nn.Module` itself, so that it never gets into a student's checkpoint or optimiser.

    Args:
        members: The teachers; they are frozen and moved to `device`.
        device: Where they run.
        precision: `bf16` runs them under autocast.
        batch: Images or texts that go through a teacher at once, at most.
    """

    def __init__(
        self,
        members: Sequence[Teacher],
        *,
        device: torch.device | str = "cpu",
        precision: Precision = "fp32",
        batch: int = 256,
    ) -> None:
        if not members:
            raise ValueError("an ensemble needs at least one teacher")
        self.device = torch.device(device)
        self.members = tuple(members)
        self.precision: Precision = precision
        self.batch = batch
        for member in self.members:
            member.network.eval().requires_grad_(False).to(self.device)
        rows = [self._text_rows(member, [""]) for member in self.members]
        self.dims: tuple[int, ...] = tuple(row.shape[1] for row in rows)

    @property
    def scales(self) -> tuple[float, ...]:
        """Inverse temperature of each teacher."""
        return tuple(member.logit_scale for member in self.members)

    @property
    def width(self) -> int:
        """Width of an embedding, all teachers."""
        return sum(self.dims)

    def encode_images(self, views: Tensor) -> Tensor:
        """Embed images.

        A teacher of another input size gets them resized, bicubic, as the official generator does.

        Args:
            views: uint8 `[n, 3, T, T]`, RGB, on any device.

        Returns:
            float32 `[n, sum d_k]` on the teachers' device, unit norm in each teacher's slice.

        Raises:
            ValueError: No uint8 images.
        """
        if views.dtype != torch.uint8 or views.ndim != 4 or views.shape[1] != 3:
            raise ValueError(
                f"views must be uint8 [n, 3, T, T], got {views.dtype} {list(views.shape)}"
            )
        parts = views.split(self.batch)
        return self._side_by_side(self._image_rows, [part.to(self.device) for part in parts])

    def encode_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts, each cut to the teacher's context length.

        Returns:
            float32 `[n, sum d_k]` on the teachers' device, unit norm in each teacher's slice.

        Raises:
            ValueError: No list of texts.
        """
        if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"texts must be a list of str, got {texts!r:.60}")
        texts = list(texts)
        starts = range(0, len(texts), self.batch)
        return self._side_by_side(self._text_rows, [texts[i : i + self.batch] for i in starts])

    def describe(self) -> tuple[TeacherInfo, ...]:
        """Return names, widths, scales, input sizes and SHA-256 of the weights."""
        return tuple(
            TeacherInfo(
                name=member.name,
                dim=dim,
                logit_scale=member.logit_scale,
                input_size=member.size,
                weights_sha256=weights_sha256(member.network),
            )
            for member, dim in zip(self.members, self.dims, strict=True)
        )

    def settings(self) -> dict[str, Any]:
        """Return all that embeddings depend on as JSON values, members by number."""
        members = {
            str(number): {**asdict(info), "mean": list(member.mean), "std": list(member.std)}
            for number, (info, member) in enumerate(zip(self.describe(), self.members, strict=True))
        }
        return {"members": members, "precision": self.precision}

    def _side_by_side(self, rows: Callable[[Teacher, Any], Tensor], parts: Sequence[Any]) -> Tensor:
        if not parts or not len(parts[0]):
            return torch.zeros(0, self.width, device=self.device)
        with torch.inference_mode():
            columns = [torch.cat([rows(member, part) for part in parts]) for member in self.members]
            embeddings = torch.cat(columns, dim=1)
        return embeddings.clone()  # a tensor made under inference mode could not stand in a loss

    @torch.inference_mode()
    def _image_rows(self, teacher: Teacher, views: Tensor) -> Tensor:
        images = prepare(views, size=teacher.size, mean=teacher.mean, std=teacher.std)
        return self._unit(teacher.network.encode_image, images)

    @torch.inference_mode()
    def _text_rows(self, teacher: Teacher, texts: Sequence[str]) -> Tensor:
        tokens = teacher.tokenize(list(texts)).to(self.device)
        return self._unit(teacher.network.encode_text, tokens)

    def _unit(self, encode: Any, inputs: Tensor) -> Tensor:
        with torch.autocast(
            self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16"
        ):
            rows = encode(inputs)
        return F.normalize(rows.float(), dim=-1)


def prepare(views: Tensor, *, size: int, mean: RGB, std: RGB) -> Tensor:
    """Return uint8 images `[n, 3, T, T]` resized (bicubic) and normalised, float32."""
    images = views.float() / 255
    if images.shape[-2:] != (size, size):
        images = F.interpolate(images, (size, size), mode="bicubic", align_corners=False)
    shift = images.new_tensor(mean).view(3, 1, 1)
    return (images - shift) / images.new_tensor(std).view(3, 1, 1)


def build_teachers(
    config: TeacherEnsembleConfig, *, device: torch.device | str = "cpu"
) -> Teachers:
    """Build the teachers with their weights.

    Raises:
        FileNotFoundError: Weights are missing.
        ValueError: A model is unknown, or its weights do not fit.
    """
    return Teachers(
        [_build(member) for member in config.members],
        device=device,
        precision=config.precision,
        batch=config.batch,
    )


def _build(config: TeacherConfig) -> Teacher:
    return _ours(config) if config.model.startswith(OURS) else _open_clip(config)


def _open_clip(config: TeacherConfig) -> Teacher:
    loaded = load_network(config.model, config.pretrained, size=config.size)
    network: Any = loaded.network
    size = loaded.inputs["size"]
    return Teacher(
        name=loaded.name,
        network=network,
        tokenize=loaded.tokenize,
        logit_scale=_scale(config, network.logit_scale.detach().exp().item()),
        size=size if isinstance(size, int) else int(size[0]),
        mean=tuple(loaded.inputs["mean"]),
        std=tuple(loaded.inputs["std"]),
    )


def _ours(config: TeacherConfig) -> Teacher:
    # A checkpoint's reader imports the module, which imports the teachers.
    from mobileclip.checkpoint import load_model
    from mobileclip.tokenizer import tokenize

    path = Path(config.model.removeprefix(OURS))
    if path.is_file() and path.suffix != ".ckpt" and detect_layout(read_state(path)) == "timm":
        raise ValueError(
            f"teachers.members: {path} holds an image tower alone, which is no teacher"
        )
    model = load_model(path)
    if config.size not in (None, model.image_size):
        raise ValueError(
            f"teachers.members: {config.model} takes images of {model.image_size} pixels, got size "
            f"{config.size}: leave size out"
        )
    return Teacher(
        name=OURS + model.name,
        network=model,
        tokenize=partial(tokenize, context_length=model.context_length),
        logit_scale=_scale(config, model.scale().detach().item()),
        size=model.image_size,
    )


def _scale(config: TeacherConfig, learned: float) -> float:
    return learned if config.logit_scale is None else config.logit_scale
