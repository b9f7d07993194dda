"""Images with boxes and masks from a folder in COCO's format.

`<path>/<split>/*.jpg` and `<path>/annotations/instances_<split>.json`. Category ids may have gaps,
as COCO's do; labels count from 1 in the order of the ids, 0 is the background. Masks are polygons
or run-length codes.
"""

import json
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dataset_reinforcement.image_decoding import decode_image
from dataset_reinforcement.image_order import Draw
from tenfold import keyed

_log = logging.getLogger(__name__)


class Objects(TypedDict):
    """N objects of an image, as torchvision's detectors and torchmetrics take them.

    Boxes are float32 `[N, 4]` (left, top, right, bottom), labels int64 `[N]` from 1, masks uint8
    `[N, H, W]`, areas float32 `[N]`, `iscrowd` int64 `[N]`.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor
    area: Tensor
    iscrowd: Tensor


class Detection(TypedDict):
    """An image uint8 `[3, H, W]`, its objects, and its file name."""

    image: Tensor
    objects: Objects
    key: str


class CocoImages(Dataset[Detection]):
    """The images of a split in the order of their ids.

    Args:
        path: Folder of the data set.
        split: Name of the split, such as `train2017`.
        train: Leave out crowds, boxes without area, and images that have nothing else.
        flip: Probability that `[Draw]` mirrors an image left to right.
        seed: Key of the mirroring.

    Attributes:
        classes: Category names; label n is `classes[n - 1]`.

    Raises:
        FileNotFoundError: Folder or annotations are missing.
        ValueError: The annotations are malformed, or no image is left.
    """

    def __init__(
        self, path: Path, split: str, *, train: bool = False, flip: float = 0.0, seed: int = 0
    ) -> None:
        masks_of_pycocotools()  # missing it must show before the work, not at the first image
        self.folder = path / split
        self.flip = flip
        self.seed = seed
        self.train = train
        file = path / "annotations" / f"instances_{split}.json"
        for needed in (self.folder, file):
            if not needed.exists():
                raise FileNotFoundError(
                    f"there is no {needed}: COCO's format is <path>/<split> and "
                    "<path>/annotations/instances_<split>.json"
                )
        try:
            self._read(json.loads(file.read_text("utf-8")))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{file} is not in COCO's format: {type(error).__name__} {error}"
            ) from error
        if not self._images:
            raise ValueError(f"{file} has no image{' with an object' if train else ''}")

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: int | Draw) -> Detection:
        index = place.index if isinstance(place, Draw) else place
        entry = self._images[index]
        name = entry["file_name"]
        image = decode_image((self.folder / name).read_bytes(), str(self.folder / name))
        height, width = image.shape[1:]
        if (height, width) != (entry["height"], entry["width"]):
            raise ValueError(
                f"{self.folder / name} has {height} x {width} pixels, its annotation says "
                f"{entry['height']} x {entry['width']}"
            )
        found: Detection = {"image": image, "objects": self._objects(entry), "key": name}
        if isinstance(place, Draw) and self._mirrors(place):
            return mirrored(found)
        return found

    def _mirrors(self, draw: Draw) -> bool:
        return keyed.generator("mirror", self.seed, draw.epoch, draw.index).random() < self.flip

    def _read(self, content: Mapping[str, Any]) -> None:
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self.classes = tuple(str(category["name"]) for category in categories)
        self._label_of = {category["id"]: place + 1 for place, category in enumerate(categories)}
        self._annotations: dict[int, list[dict[str, Any]]] = {}
        for annotation in content["annotations"]:
            if annotation["category_id"] not in self._label_of:
                raise KeyError(f"category_id {annotation['category_id']}")
            if not self.train or _is_object(annotation):
                self._annotations.setdefault(annotation["image_id"], []).append(annotation)
        images = sorted(content["images"], key=lambda image: image["id"])
        kept = [i for i in images if not self.train or i["id"] in self._annotations]
        if len(kept) < len(images):
            _log.info("%d of %d images have no object", len(images) - len(kept), len(images))
        self._images: list[dict[str, Any]] = kept

    def _objects(self, entry: Mapping[str, Any]) -> Objects:
        listed = self._annotations.get(entry["id"], [])
        height, width = entry["height"], entry["width"]
        masks = [decode_mask(a["segmentation"], height, width) for a in listed]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (a["bbox"] for a in listed)]
        areas = [a.get("area", a["bbox"][2] * a["bbox"][3]) for a in listed]
        return {
            "boxes": torch.tensor(corners, dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor(
                [self._label_of[a["category_id"]] for a in listed], dtype=torch.int64
            ),
            "masks": torch.from_numpy(np.array(masks, np.uint8).reshape(-1, height, width)),
            "area": torch.tensor(areas, dtype=torch.float32),
            "iscrowd": torch.tensor([a.get("iscrowd", 0) for a in listed], dtype=torch.int64),
        }


def decode_mask(code: Any, height: int, width: int) -> NDArray[np.uint8]:
    """Return the mask `[H, W]` of polygons, or of run lengths, plain or compressed."""
    masks = masks_of_pycocotools()
    if isinstance(code, list):
        code = masks.merge(masks.frPyObjects(code, height, width))
    elif isinstance(code["counts"], list):
        code = masks.frPyObjects(code, height, width)
    with warnings.catch_warnings():
        # pycocotools 2.0.11 predates numpy's copy keyword; what it returns is right.
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
        return np.asarray(masks.decode(code), dtype=np.uint8)


def mirrored(found: Detection) -> Detection:
    """Return image, masks and boxes with left and right exchanged."""
    width = found["image"].shape[2]
    objects = found["objects"]
    left, top, right, bottom = objects["boxes"].unbind(1)
    boxes = torch.stack([width - right, top, width - left, bottom], dim=1)
    turned: Objects = {**objects, "boxes": boxes, "masks": objects["masks"].flip(2)}
    return {"image": found["image"].flip(2), "objects": turned, "key": found["key"]}


def masks_of_pycocotools() -> ModuleType:
    """Return `pycocotools.mask`.

    Raises:
        ValueError: It is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise ValueError(
            "detection needs pycocotools: install dataset-reinforcement[detection]"
        ) from error
    return mask


def _is_object(annotation: Mapping[str, Any]) -> bool:
    _, _, width, height = annotation["bbox"]
    return not annotation.get("iscrowd", 0) and width > 0 and height > 0
