"""Reinforcements inside the shards of the images: `{key}.jpg`, `{key}.cls`, `{key}.dr.npz`.

For data that are read in sequence, from disks or object stores that do not like random access. The
key is the image's number in the data set, `dr.npz` holds the columns of all views of one image
(`store.tables`). A mixed view needs its partner, which must lie in the same shard: only stores
whose partners were drawn from groups (`generate --partner_group`) can be packed.
"""

import io
import logging
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from dataset_reinforcement.image_decoding import decode_image
from dataset_reinforcement.image_folder import FolderImages
from dataset_reinforcement.images import ImageDecodeError, ImageSource, open_images
from dataset_reinforcement.replay import ImageBatch, Place, Replay, ReplayConfig, collate
from dataset_reinforcement.store import columns as store_columns
from dataset_reinforcement.store.columns import Reinforcement
from dataset_reinforcement.store.info import StoreInfo
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.tables import ShardColumns
from tenfold.shards import (
    SampleSchema,
    ShardLoader,
    ShardStream,
    TarMembers,
    read_index,
    write_index,
    write_shard,
)

logger = logging.getLogger(__name__)

IMAGE_EXTENSIONS = ("jpg", "png", "webp")
REINFORCEMENTS = "dr.npz"
OPEN_SHARDS = 32


def pack(images: str, store: Path, out: Path, *, shard_size: int = 1000) -> None:
    """Write images and their reinforcements together, as webdataset tars with an index.

    Files of a folder of images are copied as they are, other images become PNG; what cannot be
    decoded is left out.

    Args:
        images: The data set of the store.
        store: Folder of a complete store.
        out: Folder to write; must not hold an index yet.
        shard_size: Images of a tar; a multiple of the store's partner group.

    Raises:
        FileExistsError: `out` has an index.
        ValueError: The store is damaged or of other images or sizes, or its partners lie in other
            shards.
    """
    source, reinforced = open_images(images), Store.open(store)
    reinforced.check_source(source)
    if (out / "index.json").exists():
        raise FileExistsError(f"{out} holds packed images already; choose another folder")
    _check_groups(reinforced.info, shard_size)
    reinforced.require_whole()
    out.mkdir(parents=True, exist_ok=True)
    entries = [
        write_shard(
            out / f"shard-{number:05d}.tar",
            _samples(source, reinforced, range(first, min(first + shard_size, len(source)))),
        )
        for number, first in enumerate(range(0, len(source), shard_size))
    ]
    info = {**reinforced.info.to_json(), "parts": []}
    write_index(out, entries, store=info, num_views=reinforced.num_views)
    packed = sum(entry.num_samples for entry in entries)
    logger.info(
        "packed %d images into %d shards in %s, %d left out",
        packed,
        len(entries),
        out,
        len(source) - packed,
    )


class PackedImages:
    """A folder that `pack` wrote.

    Attributes:
        folder: The folder.
        info: The store that was packed.
        num_views: Views of an image.
        num_images: Images in the tars.

    Args:
        folder: The folder.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is a folder of other shards.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)
        metadata = self.index.metadata
        if "store" not in metadata:
            raise ValueError(f"{folder} holds no packed reinforcements; make them with `pack`")
        self.info = StoreInfo.from_json(metadata["store"])
        self.num_views: int = metadata["num_views"]
        self.num_images = self.index.num_samples

    def loader(
        self,
        config: ReplayConfig,
        *,
        batch_size: int,
        num_batches: int,
        start: int,
        rank: int,
        world_size: int,
        workers: int,
        quarantine: Path,
        max_bad_fraction: float = 0.01,
        pin_memory: bool = False,
    ) -> "PackedLoader":
        """Return a rank's batches from a place of the endless order on.

        Args:
            config: How examples are drawn.
            batch_size: Images of a batch on one rank.
            num_batches: Batches until the end.
            start: Images that all ranks have had before.
            rank: This rank, from 0.
            world_size: Number of ranks.
            workers: Loader processes.
            quarantine: File that lists the samples that could not be used.
            max_bad_fraction: Largest share of them, [0, 1).
            pin_memory: Whether batches go to the device faster.
        """
        images = {"image": IMAGE_EXTENSIONS, "cls": ("cls",)}
        schema = SampleSchema(
            images,
            optional={"dr": (REINFORCEMENTS,)},
            decoders=dict.fromkeys(IMAGE_EXTENSIONS, _decode),
        )
        stream = ShardStream(
            self.index,
            schema,
            batch_size=batch_size,
            seed=config.seed,
            num_batches=num_batches,
            rank=rank,
            world_size=world_size,
            quarantine=quarantine,
            max_bad_fraction=max_bad_fraction,
        )
        stream.quarantine.option = "data.max_bad_fraction"
        stream.position = start
        total = start + num_batches * batch_size * world_size
        return PackedLoader(
            stream,
            num_workers=workers,
            pin_memory=pin_memory,
            collate_fn=_MakeBatch(self, config, total),
        )


class PackedLoader(ShardLoader):
    """A loader that is made anew from the trainer's step when a run resumes."""

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the checkpoint's step says it all."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the stream was made from the restored step."""


class _MakeBatch:
    """Examples of the samples of a batch; travels to loader workers."""

    def __init__(self, packed: PackedImages, config: ReplayConfig, total: int) -> None:
        self.packed = packed
        self.config = config
        self.total = total
        self.replay = Replay(config)
        self._open: OrderedDict[str, TarMembers] = OrderedDict()

    def __call__(self, samples: list[dict[str, Any]]) -> ImageBatch:
        return collate([self.replay.example(self._record(s), self._place(s)) for s in samples])

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_open": OrderedDict()}

    def _place(self, sample: Mapping[str, Any]) -> Place:
        epoch = sample["__position__"] // self.packed.num_images
        progress = epoch * self.packed.num_images / self.total
        return Place(epoch, int(sample["__key__"]), self.config.augment.size, progress)

    def _record(self, sample: dict[str, Any]) -> "_PackedImage":
        limits = (self.config.num_views or self.packed.num_views, self.config.top_k)
        return _PackedImage(sample, self._members(sample["__shard__"]), *limits)

    def _members(self, name: str) -> TarMembers:
        if name not in self._open:
            self._open[name] = TarMembers(self.packed.folder / name)
            if len(self._open) > OPEN_SHARDS:
                self._open.popitem(last=False)
        return self._open[name]


class _PackedImage:
    """One sample of a shard; what `Replay` reads."""

    def __init__(
        self, sample: Mapping[str, Any], members: TarMembers, num_views: int, top_k: int
    ) -> None:
        self.key: str = sample["__key__"]
        self.label: int = sample["cls"]
        self.num_views = num_views if "dr" in sample else 0
        self._sample = sample
        self._members = members
        self._top_k = top_k

    def reinforcement(self, view: int) -> Reinforcement:
        """Return a stored view."""
        found = store_columns.unpack(self._columns, 0, view)
        return replace(
            found,
            classes=found.classes[: self._top_k],
            probabilities=found.probabilities[: self._top_k],
        )

    def entropies(self) -> NDArray[np.floating]:
        """Return the entropy of each stored label."""
        return self._columns.entropy[0, : self.num_views]

    def load(self, index: int) -> Tensor:
        """Return the pixels of this image or of another one of its shard."""
        key = _key(index)
        if key == self.key:
            return self._sample["image"]
        extension = next(e for e in self._members.extensions(key) if e in IMAGE_EXTENSIONS)
        return decode_image(self._members.read(key, extension), f"{self._members.path}: {key}")

    @cached_property
    def _columns(self) -> ShardColumns:
        return ShardColumns.of(self._sample["dr"])


def _check_groups(info: StoreInfo, shard_size: int) -> None:
    if shard_size < 1:
        raise ValueError(f"shard_size must be >= 1, got {shard_size}")
    if not info.augment.mixes:
        return
    if info.partner_group is None:
        raise ValueError(
            "the store's views are mixed with partners from anywhere, which a stream cannot "
            "reach; generate it with partner_group"
        )
    if shard_size % info.partner_group:
        raise ValueError(
            f"shard_size must be a multiple of the store's partner_group {info.partner_group}, "
            f"got {shard_size}"
        )


def _samples(source: ImageSource, store: Store, images: range) -> Iterator[dict[str, Any]]:
    for index in images:
        store.check_content(source, index)
        try:
            extension, data = _encoded(source, store, index)
        except ImageDecodeError as error:
            logger.warning("left out: %s", error)
            continue
        sample = {"__key__": _key(index), extension: data, "cls": source.label(index)}
        if store.is_reinforced(index):
            views = [store.read(index, view) for view in range(store.num_views)]
            sample[REINFORCEMENTS] = store_columns.pack([views], prob_dtype=store.info.prob_dtype)
        yield sample


def _encoded(source: ImageSource, store: Store, index: int) -> tuple[str, bytes]:
    if isinstance(source, FolderImages):
        path = source.path(index)
        extension = path.suffix.lower().removeprefix(".").replace("jpeg", "jpg")
        if extension in IMAGE_EXTENSIONS:
            data = path.read_bytes()
            _, height, width = decode_image(data, str(path)).shape
            store.check_size(index, height, width)
            return extension, data
    pixels = source.load(index).permute(1, 2, 0).numpy()
    store.check_size(index, *pixels.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return "png", buffer.getvalue()


def _decode(data: bytes) -> Tensor:
    return decode_image(data, "image")


def _key(index: int) -> str:
    return f"{index:09d}"
