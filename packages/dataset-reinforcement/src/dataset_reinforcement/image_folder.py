"""Images in a folder of class folders, in the order of torchvision's `ImageFolder`."""

import os
import re
import zlib
from pathlib import Path

from torch import Tensor

from dataset_reinforcement.image_decoding import EXTENSIONS, decode_image, decode_policy

_UNPRINTABLE = re.compile(r"[\\\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would break a line, a JSON file or a Parquet column, and the backslash, which escapes it."""


class FolderImages:
    """The images below one folder: classes and file names sorted, subfolders included.

    Names of any bytes are taken; in keys and class names, control characters and bytes that are no
    UTF-8 are written with a backslash.

    Args:
        folder: Its folders are the classes.

    Attributes:
        classes: Names of the class folders.
        decode: Decode policy.

    Raises:
        FileNotFoundError: There is no class folder, or one has no image.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        self.classes = tuple(printable(name) for name in names)
        self.decode = decode_policy()
        if not names:
            raise FileNotFoundError(f"{folder} has no class folders: expected class/image.jpg")
        self._names: list[str] = []
        self._labels: list[int] = []
        for label, name in enumerate(names):
            found = _image_names(folder, name)
            if not found:
                endings = " ".join(EXTENSIONS)
                raise FileNotFoundError(
                    f"class folder {folder / printable(name)} has no image ({endings})"
                )
            self._names += found
            self._labels += [label] * len(found)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the path below the folder, printable."""
        return printable(self._names[index])

    def path(self, index: int) -> Path:
        """Return the file."""
        return self.folder / self._names[index]

    def num_bytes(self, index: int) -> int:
        """Return the size of the file."""
        return self.path(index).stat().st_size

    def checksum(self, index: int) -> int:
        """Return the CRC-32 of the file."""
        return zlib.crc32(self.path(index).read_bytes())

    def label(self, index: int) -> int:
        """Return the number of the class folder."""
        return self._labels[index]

    def load(self, index: int) -> Tensor:
        """Return the pixels, uint8 `[3, H, W]`.

        Raises:
            FileNotFoundError: The file has gone.
            ImageDecodeError: It is damaged.
        """
        return decode_image(self.path(index).read_bytes(), self.key(index))


def printable(name: str) -> str:
    """Return a file name in one line of characters that any file can hold; no two share one."""
    return _UNPRINTABLE.sub(lambda found: _escape(found[0]), name)


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    code = ord(character)
    # Python holds a byte that is no UTF-8 as a lone surrogate.
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else f"\\u{code:04x}"


def _image_names(folder: Path, name: str) -> list[str]:
    """Return the images of a class in torchvision's order: folders sorted, files sorted."""
    found: list[str] = []
    for root, _, files in sorted(os.walk(folder / name, followlinks=True)):
        below = Path(root).relative_to(folder).as_posix()
        found += [f"{below}/{file}" for file in sorted(files) if file.lower().endswith(EXTENSIONS)]
    return found
