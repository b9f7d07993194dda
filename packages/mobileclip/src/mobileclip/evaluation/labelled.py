"""Labelled images of a classification task: class folders, or tars as CLIP_benchmark lays them."""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mobileclip.evaluation import prompts
from mobileclip.evaluation.images import EncodedImages, FileImages, TarImages
from mobileclip.evaluation.prompts import Template
from mobileclip.images import IMAGE_EXTENSIONS
from tenfold.shards import ShardError


class LabelledImages(NamedTuple):
    """A classification task.

    Attributes:
        images: Encoded images.
        label_N: int64 `[N]`, positions in `class_names`.
        class_names: The names that prompts are made of.
        templates: Prompts.
        metadata_NM: int64 `[N, M]` of the `npy` members, None without.
    """

    images: EncodedImages
    label_N: Tensor
    class_names: Sequence[str]
    templates: Sequence[Template]
    metadata_NM: Tensor | None = None


def open_class_folders(
    root: Path, *, classnames: Path | None, templates: Path | None
) -> LabelledImages:
    """Open a folder of class folders; classes and files sorted, as torchvision's ImageFolder.

    Folders that are numbers, as those of ImageNet-V2, are sorted as numbers.

    Args:
        root: Holds `class/.../image.jpg`.
        classnames: File of class names in the order of the sorted folders; by default CLIP's names
            where all folders are ImageNet's synsets or 1,000 numbers, else the folders' own names.
        templates: File of templates; by default CLIP's 80 for ImageNet synsets, else one.

    Raises:
        FileNotFoundError: There is no class folder, or one has no image.
        ValueError: There is not one class name a folder, or folders other than ImageNet's need
            names.
    """
    if not root.is_dir():
        raise FileNotFoundError(f"no image folder: {root}")
    folders = prompts.sorted_folders(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not folders:
        raise FileNotFoundError(f"{root} has no class folders: expected class/image.jpg")
    names = [_image_names(root, folder) for folder in folders]
    labels = [label for label, found in enumerate(names) for _ in found]
    chosen = prompts.read_class_names(classnames) if classnames else None
    if chosen is None:
        prompts.check_folders(root, folders)
    if chosen is not None and len(chosen) != len(folders):
        raise ValueError(f"{classnames} names {len(chosen)} classes, {root} has {len(folders)}")
    return LabelledImages(
        FileImages(root, [name for found in names for name in found]),
        torch.tensor(labels),
        chosen or prompts.folder_class_names(folders),
        prompts.read_templates(templates) if templates else prompts.folder_templates(folders),
    )


def open_tar_task(root: Path, *, classnames: Path | None, templates: Path | None) -> LabelledImages:
    """Open a task of CLIP_benchmark or DataComp: `test/*.tar`, class names and templates beside it.

    Args:
        root: Holds `test/`, `classnames.txt` and `zeroshot_classification_templates.txt`.
        classnames: Other file of class names.
        templates: Other file of templates.

    Raises:
        FileNotFoundError: A file is missing.
        ShardError: A sample has no image, no `cls`, or a label outside the classes.
    """
    names = prompts.read_class_names(classnames or root / prompts.CLASS_NAMES_FILE)
    chosen = prompts.read_templates(templates or root / prompts.TEMPLATES_FILE)
    images = TarImages(root / "test")
    labels = [_label(images, index, len(names)) for index in range(len(images))]
    return LabelledImages(images, torch.tensor(labels), names, chosen, _metadata(images))


def _image_names(root: Path, folder: str) -> list[str]:
    endings = tuple(f".{extension}" for extension in IMAGE_EXTENSIONS)
    below = (root / folder).rglob("*")
    found = [path.relative_to(root).as_posix() for path in below if path.suffix.lower() in endings]
    if not found:
        raise FileNotFoundError(f"class folder {root / folder} has no image ({' '.join(endings)})")
    return sorted(found)


def _label(images: TarImages, index: int, classes: int) -> int:
    text = images.member(index, "cls")
    if not text.strip().isdigit() or int(text) >= classes:
        raise ShardError(f"{images.name(index)}: label {text!r} is not in 0..{classes - 1}")
    return int(text)


def _metadata(images: TarImages) -> Tensor | None:
    if not all(images.has(index, "npy") for index in range(len(images))):
        return None
    rows = [
        np.load(io.BytesIO(images.member(index, "npy")), allow_pickle=False)
        for index in range(len(images))
    ]
    return torch.from_numpy(np.stack(rows).astype(np.int64).reshape(len(rows), -1))
