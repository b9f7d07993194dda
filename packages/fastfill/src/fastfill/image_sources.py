"""Images in folders and in webdataset tars, and texts in the latter. Free of torch."""

import io
import struct
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from fastfill.originals import UNLABELLED, Kind, Original, OriginalError, Source, digest
from tenfold.shards import ShardError, TarMembers

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
TEXT_EXTENSION = "txt"

# Pillow's readers raise all of these on damaged files.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    IndexError,
    OverflowError,
    Image.DecompressionBombError,
)


def decode_image(data: bytes, id: str) -> Image.Image:
    """Decode a whole JPEG, PNG or WebP to RGB; pixels as stored, whatever EXIF says.

    Raises:
        OriginalError: It is none, is cut short, has more than 8 bits a channel or too many pixels.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as image:
            if image.mode.startswith(("I", "F")):
                # PIL clips these at 255, which turns the picture white in silence.
                raise ValueError(f"mode {image.mode} has more than 8 bits a channel")
            if image.mode == "P" and "transparency" in image.info:
                return image.convert("RGBA").convert("RGB")
            return image.convert("RGB")
    except UnidentifiedImageError as error:  # its text holds an address, which varies
        raise OriginalError(id, "cannot be decoded: it is no JPEG, PNG or WebP") from error
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise OriginalError(id, f"cannot be decoded: {reason}") from error


class ImageFolder(Source):
    """Image files below a folder; an id is the path below it, with `/`.

    Files in subfolders have the first folder's name as class; others have none. Hidden files and
    folders are left out.

    Args:
        root: The folder.
        name: What the user called it.
    """

    kind: Kind = "image"

    def __init__(self, root: Path, *, name: str) -> None:
        super().__init__(name)
        self.root = root

    def ids(self) -> Sequence[str]:
        """Return the relative paths, sorted.

        Raises:
            FileNotFoundError: The folder has no images.
        """
        return self._ids

    @cached_property
    def _ids(self) -> tuple[str, ...]:
        endings = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
        names = [
            path.relative_to(self.root)
            for path in self.root.rglob("*")
            if path.name.lower().endswith(endings) and path.is_file()
        ]
        shown = [n.as_posix() for n in names if not any(p.startswith(".") for p in n.parts)]
        if not shown:
            raise FileNotFoundError(
                f"{self.root} holds no images ({', '.join(IMAGE_EXTENSIONS)}) and no tars"
            )
        return tuple(sorted(shown))

    def load(self, id: str) -> Image.Image:
        """Return an image.

        Raises:
            OriginalError: The id leaves the folder, or the file is missing or damaged.
        """
        path = PurePosixPath(id)
        if path.is_absolute() or ".." in path.parts or "\0" in id or "\\" in id:
            raise OriginalError(id, "is refused: expected a path below the folder of images")
        try:
            data = (self.root / path).read_bytes()
        except FileNotFoundError:
            raise OriginalError(id, f"is missing below {self.root}") from None
        except OSError as error:
            raise OriginalError(id, f"cannot be read: {error.strerror or error}") from error
        return decode_image(data, id)

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The subfolders, sorted."""
        return tuple(sorted({id.split("/")[0] for id in self._ids if "/" in id}))

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Index of each image's subfolder."""
        number = {name: index for index, name in enumerate(self.class_names)}
        first = (id.split("/")[0] if "/" in id else "" for id in self._ids)
        return np.array([number.get(name, UNLABELLED) for name in first], dtype=np.int64)

    def fingerprint(self) -> str:
        """Return the digest of paths and sizes; pixels that change within a size go unnoticed."""
        sizes = ((self.root / id).stat().st_size for id in self._ids)
        return digest(f"{id} {size}" for id, size in zip(self._ids, sizes, strict=True))


class Tars(Source):
    """The samples of webdataset tars; an id is a sample's key, `cls` its label.

    Args:
        paths: The tars.
        name: What the user called them.

    Raises:
        FileNotFoundError: A tar is missing.
        ShardError: A tar is damaged.
        ValueError: A key stands in two tars, or the first sample has no image and no text.
    """

    def __init__(self, paths: Sequence[Path], *, name: str) -> None:
        super().__init__(name)
        self._tars = [TarMembers(path) for path in paths]
        self._tar_of: dict[str, TarMembers] = {}
        for tar in self._tars:
            for key in tar.keys:
                if (other := self._tar_of.setdefault(key, tar)) is not tar:
                    raise ValueError(
                        f"sample {key!r} stands in {other.path.name} and {tar.path.name}: ids must "
                        "be distinct; rename one"
                    )
        self._ids = tuple(self._tar_of)
        if not self._ids:
            raise ValueError(f"{name} holds no samples")
        self.kind: Kind = self._kind_of(self._ids[0])

    def ids(self) -> Sequence[str]:
        """Return the keys: tars in order, samples as they lie there."""
        return self._ids

    def load(self, id: str) -> Original:
        """Return a sample's image or text.

        Raises:
            OriginalError: There is no such sample, it has none or several, or it is damaged.
        """
        if id not in self._tar_of:
            raise OriginalError(id, f"is missing from {self.name}")
        tar = self._tar_of[id]
        choices = IMAGE_EXTENSIONS if self.kind == "image" else (TEXT_EXTENSION,)
        found = [extension for extension in choices if extension in tar.extensions(id)]
        if len(found) != 1:
            raise OriginalError(id, f"has {len(found)} members of {', '.join(choices)}, expected 1")
        try:
            data = tar.read(id, found[0])
        except (ShardError, OSError) as error:
            raise OriginalError(id, f"cannot be read: {error}") from error
        return decode_image(data, id) if self.kind == "image" else decode_text(data, id)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """The samples' `cls`.

        Raises:
            ShardError: One is no number >= 0.
        """
        return np.array([self._label(id) for id in self._ids], dtype=np.int64)

    def fingerprint(self) -> str:
        """Return the digest of names and sizes of the tars and of all keys."""
        tars = (f"{tar.path.name} {tar.num_bytes}" for tar in self._tars)
        return digest([*tars, *self._ids])

    def _label(self, id: str) -> int:
        tar = self._tar_of[id]
        if "cls" not in tar.extensions(id):
            return UNLABELLED
        text = tar.read(id, "cls")
        if not text.strip().isdigit():
            raise ShardError(f"{tar.path}: {id}.cls must be a number >= 0, got {text!r:.40}")
        return int(text)

    def _kind_of(self, id: str) -> Kind:
        extensions = self._tar_of[id].extensions(id)
        if any(extension in extensions for extension in IMAGE_EXTENSIONS):
            return "image"
        if TEXT_EXTENSION in extensions:
            return "text"
        known = ", ".join((*IMAGE_EXTENSIONS, TEXT_EXTENSION))
        raise ValueError(f"{self.name}: sample {id!r} has none of {known}")


def decode_text(data: bytes, id: str) -> str:
    """Decode UTF-8.

    Raises:
        OriginalError: It is none, or empty.
    """
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise OriginalError(id, f"is no UTF-8 text: {error.reason}") from error
    if not text:
        raise OriginalError(id, "is an empty text")
    return text
