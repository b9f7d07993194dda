"""`inspect` and `info`: what they show is what the store holds."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image
from teacher_files import CLASSES, OPTIONS, make_teacher, write_images

from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import ImageSource, open_images
from dataset_reinforcement.info import info
from dataset_reinforcement.inspect_store import draw_sheet, inspect, sampled_entropies
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.views import make_view
from tenfold.augment.pipeline import Augment


class Made(NamedTuple):
    """Images and their store, which no test changes; image 1 is damaged."""

    images: Path
    store: Path

    def open(self) -> tuple[Store, ImageSource]:
        return Store.open(self.store), open_images(str(self.images))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    images = write_images(folder / "images")
    (images / "cat/1.png").write_bytes(b"no [image]")
    generate(str(images), folder / "store", make_teacher(folder), **OPTIONS)
    return Made(images, folder / "store")


def test_the_sheet_shows_views_labels_and_disagreement(made: Made):
    store, source = made.open()
    figure = draw_sheet(store, source, [0, 6], views=2)
    *cells, histogram = figure.axes
    assert len(cells) == 2 * 3
    for row, index in enumerate((0, 6)):
        original, *views = cells[3 * row : 3 * row + 3]
        assert (original.images[0].get_array() == source.load(index).permute(1, 2, 0).numpy()).all()
        label = source.label(index)
        assert original.get_title().splitlines()[1] == CLASSES[label]
        agrees = any(store.read(index, view).classes[0] == label for view in range(2))
        assert original.title.get_color() == ("black" if agrees else "red")
        for view, cell in enumerate(views):
            entry = store.read(index, view)
            best = f"{CLASSES[entry.classes[0]]} {entry.probabilities[0]:.2f}"
            assert cell.get_title().splitlines()[0] == best
            pixels = make_view(Augment(store.augment), source.load, entry.own, entry.mix, index)
            assert (cell.images[0].get_array() == pixels.permute(1, 2, 0).numpy()).all()
    assert sum(bar.get_height() for bar in histogram.patches) == 15 * 3
    assert len(histogram.lines) == 2


def test_entropies_are_those_of_the_stored_views(made: Made):
    store, _ = made.open()
    expected = [store.entropies(index) for index in range(16) if index != 1]
    assert (sampled_entropies(store) == np.concatenate(expected)).all()


def test_a_png_is_written(made: Made, tmp_path: Path):
    inspect(made.store, str(made.images), tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 400


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([16], r"index must lie in 0\.\.15, got 16"),
        ([0, -1], r"index must lie in 0\.\.15, got -1"),
        ([1], r"image 1 is not reinforced"),
    ],
)
def test_impossible_images_are_refused(made: Made, tmp_path: Path, index: list[int], message: str):
    with pytest.raises(ValueError, match=message):
        inspect(made.store, str(made.images), tmp_path / "sheet.png", index=index)
    with pytest.raises(ValueError, match=r"views must be >= 1, got 0"):
        inspect(made.store, str(made.images), tmp_path / "sheet.png", views=0)
    assert not (tmp_path / "sheet.png").exists()


def test_info_calls_a_store_that_lost_files_damaged(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    store = shutil.copytree(made.store, tmp_path / "store")
    shards = sorted(store.rglob("shard-*"))
    shards[2].unlink()
    shards[3].write_bytes(b"cut")
    info(store)
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "status damaged, 3 of 4 shards" in out
    assert "shard-00002.safetensors is missing" in out
    assert "shard-00003.safetensors has 3 bytes, store.json says" in out


def test_info_prints_what_the_store_holds(made: Made, capsys: pytest.CaptureFixture[str]):
    info(made.store)
    out = capsys.readouterr().out
    for text in (
        "complete, 4 of 4 shards",
        "16, 1 of them skipped",
        "cat/1.png cannot be decoded",
        "3 in 1 parts",
        "3 of 4 classes, float16",
        "conv4 at 16 px",
        "any image",
        "MixUp 0.5",
    ):
        assert text in " ".join(out.replace("│", " ").split()), text
