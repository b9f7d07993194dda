"""Class names and templates: CLIP's for ImageNet, files for everything else."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

CLASS_NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
SIMPLE_TEMPLATES = ("a photo of a {}.",)

Template = str | Callable[[str], str]


def read_class_names(path: Path) -> list[str]:
    """Return one class name a line, in the order of the labels.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A line is empty.
    """
    return _lines(path, "class names")


def read_templates(path: Path) -> list[str]:
    """Return one template a line, `{}` (or `{c}`, as CLIP_benchmark writes) for the name.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: A line has no place for the name.
    """
    templates = [line.replace("{c}", "{}") for line in _lines(path, "templates")]
    for number, template in enumerate(templates, start=1):
        if "{}" not in template:
            raise ValueError(f"{path} line {number}: {template!r} has no {{}} for the class name")
    return templates


def sorted_folders(folders: Iterable[str]) -> list[str]:
    """Return class folders in the order of their labels; numbers as numbers."""
    found = list(folders)
    numbered = all(folder.isdecimal() for folder in found)
    return sorted(found, key=int) if numbered else sorted(found)


def check_folders(root: Path, folders: Sequence[str]) -> None:
    """Refuse folders whose names would be senseless or half-right prompts.

    Raises:
        ValueError: They are numbers but not ImageNet's 1,000, or only some are ImageNet's synsets.
    """
    names = imagenet_class_names()
    strays = [folder for folder in folders if folder not in names]
    if strays and all(folder.isdecimal() for folder in folders):
        if not _are_imagenet_numbers(folders):
            raise ValueError(f"class folders of {root} are numbers; give their --classnames")
    elif 0 < len(strays) < len(folders):
        raise ValueError(
            f"{root / strays[0]} is no ImageNet synset, others there are; remove it or give "
            "--classnames"
        )


def _are_imagenet_numbers(folders: Sequence[str]) -> bool:
    return list(folders) == [str(label) for label in range(1000)]


def folder_class_names(folders: Sequence[str]) -> list[str]:
    """Return names of class folders: CLIP's for ImageNet's synsets, else the folders' own.

    ImageNet-A, -O, -R and other subsets of the 1,000 synsets have their names too.
    """
    names = imagenet_class_names()
    if folders and all(folder in names for folder in folders):
        return [names[folder] for folder in folders]
    if _are_imagenet_numbers(folders):
        return list(names.values())
    return [folder.replace("_", " ") for folder in folders]


def folder_templates(folders: Sequence[str]) -> Sequence[Template]:
    """Return CLIP's 80 templates for ImageNet's synsets, else one."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    names = imagenet_class_names()
    known = bool(folders) and all(folder in names for folder in folders)
    known = known or _are_imagenet_numbers(folders)
    return OPENAI_IMAGENET_TEMPLATES if known else SIMPLE_TEMPLATES


def imagenet_class_names() -> dict[str, str]:
    """Return CLIP's class names by ImageNet synset, in the order of the labels."""
    from open_clip import IMAGENET_CLASSNAMES
    from timm.data.imagenet_info import ImageNetInfo

    return dict(zip(ImageNetInfo().label_names(), IMAGENET_CLASSNAMES, strict=True))


def _lines(path: Path, what: str) -> list[str]:
    if not path.is_file():
        raise FileNotFoundError(f"no file of {what}: {path}")
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    if not lines or not all(lines):
        raise ValueError(f"{path}: expected one of {what} a line, none empty")
    return lines
