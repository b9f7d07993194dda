"""Class names and templates: CLIP's for ImageNet, files for everything else."""

from collections.abc import Callable, Sequence
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


def folder_class_names(folders: Sequence[str]) -> list[str]:
    """Return names of class folders: CLIP's for ImageNet's synsets, else the folders' own.

    ImageNet-A, -O, -R and other subsets of the 1,000 synsets have their names too.
    """
    names = imagenet_class_names()
    if folders and all(folder in names for folder in folders):
        return [names[folder] for folder in folders]
    return [folder.replace("_", " ") for folder in folders]


def folder_templates(folders: Sequence[str]) -> Sequence[Template]:
    """Return CLIP's 80 templates for ImageNet's synsets, else one."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    names = imagenet_class_names()
    known = bool(folders) and all(folder in names for folder in folders)
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
