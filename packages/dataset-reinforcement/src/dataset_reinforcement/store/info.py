"""`store.json`: what a store holds, from what and with what it was made. Torch-free.

It is written last; while a store is being made, one with status `partial` stands in its place.
"""

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from tenfold import atomic
from tenfold.augment.config import AugmentConfig

INFO = "store.json"
SCHEMA = 1
MAX_SHARD_IMAGES = 4096

_FILE = re.compile(r"views-\d+-\d+/shard-\d+\.safetensors")


@dataclass(frozen=True)
class ShardInfo:
    """One shard file.

    Attributes:
        file: Path below the store.
        images: First image and the one after the last.
        bytes: Size; None while it is only planned.
        sha256: Hex digest; None while it is only planned.
    """

    file: str
    images: tuple[int, int]
    bytes: int | None = None
    sha256: str | None = None

    def __post_init__(self) -> None:
        if not _FILE.fullmatch(self.file):
            raise ValueError(
                f"shard file {self.file!r} must be named like "
                "views-00000-00050/shard-00000.safetensors"
            )


@dataclass(frozen=True)
class Part:
    """A run of views of all images.

    Attributes:
        first: Number of its first view.
        count: Views.
        shards: In order of their images.
        joined: Whether `merge` wrote it; `generate` cannot restore its files.
    """

    first: int
    count: int
    shards: tuple[ShardInfo, ...]
    joined: bool = False


@dataclass(frozen=True)
class DrawnViews:
    """Views as their seed numbers them: the same seed and number is the same view.

    Attributes:
        seed: Of the drawn parameters; None where it is not known.
        first: Number of the first view.
        count: Views.
    """

    seed: int | None
    first: int
    count: int

    def overlaps(self, other: Self) -> bool:
        """Return whether a view is known to be among both."""
        if self.seed is None or self.seed != other.seed:
            return False
        return self.first < other.first + other.count and other.first < self.first + self.count


@dataclass(frozen=True)
class Skipped:
    """An image without reinforcements.

    Attributes:
        index: Its position.
        key: Its name.
        reason: Why.
    """

    index: int
    key: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoreInfo:
    """The content of `store.json`.

    Attributes:
        augment: The pipeline that was drawn from.
        num_images: Images, skipped ones included.
        top_k: Classes stored for each view.
        prob_dtype: Type of the stored probabilities.
        classes: Names; a stored class is a position in them.
        fingerprint: Of the images, see `samples.fingerprint`.
        decode: What pixels depend on besides the encoded bytes.
        teacher: Its description: names, weight hashes, each member's input.
        versions: Libraries that made the pixels.
        seed: Of the drawn parameters; None where the store was merged or imported.
        partner_group: Images among which partners are drawn; None for all.
        partner_pool: Images that are the partners of a group of as many; None for all.
        first_view: Number of the first view as the seed numbers them.
        compat: `apple` for imported stores, whose pixels replay only nearly; else None.
        sources: Of a merged store: what was joined, in order of the views.
        parts: In order of their views.
        skipped: Images without reinforcements.
        counts: What happened how often on the way.
        status: `complete`, or `partial` while it is being made.
        schema: Version of the store's layout.

    Raises:
        ValueError: Values contradict each other.
    """

    augment: AugmentConfig
    num_images: int
    top_k: int
    prob_dtype: Literal["float16", "float32"]
    classes: tuple[str, ...]
    fingerprint: str
    decode: dict[str, str]
    teacher: dict[str, Any]
    versions: dict[str, str]
    seed: int | None
    partner_group: int | None = None
    partner_pool: int | None = None
    first_view: int = 0
    compat: Literal["apple"] | None = None
    sources: tuple[DrawnViews, ...] = ()
    parts: tuple[Part, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    status: Literal["complete", "partial"] = "partial"
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if not 1 <= self.top_k <= len(self.classes) <= 65536:
            raise ValueError(
                f"top_k is {self.top_k} with {len(self.classes)} classes, expected "
                "1 <= top_k <= classes <= 65536"
            )
        if self.prob_dtype not in ("float16", "float32"):
            raise ValueError(f"prob_dtype must be float16 or float32, got {self.prob_dtype!r}")
        first = 0
        for part in self.parts:
            if part.first != first or part.count < 1:
                raise ValueError(f"the part of view {part.first} should begin at view {first}")
            _check_images(part, self.num_images)
            first += part.count
        joined = sum(source.count for source in self.sources)
        if self.sources and self.parts and joined != first:
            raise ValueError(f"the sources have {joined} views, the parts {first}")
        planned = [s.file for p in self.parts for s in p.shards if s.sha256 is None]
        if self.status == "complete" and planned:
            raise ValueError(f"the store is complete, but {planned[0]} has no sha256")

    @property
    def num_views(self) -> int:
        """Views of each image."""
        return sum(part.count for part in self.parts)

    @property
    def drawn(self) -> tuple[DrawnViews, ...]:
        """Seeds and numbers of all views, in order."""
        return self.sources or tuple(
            DrawnViews(self.seed, self.first_view + part.first, part.count) for part in self.parts
        )

    @property
    def classes_sha256(self) -> str:
        """Hex digest of the class names in order."""
        return hashlib.sha256(json.dumps(self.classes).encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {**dataclasses.asdict(self), "classes_sha256": self.classes_sha256}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Take what `to_json` gave.

        Raises:
            ValueError: The schema is another, or a value is missing, unknown or impossible.
        """
        if values.get("schema") != SCHEMA:
            raise ValueError(
                f"its schema is {values.get('schema')!r}, this version reads {SCHEMA}: "
                "use the version that wrote it, or generate the store anew"
            )
        values = dict(values)
        digest = values.pop("classes_sha256", None)
        try:
            values["augment"] = AugmentConfig.from_json(values["augment"])
            values["classes"] = tuple(values["classes"])
            values["parts"] = tuple(map(_part, values["parts"]))
            values["sources"] = tuple(DrawnViews(**entry) for entry in values.get("sources", ()))
            values["skipped"] = tuple(Skipped(**entry) for entry in values["skipped"])
            info = cls(**values)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"it is damaged: {error!r}") from error
        if digest != info.classes_sha256:
            raise ValueError(f"it is damaged: its class names do not have the hash {digest}")
        return info


def plan_part(*, first: int, count: int, num_images: int, shard_size: int) -> Part:
    """Return a part whose shards are still to be written.

    Args:
        first: Number of its first view.
        count: Views.
        num_images: Images of the store.
        shard_size: Images a shard.
    """
    folder = f"views-{first:05d}-{first + count:05d}"
    shards = [
        ShardInfo(f"{folder}/shard-{number:05d}.safetensors", (a, min(a + shard_size, num_images)))
        for number, a in enumerate(range(0, num_images, shard_size))
    ]
    return Part(first, count, tuple(shards))


def write_info(folder: Path, info: StoreInfo) -> None:
    """Write `store.json` atomically."""
    atomic.write_json(folder / INFO, info.to_json())


def read_info(folder: Path) -> StoreInfo:
    """Read `store.json`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is damaged or of another schema; names it.
    """
    path = folder / INFO
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {folder} is no store; make one with generate"
        )
    try:
        return StoreInfo.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (AttributeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def _check_images(part: Part, num_images: int) -> None:
    end = 0
    for shard in part.shards:
        first, last = shard.images
        if first != end or last <= first:
            raise ValueError(
                f"{shard.file} holds images {first}..{last}, expected to begin at {end}"
            )
        end = last
    if end != num_images:
        raise ValueError(f"the part of view {part.first} ends at image {end} of {num_images}")


def _part(values: dict[str, Any]) -> Part:
    shards = [
        ShardInfo(**{**entry, "images": tuple(entry["images"])}) for entry in values["shards"]
    ]
    return Part(values["first"], values["count"], tuple(shards), values.get("joined", False))
