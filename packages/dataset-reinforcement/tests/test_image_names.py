"""File names of any bytes: keys that every file and terminal can hold, each its own."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from teacher_files import OPTIONS, write_member
from torchvision.datasets import ImageFolder

from dataset_reinforcement.generate import generate
from dataset_reinforcement.image_folder import FolderImages, printable
from dataset_reinforcement.info import info
from dataset_reinforcement.inspect_store import inspect
from dataset_reinforcement.store.merge import merge
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher_config import TeacherConfig

NAMES = [
    b"new\nline.png",
    b"bytes\xff\xfe.png",
    b"bytes\\xff\\xfe.png",
    "nämlich \U0001f984.png".encode(),
    b"tab\ttab\x1b[31m.png",
    b"$x_{1}$ [bold].png",
    b"c1\xc2\x85.png",
    b"x" * 251 + b".png",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, whose names are no plain text either."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for name in (b"a\nb", b"c\xff"):
        (folder / os.fsdecode(name)).mkdir(parents=True)
        for file in NAMES:
            image = Image.fromarray(rng.integers(0, 256, (20, 20, 3), dtype=np.uint8))
            image.save(folder / os.fsdecode(name) / os.fsdecode(file))
    (folder / os.fsdecode(b"c\xff") / os.fsdecode(b"bad\n\xff.png")).write_bytes(b"no image")
    return folder


def test_keys_are_printable_and_all_different(folder: Path):
    images = FolderImages(folder)
    keys = [images.key(index) for index in range(len(images))]
    assert len(set(keys)) == len(keys) == 2 * len(NAMES) + 1
    assert all("\n" not in key and key.encode() and "\x1b" not in key for key in keys)
    assert images.classes == ("a\\u000ab", "c\\xff")
    assert "a\\u000ab/new\\u000aline.png" in keys
    assert "c\\xff/bytes\\xff\\xfe.png" in keys
    assert "c\\xff/bytes\\\\xff\\\\xfe.png" in keys
    theirs = ImageFolder(folder, is_valid_file=lambda path: path.endswith(".png"))
    assert [str(images.path(i)) for i in range(len(images))] == [path for path, _ in theirs.samples]
    assert images.load(0).shape == (3, 20, 20)


def test_plain_names_stay_as_they_are():
    for name in ("n01440764/n01440764_10026.JPEG", "Zürich/käse 1.png", "日本/$1.webp"):
        assert printable(name) == name


def test_a_store_of_such_images_is_made_read_merged_and_shown(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    teacher = TeacherConfig(members=(write_member(tmp_path / "m.safetensors", classes=2),))
    options = OPTIONS | {"top_k": 2, "views": 1}
    for append in (False, True):
        generate(str(folder), tmp_path / "store", teacher, append=append, **options)
    merge([tmp_path / "store"], tmp_path / "out")
    store = Store.open(tmp_path / "out")
    images = FolderImages(folder)
    store.check_source(images)
    assert [sample.key for sample in store.samples] == [images.key(i) for i in range(len(images))]
    assert [skipped.key for skipped in store.info.skipped] == ["c\\xff/bad\\u000a\\xff.png"]
    assert len(store.info.skipped[0].reason.splitlines()) == 1
    info(tmp_path / "out")
    assert "cannot be decoded" in capsys.readouterr().out
    inspect(tmp_path / "out", str(folder), tmp_path / "sheet.png", index=[0, 1, 2, 5, 10])
    assert (tmp_path / "sheet.png").stat().st_size > 1000
