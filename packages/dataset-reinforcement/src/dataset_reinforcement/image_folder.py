"""Images in a folder of class folders, in the order of torchvision's `ImageFolder`."""

import os
from pathlib import Path

from torch import Tensor

from dataset_reinforcement.image_decoding import EXTENSIONS, decode_image, decode_policy


class FolderImages:
    """The images below one folder: classes and file names sorted, subfolders included.

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
        self.classes = tuple(sorted(entry.name for entry in os.scandir(folder) if entry.is_dir()))
        self.decode = decode_policy()
        if not self.classes:
            raise FileNotFoundError(f"{folder} has no class folders: expected class/image.jpg")
        self._names: list[str] = []
        self._labels: list[int] = []
        for label, name in enumerate(self.classes):
            found = _image_names(folder, name)
            if not found:
                endings = " ".join(EXTENSIONS)
                raise FileNotFoundError(f"class folder {folder / name} has no image ({endings})")
            self._names += found
            self._labels += [label] * len(found)

    def __len__(self) -> int:
        return len(self._names)

    def key(self, index: int) -> str:
        """Return the path below the folder."""
        return self._names[index]

    def num_bytes(self, index: int) -> int:
        """Return the size of the file."""
        return (self.folder / self._names[index]).stat().st_size

    def label(self, index: int) -> int:
        """Return the number of the class folder."""
        return self._labels[index]

    def load(self, index: int) -> Tensor:
        """Return the pixels, uint8 `[3, H, W]`.

        Raises:
            FileNotFoundError: The file has gone.
            ImageDecodeError: It is damaged.
        """
        name = self._names[index]
        return decode_image((self.folder / name).read_bytes(), name)


def _image_names(folder: Path, name: str) -> list[str]:
    """Return the images of a class in torchvision's order: folders sorted, files sorted."""
    found: list[str] = []
    for root, _, files in sorted(os.walk(folder / name, followlinks=True)):
        below = Path(root).relative_to(folder).as_posix()
        found += [f"{below}/{file}" for file in sorted(files) if file.lower().endswith(EXTENSIONS)]
    return found
