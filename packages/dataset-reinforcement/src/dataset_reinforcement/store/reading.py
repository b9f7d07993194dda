"""Random access to a store, and the checks before it is used."""

import copy
import hashlib
import json
import logging
from bisect import bisect_right
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from dataset_reinforcement.store.columns import Reinforcement, unpack
from dataset_reinforcement.store.info import Part, StoreInfo, read_info
from dataset_reinforcement.store.integrity import require_whole, shard_problem, written_shards
from dataset_reinforcement.store.recorded import RecordedImages
from dataset_reinforcement.store.samples import (
    SAMPLES,
    Sample,
    check_images,
    fingerprint,
    read_samples,
)
from dataset_reinforcement.store.shard import ShardReader
from dataset_reinforcement.store.versions import check_decode, check_versions
from tenfold.augment.config import AugmentConfig

if TYPE_CHECKING:
    from torch import Tensor

    from dataset_reinforcement.images import ImageSource

_log = logging.getLogger(__name__)


class Store:
    """The reinforcements of a data set; get one with `Store.open`.

    Shards are opened when they are first read. Copies for other processes, forked or pickled, are
    safe.

    Attributes:
        path: The folder.
        info: The content of `store.json`, whatever was selected.
        num_views: Views of each image.
        top_k: Classes a view.
    """

    def __init__(self, path: Path, info: StoreInfo) -> None:
        self.path = path
        self.info = info
        self.num_views = info.num_views
        self.top_k = info.top_k
        self._readers: dict[str, ShardReader] = {}
        self._present = _present(path, info)

    @classmethod
    def open(cls, path: Path, *, allow_partial: bool = False) -> Self:
        """Open a store.

        Args:
            path: Its folder.
            allow_partial: Also open a store that is not finished, or lacks shards; `coverage` tells
                how much is there.

        Raises:
            FileNotFoundError: It is no store.
            ValueError: It is damaged, or partial without leave; names the file.
        """
        path = Path(path)
        info = read_info(path)
        store = cls(path, info)
        missing = [s.file for p in info.parts for s in p.shards if s.file not in store._present]
        if info.status == "complete" and not missing:
            return store
        what = f"{path} is partial ({info.status}; {len(missing)} shards missing"
        what += f", first {missing[0]})" if missing else ")"
        covered = f"{store.coverage:.1%} of the images are reinforced"
        if not allow_partial:
            raise ValueError(f"{what}: {covered}; finish it, or accept it with allow_partial")
        _log.warning("%s: %s", what, covered)
        return store

    @property
    def num_images(self) -> int:
        """Images, those without reinforcements included."""
        return self.info.num_images

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names."""
        return self.info.classes

    @property
    def augment(self) -> AugmentConfig:
        """The pipeline that the views were drawn from."""
        return self.info.augment

    @property
    def coverage(self) -> float:
        """Share of the images that are reinforced."""
        return float(self._reinforced.mean()) if self.num_images else 0.0

    @cached_property
    def samples(self) -> list[Sample]:
        """The images in order."""
        return read_samples(self.path)

    @cached_property
    def recorded(self) -> RecordedImages:
        """Sizes and checksums of the images."""
        return RecordedImages.read(self.path)

    @property
    def sizes(self) -> NDArray[np.int32]:
        """Height and width of the images, int32 `[n, 2]`; 0 and 0 where they are not known."""
        return self.recorded.sizes

    def is_reinforced(self, image: int) -> bool:
        """Return whether all views of an image are there."""
        return bool(self._reinforced[image])

    def read(self, image: int, view: int) -> Reinforcement:
        """Return one reinforcement.

        Raises:
            IndexError: There is no such image or view.
            ValueError: The image is not reinforced, or its shard is damaged.
        """
        if not (0 <= image < self.num_images and 0 <= view < self.num_views):
            raise IndexError(
                f"image {image}, view {view} is not within {self.num_images} x {self.num_views}"
            )
        self._require(image)
        number = bisect_right(self._firsts, view) - 1
        reader, first_image = self._reader(number, image)
        row, column = image - first_image, view - self._firsts[number]
        found = unpack(reader.columns, row, column)
        if self.top_k == self.info.top_k:
            return found
        return Reinforcement(
            found.own,
            found.mix,
            found.classes[: self.top_k],
            found.probabilities[: self.top_k],
            found.entropy,
        )

    def entropies(self, image: int) -> NDArray[np.float16]:
        """Return the entropies of the views of an image, float16 `[num_views]`.

        They are those of the labels as generated, also where fewer classes were selected.

        Raises:
            ValueError: The image is not reinforced, or its shard is damaged.
        """
        self._require(image)
        found = [self._reader(number, image) for number in range(len(self._parts))]
        values = [reader.columns.entropy[image - first] for reader, first in found]
        return np.concatenate(values)[: self.num_views]

    def select(self, *, views: int | None = None, top_k: int | None = None) -> "Store":
        """Return the same store with its first views, its largest probabilities; writes nothing.

        Raises:
            ValueError: The store does not have as many.
        """
        selected = copy.copy(self)
        selected.__dict__.pop("_reinforced", None)
        for name, wanted in (("num_views", views), ("top_k", top_k)):
            if wanted is None:
                continue
            available = getattr(self, name)
            if not 1 <= wanted <= available:
                raise ValueError(f"{name} must lie in 1..{available} of {self.path}, got {wanted}")
            setattr(selected, name, wanted)
        return selected

    def check_source(self, source: "ImageSource", *, allow_other_versions: bool = False) -> None:
        """Make sure that these are the store's images and that its views come out exactly alike.

        Args:
            source: The data set.
            allow_other_versions: Accept other versions of libraries, with a warning.

        Raises:
            ValueError: Classes, keys, labels, encoded sizes, the decode policy or library versions
                differ; names the first difference.
        """
        check_versions(self.info.versions, allow_other_versions=allow_other_versions)
        check_decode(self.info.decode, source.decode, allow_other_versions=allow_other_versions)
        if len(source.classes) != len(self.classes):
            raise ValueError(
                f"the data set has {len(source.classes)} classes, {self.path} {len(self.classes)}"
            )
        for here, stored in zip(source.classes, self.classes, strict=True):
            if here != stored:
                raise ValueError(
                    f"the data set has class {here!r} where {self.path} has {stored!r}"
                )
        check_images(self.samples, source)

    def load(self, source: "ImageSource", image: int) -> "Tensor":
        """Return the pixels of an image of the data set, uint8 `[3, H, W]`.

        Raises:
            ValueError: It is not the image that the store was made from; names index and key.
        """
        return self.recorded.load(source, image)

    def check_content(self, source: "ImageSource", image: int) -> None:
        """Read an image and make sure that its bytes are those that the store was made from.

        Raises:
            ValueError: They have another checksum than is recorded; names index and key.
        """
        self.recorded.check_content(source, image)

    def check_size(self, image: int, height: int, width: int) -> None:
        """Make sure that an image, as decoded now, has the size that its views were drawn for.

        Raises:
            ValueError: The store has another size for it; names index and key.
        """
        self.recorded.check_size(image, height, width)

    def content_sha256(self) -> str:
        """Return the hex digest of what is selected, from the recorded hashes of its shards."""
        shards = [shard for part in self._parts for shard in part.shards]
        content = [(s.file, s.sha256, s.file in self._present) for s in shards]
        listed = json.dumps([self.num_views, self.top_k, content])
        return hashlib.sha256(listed.encode()).hexdigest()

    def verify_checksums(self) -> list[str]:
        """Hash every file and return the names of those that are missing or damaged."""
        damaged = [
            shard.file
            for shard in written_shards(self.info.parts)
            if shard_problem(self.path, shard, hashed=True)
        ]
        try:
            whole = fingerprint(read_samples(self.path)) == self.info.fingerprint
        except (FileNotFoundError, ValueError):
            whole = False
        return damaged if whole else [SAMPLES, *damaged]

    def require_whole(self) -> None:
        """Hash every file, before all of them are used.

        Raises:
            FileNotFoundError: There is no `samples.parquet`.
            ValueError: A file is missing or damaged; names it.
        """
        require_whole(self.path, self.info.parts)
        if fingerprint(self.samples) != self.info.fingerprint:
            raise ValueError(
                f"{self.path / SAMPLES} is damaged: its images are not those of store.json; copy "
                "the store again"
            )

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        for cached in ("samples", "_reinforced"):
            state.pop(cached, None)
        return {**state, "_readers": {}}

    @cached_property
    def _firsts(self) -> list[int]:
        return [part.first for part in self.info.parts]

    @property
    def _parts(self) -> tuple[Part, ...]:
        return tuple(part for part in self.info.parts if part.first < self.num_views)

    @cached_property
    def _ends(self) -> list[list[int]]:
        return [[shard.images[1] for shard in part.shards] for part in self.info.parts]

    @cached_property
    def _reinforced(self) -> NDArray[np.bool_]:
        reinforced = np.full(self.num_images, bool(self._parts))
        for shard in (shard for part in self._parts for shard in part.shards):
            if shard.file not in self._present:
                reinforced[slice(*shard.images)] = False
        reinforced[[skipped.index for skipped in self.info.skipped]] = False
        return reinforced

    def _require(self, image: int) -> None:
        if not self._reinforced[image]:
            raise ValueError(f"image {image} is not reinforced; ask is_reinforced first")

    def _reader(self, number: int, image: int) -> tuple[ShardReader, int]:
        part = self.info.parts[number]
        shard = part.shards[bisect_right(self._ends[number], image)]
        reader = self._readers.get(shard.file)
        if reader is None:
            reader = ShardReader(self.path / shard.file)
            expected = (shard.images[1] - shard.images[0], part.count, self.info.top_k)
            if reader.columns.shape != expected:
                raise ValueError(
                    f"shard {reader.path} has images, views and classes {reader.columns.shape}, "
                    f"store.json says {expected}: copy the store again"
                )
            self._readers[shard.file] = reader
        return reader, shard.images[0]


def _present(path: Path, info: StoreInfo) -> frozenset[str]:
    """Return the files that are there; one of another size than recorded is an error."""
    present: set[str] = set()
    for shard in (shard for part in info.parts for shard in part.shards):
        file = path / shard.file
        if not file.is_file():
            continue
        size = file.stat().st_size
        if shard.bytes is not None and size != shard.bytes:
            raise ValueError(
                f"{file} has {size} bytes, store.json says {shard.bytes}: it is truncated or "
                "damaged; copy the store again"
            )
        present.add(shard.file)
    return frozenset(present)
