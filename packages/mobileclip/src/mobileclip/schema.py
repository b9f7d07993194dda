"""What a reinforced data set says about itself: `reinforcement.json`, and `meta` of each sample.

Both are our additions to the published format (spec 3): a loss that knows its teachers' widths and
scales from the data cannot slice them wrongly (defects 1 and 2 of the official patch). Free of
torch.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from tenfold import atomic
from tenfold.augment.config import AugmentConfig

INFO = "reinforcement.json"
SCHEMA = 1
DR_VERSION = "1"
DECODE_POLICY = "RGBA->RGB, no EXIF transpose"

MOBILECLIP_AUGMENT = AugmentConfig(
    size=224,
    scale=(0.08, 1.0),
    interpolation="bicubic",
    flip=0.0,
    rand_augment=1.0,
    translate_pixels=224,
)
"""The published views (spec 2.1): random resized crop and RandAugment, no flip, no erasing."""


@dataclass(frozen=True, kw_only=True)
class TeacherInfo:
    """One teacher of the ensemble.

    Attributes:
        name: `ViT-L-14/openai`: model and weights.
        dim: Width of its embeddings.
        logit_scale: Inverse temperature of its affinities, 1/tau.
        input_size: Side of its input, pixels.
        weights_sha256: Hex digest of its weights; None where it is not known.

    Raises:
        ValueError: A number is not positive.
    """

    name: str
    dim: int
    logit_scale: float
    input_size: int
    weights_sha256: str | None = None

    def __post_init__(self) -> None:
        for name in ("dim", "logit_scale", "input_size"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise ValueError(f"teacher {self.name}: {name} must be > 0, got {value}")


@dataclass(frozen=True, kw_only=True)
class ReinforcementInfo:
    """The content of `reinforcement.json`.

    Attributes:
        teachers: In the order of their columns in an embedding.
        augment: The pipeline that views were drawn from.
        num_views: Stored views of an image, J.
        num_captions: Stored synthetic captions of one key of `syn.json`, S.
        captioner: Model and weights, with the options of sampling; empty where there was none.
        seed: Of the views; None where it is not known.
        decode: How bytes became pixels.
        versions: Libraries that made pixels and embeddings.
        dr_version: Free label of this reinforcement of the data.

    Raises:
        ValueError: No teacher, no view, or another policy of decoding than ours.
    """

    teachers: tuple[TeacherInfo, ...]
    augment: AugmentConfig
    num_views: int
    num_captions: int
    captioner: str = ""
    seed: int | None = None
    decode: str = DECODE_POLICY
    versions: Mapping[str, str] = field(default_factory=dict)
    dr_version: str = DR_VERSION

    def __post_init__(self) -> None:
        if not self.teachers:
            raise ValueError("teachers must name at least one teacher")
        if self.num_views < 1 or self.num_captions < 0:
            raise ValueError(
                f"num_views must be >= 1 and num_captions >= 0, got {self.num_views} and "
                f"{self.num_captions}"
            )
        if self.augment.mixes:
            raise ValueError("augment must not mix images: a view belongs to one caption")
        if self.decode != DECODE_POLICY:
            raise ValueError(
                f"decode is {self.decode!r}, this version decodes {DECODE_POLICY!r}: stored crop "
                "boxes would not fit; generate the embeddings anew"
            )

    @property
    def dims(self) -> tuple[int, ...]:
        """Width of each teacher's embeddings."""
        return tuple(teacher.dim for teacher in self.teachers)

    @property
    def scales(self) -> tuple[float, ...]:
        """Inverse temperature of each teacher."""
        return tuple(teacher.logit_scale for teacher in self.teachers)

    @property
    def width(self) -> int:
        """Width of a stored embedding, all teachers side by side."""
        return sum(self.dims)

    @property
    def augment_hash(self) -> str:
        """Short digest of the augmentation; stands in `meta` of each sample."""
        return augment_hash(self.augment)

    def meta(self, *, height: int, width: int, image_sha256: str) -> "SampleMeta":
        """Return the `meta` block of one sample."""
        return SampleMeta(
            height=height,
            width=width,
            image_sha256=image_sha256,
            teachers=self.teachers,
            captioner=self.captioner,
            augment_hash=self.augment_hash,
            dr_version=self.dr_version,
        )

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        values = dataclasses.asdict(self)
        return {"schema": SCHEMA, **values, "augment_hash": self.augment_hash}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take what `to_json` gave.

        Raises:
            ValueError: The schema is another, or a value is missing, unknown or impossible.
        """
        values = dict(values)
        if (schema := values.pop("schema", None)) != SCHEMA:
            raise ValueError(
                f"its schema is {schema!r}, this version reads {SCHEMA}: use the version that "
                "wrote it, or generate the embeddings anew"
            )
        digest = values.pop("augment_hash", None)
        try:
            values["teachers"] = _teachers(values["teachers"])
            values["augment"] = AugmentConfig.from_json(values["augment"])
            info = cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"it is damaged: {error!r}") from error
        if digest != info.augment_hash:
            raise ValueError(f"it is damaged: its augmentation does not have the hash {digest}")
        return info


@dataclass(frozen=True, kw_only=True)
class SampleMeta:
    """The block `meta` in the `json` member of one sample.

    Attributes:
        height: Of the image that the views were drawn for, pixels.
        width: Likewise.
        image_sha256: Hex digest of the image's bytes.
        teachers: As in `ReinforcementInfo`.
        captioner: Likewise.
        augment_hash: Likewise.
        dr_version: Likewise.
    """

    height: int
    width: int
    image_sha256: str
    teachers: tuple[TeacherInfo, ...]
    captioner: str = ""
    augment_hash: str = ""
    dr_version: str = DR_VERSION

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, under the names of spec 3."""
        return {
            "h": self.height,
            "w": self.width,
            "image_sha256": self.image_sha256,
            "teachers": [dataclasses.asdict(teacher) for teacher in self.teachers],
            "captioner": self.captioner,
            "aug_config_hash": self.augment_hash,
            "dr_version": self.dr_version,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Take what `to_json` gave.

        Raises:
            ValueError: A value is missing or impossible.
        """
        try:
            return cls(
                height=int(values["h"]),
                width=int(values["w"]),
                image_sha256=str(values["image_sha256"]),
                teachers=_teachers(values["teachers"]),
                captioner=str(values.get("captioner", "")),
                augment_hash=str(values.get("aug_config_hash", "")),
                dr_version=str(values.get("dr_version", DR_VERSION)),
            )
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"meta is damaged: {error!r}") from error


def augment_hash(config: AugmentConfig) -> str:
    """Return 16 hex digits that differ where two pipelines do."""
    values = json.dumps(dataclasses.asdict(config), sort_keys=True)
    return hashlib.sha256(values.encode()).hexdigest()[:16]


def write_info(folder: Path, info: ReinforcementInfo) -> None:
    """Write `reinforcement.json` atomically."""
    atomic.write_json(folder / INFO, info.to_json())


def read_info(folder: Path) -> ReinforcementInfo:
    """Read `reinforcement.json`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or of another schema; names it.
    """
    path = folder / INFO
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; make it with generate-embeddings, or name the published data "
            "set that these shards are of"
        )
    try:
        return ReinforcementInfo.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _teachers(values: Any) -> tuple[TeacherInfo, ...]:
    return tuple(TeacherInfo(**entry) for entry in values)
