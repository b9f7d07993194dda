"""Does a model notice relation, attribute and word order? Yuksekgonul et al. 2023 (ARO).

The records are those of the ARO release: VG-Relation and VG-Attribution with a true and a false
caption and a box, COCO-Order and Flickr30k-Order with caption options of which the first is right.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mobileclip.evaluation.images import EncodedImages, FileImages

BOX = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")


class OrderTask(NamedTuple):
    """Images, caption options (the first is right), boxes by index, and each record's group."""

    images: EncodedImages
    options: Sequence[Sequence[str]]
    boxes: dict[int, tuple[int, int, int, int]]
    groups: Sequence[str]


def open_order_task(path: Path) -> OrderTask:
    """Read a JSON list of records; image paths are below the file's folder.

    A record has `image_path` (or `image`), and `caption_options` or `true_caption` with
    `false_caption`; `bbox_x, bbox_y, bbox_w, bbox_h` cut the image; records are grouped by
    `relation_name` or `attributes`.

    Raises:
        FileNotFoundError: The file or an image is missing.
        ValueError: A record has another form; names its number.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file of records: {path}")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(records, list) or not records:
        raise ValueError(f"{path} must hold a list of records")
    parsed = [_parse(record, f"{path} record {number}") for number, record in enumerate(records)]
    return OrderTask(
        FileImages(path.parent, [each.image for each in parsed]),
        [each.options for each in parsed],
        {number: each.box for number, each in enumerate(parsed) if each.box is not None},
        [each.group for each in parsed],
    )


def order_metrics(
    image_ND: Tensor, text_MD: Tensor, counts: Sequence[int], groups: Sequence[str]
) -> dict[str, float]:
    """Return how often the first option of an image scores above all others.

    A tie is wrong. `acc_macro` is the mean over groups, as ARO reports for relations and
    attributes.

    Args:
        image_ND: Unit rows.
        text_MD: Unit rows of all options, image after image.
        counts: Options of each image.
        groups: Group of each image.
    """
    right: list[float] = []
    by_group: dict[str, list[float]] = defaultdict(list)
    for image_D, options, group in zip(image_ND, text_MD.split(list(counts)), groups, strict=True):
        scores = options @ image_D
        right.append(float(scores[0] > scores[1:].max()))
        by_group[group].append(right[-1])
    metrics = {"acc1": _mean(right)}
    if len(by_group) > 1:
        metrics["acc_macro"] = _mean([_mean(values) for values in by_group.values()])
    return metrics


class _Record(NamedTuple):
    image: str
    options: list[str]
    box: tuple[int, int, int, int] | None
    group: str


def _parse(record: Any, place: str) -> _Record:
    if not isinstance(record, dict):
        raise ValueError(f"{place} must be an object, got {type(record).__name__}")
    image = record.get("image_path", record.get("image"))
    options: Any = record.get("caption_options")
    if options is None:
        options = [record.get("true_caption"), record.get("false_caption")]
    if not isinstance(image, str):
        raise ValueError(f"{place} has no image_path")
    texts = isinstance(options, list) and all(isinstance(text, str) for text in options)
    if not texts or len(options) < 2:
        raise ValueError(f"{place} needs caption_options, or true_caption and false_caption")
    group = record.get("relation_name", record.get("attributes", ""))
    return _Record(image, options, _box(record), json.dumps(group))


def _box(record: dict[str, Any]) -> tuple[int, int, int, int] | None:
    if not all(name in record for name in BOX):
        return None
    left, top, width, height = (int(record[name]) for name in BOX)
    return left, top, left + width, top + height


def _mean(values: Sequence[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).mean().item()
