"""The official layout: one file `<index>.pth.tar` an image, and `config.pth.tar` (spec section 3).

A file holds `(index, [{"params": list, "prob": ([p...], [c...])}, ...])`, a view each.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataset_reinforcement.apple.augmentation import from_apple
from dataset_reinforcement.apple.unpickle import load_plain
from tenfold.augment.config import AugmentConfig

CONFIG = "config.pth.tar"
SUFFIX = ".pth.tar"


@dataclass(frozen=True)
class AppleConfig:
    """What an official `config.pth.tar` says.

    Attributes:
        augment: The pipeline.
        num_views: Views of each image.
        top_k: Classes of each view.
        num_classes: C.
        teacher: Its description.
    """

    augment: AugmentConfig
    num_views: int
    top_k: int
    num_classes: int
    teacher: dict[str, Any]


def read_config(folder: Path) -> AppleConfig:
    """Read `config.pth.tar`.

    Raises:
        FileNotFoundError: There is none.
        ValueError: It is refused, lacks something, or its pipeline cannot be replayed.
    """
    path = folder / CONFIG
    config = load_plain(path)
    try:
        reinforce = config["reinforce"]
        if not reinforce.get("compress", True):
            raise ValueError(
                "it was generated with compress: false; only compressed lists are read"
            )
        return AppleConfig(
            augment=from_apple(reinforce["image_augmentation"]),
            num_views=int(reinforce["num_samples"]),
            top_k=int(reinforce["topk"]),
            num_classes=int(config["num_classes"]),
            teacher=_describe_teacher(config.get("teacher") or {}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else error
        raise ValueError(f"{path}: {what}") from error


def image_file(folder: Path, index: int) -> Path:
    """Return the file of an image."""
    return folder / f"{index}{SUFFIX}"


def count_images(folder: Path) -> int:
    """Return how many images an official folder has.

    Raises:
        FileNotFoundError: There is none.
        ValueError: The files are not numbered without gaps; names the first missing one.
    """
    found = {
        int(path.name.removesuffix(SUFFIX))
        for path in folder.glob(f"*{SUFFIX}")
        if path.name.removesuffix(SUFFIX).isdecimal()
    }
    if not found:
        raise FileNotFoundError(
            f"{folder} has no files like 0{SUFFIX}: expected an unpacked official folder"
        )
    missing = next((index for index in range(len(found)) if index not in found), None)
    if missing is not None:
        raise ValueError(
            f"{folder} has {len(found)} images up to {max(found)}, but lacks {missing}{SUFFIX}: "
            "download or unpack it again"
        )
    return len(found)


def _describe_teacher(teacher: Mapping[str, Any]) -> dict[str, Any]:
    """Return an official description as JSON; its members are named in one string, by commas."""
    described: dict[str, Any] = _plain(teacher)
    name = described.get("name")
    if "members" not in described and isinstance(name, str):
        described["members"] = [{"model": model.strip()} for model in name.split(",")]
    return described


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value)
