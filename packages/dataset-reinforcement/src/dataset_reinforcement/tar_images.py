"""Images in webdataset tars: `key.jpg` with its label in `key.cls` or `key.json`."""

import json
import threading
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from dataset_reinforcement.image_decoding import decode_image, decode_policy
from tenfold.shards import ShardError, TarMembers

IMAGE_MEMBERS = ("jpg", "jpeg", "png", "webp")
CLASS_NAMES = "classes.txt"
_OPEN_AT_MOST = 128  # a process may open about a thousand files, a data set has more tars


class _Place(NamedTuple):
    tar: int
    key: str
    extension: str
    num_bytes: int


class TarImages:
    """The samples of some tars, tars in the given order, samples in file order.

    Class names stand in `classes.txt` beside the tars, one a line; without it they are the numbers
    0 to the largest label.

    Args:
        paths: The tars.

    Attributes:
        classes: Class names.
        decode: Decode policy.

    Raises:
        ValueError: A sample has no image or no label, a key comes twice, a tar is damaged.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.decode = decode_policy()
        self._tars = _OpenTars(paths)
        self._places: list[_Place] = []
        self._labels: list[int] = []
        for number in range(len(paths)):
            self._scan(number)
        self._refuse_repeated_keys()
        self.classes = _class_names(paths[0].parent / CLASS_NAMES, max(self._labels, default=-1))

    def __len__(self) -> int:
        return len(self._places)

    def key(self, index: int) -> str:
        """Return the sample's key."""
        return self._places[index].key

    def num_bytes(self, index: int) -> int:
        """Return the size of the encoded image."""
        return self._places[index].num_bytes

    def checksum(self, index: int) -> int:
        """Return the CRC-32 of the encoded image."""
        place = self._places[index]
        return zlib.crc32(self._tars[place.tar].read(place.key, place.extension))

    def label(self, index: int) -> int:
        """Return the label."""
        return self._labels[index]

    def load(self, index: int) -> Tensor:
        """Return the pixels, uint8 `[3, H, W]`.

        Raises:
            ImageDecodeError: The image is damaged.
        """
        place = self._places[index]
        members = self._tars[place.tar]
        name = f"{members.path.name}: {place.key}.{place.extension}"
        return decode_image(members.read(place.key, place.extension), name)

    def _scan(self, number: int) -> None:
        members = self._tars[number]
        for key in members.keys:
            found = [name for name in members.extensions(key) if name in IMAGE_MEMBERS]
            if len(found) != 1:
                raise ShardError(
                    f"{members.path}: sample {key!r} has {len(found)} images "
                    f"({', '.join(members.extensions(key))}), expected one of {IMAGE_MEMBERS}"
                )
            place = _Place(number, key, found[0], members.size(key, found[0]))
            self._places.append(place)
            self._labels.append(_read_label(members, key))

    def _refuse_repeated_keys(self) -> None:
        seen: dict[str, int] = {}
        for place in self._places:
            if (first := seen.setdefault(place.key, place.tar)) != place.tar:
                raise ShardError(
                    f"key {place.key!r} stands in {self._tars.paths[first]} and in "
                    f"{self._tars.paths[place.tar]}: keys must differ over all tars"
                )


class _OpenTars:
    """Tars by number, the ones used last kept open; copies in other processes open their own."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = tuple(paths)
        self._lock = threading.Lock()
        self._open: OrderedDict[int, TarMembers] = OrderedDict()

    def __getitem__(self, number: int) -> TarMembers:
        with self._lock:
            if number not in self._open:
                self._open[number] = TarMembers(self.paths[number])
            self._open.move_to_end(number)
            # Not closed here: another thread may still read it, and the last user's end closes it.
            while len(self._open) > _OPEN_AT_MOST:
                self._open.popitem(last=False)
            return self._open[number]

    def __reduce__(self) -> tuple[object, ...]:
        return _OpenTars, (self.paths,)


def _read_label(members: TarMembers, key: str) -> int:
    extensions = members.extensions(key)
    try:
        if "cls" in extensions:
            label = int(members.read(key, "cls"))
        elif "json" in extensions:
            label = json.loads(members.read(key, "json"))["label"]
        else:
            raise ValueError("it has neither a cls nor a json member")
        if not isinstance(label, int) or label < 0:
            raise ValueError(f"it is {label!r}, expected a whole number >= 0")
    except (ValueError, KeyError, TypeError) as error:
        raise ShardError(f"{members.path}: sample {key!r} has no label: {error}") from error
    return label


def _class_names(path: Path, largest: int) -> tuple[str, ...]:
    if not path.is_file():
        return tuple(str(number) for number in range(largest + 1))
    names = tuple(path.read_text(encoding="utf-8").splitlines())
    if largest >= len(names):
        raise ValueError(f"{path} names {len(names)} classes, but a sample has label {largest}")
    return names
