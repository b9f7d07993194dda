"""Test sets by name: their folders, the model's classes that compete, and those that are right.

ImageNet-V2, -A, -R, -Sketch and -C, ObjectNet, and plain sets. -A and -R have 200
of the 1,000 classes, and the others' logits are left out. ObjectNet follows its official scorer:
all classes compete, and each class that its mapping names for an object is right.

Not here: scoring (`scoring`).
"""

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from dataset_reinforcement.class_names import are_numbers
from dataset_reinforcement.corruptions import LEVELS, SEVERITIES, CorruptedImages
from dataset_reinforcement.images import ImageSource, open_images

Kind = Literal["plain", "v2", "a", "r", "sketch", "c", "corrupted", "objectnet"]
KINDS: Mapping[str, Kind] = {kind: kind for kind in get_args(Kind)}

CORRUPTIONS_C = (
    *("gaussian_noise", "shot_noise", "impulse_noise"),
    *("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    *("snow", "frost", "fog", "brightness"),
    *("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
)
OBJECTNET_CLASSES = 113
OBJECTNET_BORDER = 2

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that are scored together.

    Attributes:
        name: Empty where a set has one part, else such as `fog/3`.
        images: The images; some may be no part of the test.
        accepted: For each class of `images` the model's classes that are right; none leaves its
            images out.
        competing: The model's classes among which it chooses; None for all.
        border: Pixels cut off every side.
    """

    name: str
    images: ImageSource
    accepted: tuple[tuple[int, ...], ...]
    competing: tuple[int, ...] | None = None
    border: int = 0

    def indices(self) -> list[int]:
        """Return the images that are part of the test."""
        return [i for i in range(len(self.images)) if self.accepted[self.images.label(i)]]


class EvaluationSet(NamedTuple):
    """A test set; its result is the mean over its parts, which are opened one after another."""

    name: str
    kind: Kind
    parts: Iterator[Part]


def open_set(
    name: str,
    path: str,
    *,
    num_classes: int,
    classes: Sequence[str] = (),
    mappings: Path | None = None,
    seed: int = 0,
) -> EvaluationSet:
    """Open a test set.

    Args:
        name: `v2`, `a`, `r`, `sketch`, `c`, `objectnet`, `corrupted` (our own noise, blur and
            contrast on the images of `path`), or any other name for a plain set.
        path: What `open_images` opens; for `c` the folder of `<corruption>/<severity>/<wnid>`.
        num_classes: Outputs of the model.
        classes: Their names, where the model tells them; a plain set is then matched by name.
        mappings: ObjectNet's folder `mappings`; by default the one beside the image folder.
        seed: Key of the noise of `corrupted`.

    Raises:
        FileNotFoundError: Images or mappings are missing.
        ValueError: The set's classes do not fit the model.
    """
    kind: Kind = KINDS.get(name, "plain")
    if kind not in ("plain", "corrupted") and num_classes != len(imagenet_synsets()):
        raise ValueError(
            f"the set {name!r} is of ImageNet's 1000 classes, the model has {num_classes}; give a "
            "plain set another name"
        )
    try:
        parts = _open_parts(kind, path, num_classes, classes, mappings, seed)
    except ValueError as error:
        raise ValueError(f"set {name!r}: {error}") from error
    return EvaluationSet(name, kind, parts)


@cache
def imagenet_synsets(subset: Literal["", "_a", "_r"] = "") -> tuple[str, ...]:
    """Return the WordNet ids of ImageNet-1k in label order, or of ImageNet-A's or -R's 200 classes.

    timm ships the three lists; only the first has an interface.
    """
    if not subset:
        from timm.data.imagenet_info import ImageNetInfo

        return tuple(ImageNetInfo().label_names())
    text = files("timm.data").joinpath("_info", f"imagenet{subset}_synsets.txt").read_text("utf-8")
    return tuple(text.split())


def plain_labels(
    classes: Sequence[str], num_classes: int, names: Sequence[str] = ()
) -> tuple[tuple[int, ...], ...]:
    """Return the model's class of each class of a set: by name, WordNet id, otherwise by position.

    Args:
        classes: The set's class names; some of the model's are enough.
        num_classes: Outputs of the model.
        names: Their names, where the model tells them.

    Raises:
        ValueError: A class is none of the model's, or neither tells names and the numbers differ.
    """
    if not (are_numbers(names) or are_numbers(classes)):
        return _named_labels(classes, names)
    synsets = imagenet_synsets() if num_classes == 1000 else ()
    if set(classes) <= set(synsets):
        return wnid_labels(classes)
    if len(classes) != num_classes:
        raise ValueError(
            f"the set has {len(classes)} classes and the model {num_classes}; without WordNet ids "
            "as class names the numbers must agree"
        )
    return tuple((label,) for label in range(num_classes))


def _named_labels(classes: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    if list(classes) == list(names):  # names may come twice
        return tuple((label,) for label in range(len(names)))
    label_of = {name: label for label, name in enumerate(names)}
    for number, name in enumerate(classes):
        if name not in label_of:
            raise ValueError(
                f"class {number} is {name!r}, which is none of the {len(names)} classes that the "
                f"checkpoint was trained on, from {names[0]!r} to {names[-1]!r}"
            )
    return tuple((label_of[name],) for name in classes)


def wnid_labels(
    classes: Sequence[str], allowed: Sequence[str] | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return the ImageNet-1k label of each class that is named by its WordNet id.

    Args:
        classes: The set's class names.
        allowed: The only ids that the set may have; ImageNet-1k's by default.

    Raises:
        ValueError: A class is not among the allowed ids.
    """
    label_of = {synset: label for label, synset in enumerate(imagenet_synsets())}
    known = set(label_of if allowed is None else allowed)
    for name in classes:
        if name not in known:
            raise ValueError(
                f"class folder {name!r} is none of the {len(known)} WordNet ids of this set"
            )
    return tuple((label_of[name],) for name in classes)


def number_labels(classes: Sequence[str], num_classes: int) -> tuple[tuple[int, ...], ...]:
    """Return the label of each class that is named by its number, as ImageNet-V2's folders are.

    Sorted as texts, `10` stands before `2`: the position is not the label.

    Raises:
        ValueError: A name is no label.
    """
    for name in classes:
        if not name.isdecimal() or int(name) >= num_classes:
            raise ValueError(f"class folder {name!r} is no number below {num_classes}")
    return tuple((int(name),) for name in classes)


def objectnet_labels(folders: Sequence[str], mappings: Path) -> tuple[tuple[int, ...], ...]:
    """Return the ImageNet-1k labels that are right for each folder of ObjectNet, often none.

    Args:
        folders: Names of the object folders.
        mappings: Folder with ObjectNet's `folder_to_objectnet_label.json`,
            `objectnet_to_imagenet_1k.json`, `pytorch_to_imagenet_2012_id.json` and
            `imagenet_to_label_2012_v2`.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: The files contradict each other, or no folder is mapped.
    """
    object_of = _read_json(mappings / "folder_to_objectnet_label.json")
    names_of = _read_json(mappings / "objectnet_to_imagenet_1k.json")
    line_of = _read_json(mappings / "pytorch_to_imagenet_2012_id.json")
    lines = _existing(mappings / "imagenet_to_label_2012_v2").read_text("utf-8").splitlines()
    label_at = {int(line): int(label) for label, line in line_of.items()}
    if sorted(label_at) != list(range(len(lines))):
        raise ValueError(
            f"{mappings / 'pytorch_to_imagenet_2012_id.json'} must give each of the {len(lines)} "
            "lines of imagenet_to_label_2012_v2, counted from 0, one label"
        )
    label_of = {text.strip(): label_at[number] for number, text in enumerate(lines)}
    labels: list[tuple[int, ...]] = []
    for folder in folders:
        names = names_of.get(object_of.get(folder, folder), "")
        labels.append(_labels_of(names, label_of, folder))
    if not any(labels):
        raise ValueError(f"none of {len(folders)} object folders is mapped by {mappings}")
    if (mapped := sum(map(bool, labels))) != OBJECTNET_CLASSES:
        _log.warning("%d objects are mapped, ObjectNet has %d", mapped, OBJECTNET_CLASSES)
    return tuple(labels)


def _labels_of(names: str, label_of: Mapping[str, int], folder: str) -> tuple[int, ...]:
    found: list[int] = []
    for name in filter(None, (part.strip() for part in names.split(";"))):
        if name not in label_of:
            raise ValueError(f"{folder!r} is mapped to {name!r}, which is no class of ImageNet")
        found.append(label_of[name])
    return tuple(found)


def _open_parts(
    kind: Kind,
    path: str,
    num_classes: int,
    names: Sequence[str],
    mappings: Path | None,
    seed: int,
) -> Iterator[Part]:
    if kind == "c":
        return _parts_c(_corrupted_folders(Path(path).expanduser()))
    images = open_images(path)
    match kind:
        case "a" | "r":
            allowed = imagenet_synsets("_a" if kind == "a" else "_r")
            competing = tuple(sorted(label for (label,) in wnid_labels(allowed)))
            accepted = wnid_labels(images.classes, allowed)
            part = Part(name="", images=images, accepted=accepted, competing=competing)
        case "sketch":
            part = Part(name="", images=images, accepted=wnid_labels(images.classes))
        case "v2":
            by_number = all(name.isdecimal() for name in images.classes)
            classes = images.classes
            accepted = number_labels(classes, num_classes) if by_number else wnid_labels(classes)
            part = Part(name="", images=images, accepted=accepted)
        case "objectnet":
            folder = mappings or Path(path).expanduser().parent / "mappings"
            accepted = objectnet_labels(images.classes, folder)
            part = Part(name="", images=images, accepted=accepted, border=OBJECTNET_BORDER)
        case _:
            accepted = plain_labels(images.classes, num_classes, names)
            if kind == "corrupted":
                return _parts_corrupted(images, accepted, seed)
            part = Part(name="", images=images, accepted=accepted)
    return iter((part,))


def _corrupted_folders(root: Path) -> dict[str, Path]:
    """Return the 75 folders of ImageNet-C, also where they lie in its five archives' folders."""
    found: dict[str, Path] = {}
    for corruption, severity in product(CORRUPTIONS_C, SEVERITIES):
        name = f"{corruption}/{severity}"
        places = [root / name, *sorted(root.glob(f"*/{name}"))]
        place = next((place for place in places if place.is_dir()), None)
        if place is None:
            raise FileNotFoundError(
                f"{root} has no folder {name}: ImageNet-C is {len(CORRUPTIONS_C)} corruptions of "
                f"{len(SEVERITIES)} severities"
            )
        found[name] = place
    return found


def _parts_c(folders: Mapping[str, Path]) -> Iterator[Part]:
    for name, folder in folders.items():
        images = open_images(str(folder))
        yield Part(name=name, images=images, accepted=wnid_labels(images.classes))


def _parts_corrupted(
    images: ImageSource, accepted: tuple[tuple[int, ...], ...], seed: int
) -> Iterator[Part]:
    for corruption, severity in product(LEVELS, SEVERITIES):
        changed = CorruptedImages(images, corruption, severity, seed=seed)
        yield Part(name=f"{corruption}/{severity}", images=changed, accepted=accepted)


def _read_json(path: Path) -> dict[str, str]:
    return json.loads(_existing(path).read_text("utf-8"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no {path}: ObjectNet's folder `mappings` is needed, beside its images or as "
            "--objectnet_mappings"
        )
    return path
