"""Where images come from: one interface, and the spelling of each kind on the command line.

The index of an image is its identity: a store holds reinforcements by index, and checks that keys,
sizes and labels are still those of its data set.
"""

from pathlib import Path
from typing import Protocol

from torch import Tensor

from dataset_reinforcement.array_images import read_npz
from dataset_reinforcement.demo import open_demo
from dataset_reinforcement.image_decoding import ImageDecodeError
from dataset_reinforcement.image_folder import FolderImages
from dataset_reinforcement.tar_images import TarImages

__all__ = ["ImageDecodeError", "ImageSource", "check_same_classes", "open_images"]

DEMO = "demo:"


class ImageSource(Protocol):
    """Labelled images by index; safe to share between threads and to send to other processes.

    Attributes:
        classes: Class names; a label is a position in it.
        decode: What the pixels depend on besides the encoded bytes.
    """

    classes: tuple[str, ...]
    decode: dict[str, str]

    def __len__(self) -> int: ...

    def key(self, index: int) -> str:
        """Return a name that no other image of the source has."""
        ...

    def num_bytes(self, index: int) -> int:
        """Return the encoded size."""
        ...

    def checksum(self, index: int) -> int:
        """Return the CRC-32 of the encoded bytes; reads them."""
        ...

    def label(self, index: int) -> int:
        """Return the class."""
        ...

    def load(self, index: int) -> Tensor:
        """Return the pixels, uint8 `[3, H, W]`; raise `ImageDecodeError` for a damaged image."""
        ...


def check_same_classes(trained: tuple[str, ...], measured: tuple[str, ...]) -> None:
    """Compare the classes of images to train on with those of images to measure on.

    Raises:
        ValueError: They differ; names the first.
    """
    if trained == measured:
        return
    pairs = enumerate(zip(trained, measured, strict=False))
    different = (f"class {n} is {a!r} and {b!r}" for n, (a, b) in pairs if a != b)
    raise ValueError(
        f"the {len(trained)} classes to train on are not the {len(measured)} of the images to "
        f"measure on: {next(different, 'one has more')}"
    )


def open_images(spec: str) -> ImageSource:
    """Open images by name.

    Args:
        spec: A folder of class folders; a folder, a glob or one file of webdataset tars (`.jpg`,
            `.png` or `.webp` with `.cls` or `.json`); an `.npz` of `images`, `labels` and
            `classes`; `demo:glyphs/student` and others of `demo.open_demo`.

    Raises:
        FileNotFoundError: Nothing is there.
        ValueError: What is there is malformed.
    """
    if spec.startswith(DEMO):
        return open_demo(spec.removeprefix(DEMO))
    path = Path(spec).expanduser()
    if path.is_dir():
        tars = sorted(path.glob("*.tar"))
        return TarImages(tars) if tars else FolderImages(path)
    if path.is_file() and path.suffix == ".npz":
        return read_npz(path)
    anchor = Path(path.anchor)
    tars = [path] if path.is_file() else sorted(anchor.glob(str(path.relative_to(anchor))))
    tars = [tar for tar in tars if tar.suffix == ".tar"]
    if not tars:
        raise FileNotFoundError(
            f"no images at {spec!r}: expected a folder of class folders, tars (folder, glob or "
            "file), an .npz, or demo:glyphs/student"
        )
    return TarImages(tars)
