"""Damaged images: left out or replaced, listed, and warned of once."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_reinforcement import AUGMENT, CLASSES, SIZE, TinyData
from torch.utils.data import DataLoader

from dataset_reinforcement.cli import APP
from dataset_reinforcement.damaged_images import DamagedImages
from dataset_reinforcement.dataset import ReinforcedImages
from dataset_reinforcement.evaluation_images import EvaluationImages
from dataset_reinforcement.images import open_images
from dataset_reinforcement.replay import Place, ReplayConfig
from dataset_reinforcement.streaming import pack
from tenfold.callbacks.metrics import read_metrics

PNG = b"\x89PNG"
FIT = ("--optim.name=sgd", "--optim.lr=0.1", "--trainer.accelerator=cpu", "--model.name=conv4")
FIT += (f"--model.classes={CLASSES}", f"--model.image_size={SIZE}", f"--data.augment.size={SIZE}")
FIT += ("--data.batch_size=8", "--data.eval_resize=0", "--data.workers=0")


def write_images(folder: Path, *, damaged: int, count: int = 11) -> str:
    """Write images of 5 classes, of which the first `damaged` are no images."""
    rng = np.random.Generator(np.random.Philox(key=4))
    for number in range(count):
        path = folder / f"class-{number % CLASSES}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (14, 15, 3), dtype=np.uint8)).save(path)
        if number < damaged:
            path.write_bytes(path.read_bytes()[:40])
    return str(folder)


def test_each_is_new_once() -> None:
    damaged = DamagedImages(4)
    assert [damaged.is_new(index) for index in (1, 1, 3, 1)] == [True, False, True, False]
    assert len(damaged) == 2


@pytest.mark.parametrize("workers", [0, 1])
def test_images_to_measure_on_are_left_out_and_named_once(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    source = open_images(write_images(tmp_path / "val", damaged=2))
    images = EvaluationImages(source, size=8, resize=None, batch_size=1, name="data/val")
    handler = logging.StreamHandler()
    logging.getLogger("dataset_reinforcement").addHandler(handler)
    try:
        loader = DataLoader(images, batch_size=None, num_workers=workers)
        epochs = [list(loader) for _ in range(2)]
    finally:
        logging.getLogger("dataset_reinforcement").removeHandler(handler)
    for batches in epochs:
        assert sum(len(batch["label"]) for batch in batches) == 9
        assert {tuple(b["image"].shape[1:]) for b in batches} == {(3, 8, 8)}
    lines = [line for line in capfd.readouterr().err.splitlines() if "left out" in line]
    assert len(lines) == 2
    assert lines[0].startswith("data/val: ")
    assert "class-0/00.png cannot be decoded" in lines[0]
    assert lines[1].endswith("(2 of 11 images so far): mend or remove")


def test_nothing_to_measure_on_is_an_error(tmp_path: Path) -> None:
    source = open_images(write_images(tmp_path, damaged=6, count=6))
    images = EvaluationImages(source, size=8, resize=None, batch_size=6, name="data/val")
    with pytest.raises(ValueError, match="data/val: none of the 6 images can be decoded"):
        images[0]


def test_a_run_measures_on_the_images_that_are_left(
    tiny: TinyData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    val = write_images(tmp_path / "val", damaged=1)
    data = [f"--data.images={tiny.train}", f"--data.val={val}", "--data.eval_batch_size=1"]
    run = ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--loss.mode=erm"]
    assert APP.main(["fit", *FIT, *data, *run, f"--run_dir={tmp_path / 'run'}"]) == 0
    tops = [
        row["val/top1"] for row in read_metrics(tmp_path / "run/metrics.csv") if "val/top1" in row
    ]
    assert len(tops) == 2
    for top in tops:
        assert top * 10 == pytest.approx(round(top * 10))
    (message,) = [text for text in caplog.messages if "left out of the measures" in text]
    assert message.startswith(f"{val}: ")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_replaced_image_is_named_once(
    tmp_path: Path, workers: int, capfd: pytest.CaptureFixture[str]
) -> None:
    config = ReplayConfig(mode="erm", augment=AUGMENT, num_classes=CLASSES)
    data = ReinforcedImages(open_images(write_images(tmp_path, damaged=1)), config)
    handler = logging.StreamHandler()
    logging.getLogger("dataset_reinforcement").addHandler(handler)
    places = [Place(epoch, 0, SIZE) for epoch in range(3)]
    try:
        for _ in range(2):
            loader = DataLoader(data, sampler=places, batch_size=None, num_workers=workers)
            assert len(list(loader)) == 3
    finally:
        logging.getLogger("dataset_reinforcement").removeHandler(handler)
    assert capfd.readouterr().err.count("replaced by the next one") == 1


def damaged_packed(tiny: TinyData, folder: Path) -> Path:
    """Pack the images and overwrite the beginning of the first."""
    pack(tiny.train, tiny.store(), folder / "packed")
    (shard,) = (folder / "packed").glob("*.tar")
    content = shard.read_bytes()
    first = content.index(PNG)
    shard.write_bytes(content[:first] + b"no image" + content[first + 8 :])
    return folder / "packed"


def test_packed_training_bears_a_share_of_damaged_images(
    tiny: TinyData, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    packed = damaged_packed(tiny, tmp_path)
    words = ["fit", *FIT, f"--data.packed={packed}", f"--data.val={tiny.val}"]
    words += ["--trainer.max_steps=4"]
    first, second = tmp_path / "first", tmp_path / "second"
    assert APP.main([*words, f"--run_dir={first}"]) == 2
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert "1 of 23 samples are bad, more than data.max_bad_fraction=0.01" in line
    assert line.endswith("mend them or raise data.max_bad_fraction")
    assert str(first / "quarantine.jsonl") in line
    assert APP.main([*words, f"--run_dir={second}", "--data.max_bad_fraction=0.05"]) == 0
    (listed,) = (second / "quarantine.jsonl").read_text().splitlines()
    assert json.loads(listed)["key"] == "000000000"
    assert not (packed / "quarantine.jsonl").exists()


def test_a_dry_run_lists_nothing_anywhere(
    tiny: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = damaged_packed(tiny, tmp_path)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    words = [
        "--data.max_bad_fraction=0.5",
        "--data.batch_size=23",
        "--trainer.max_steps=1",
        "--dry_run",
    ]
    assert APP.main(["fit", *FIT, f"--data.packed={packed}", f"--data.val={tiny.val}", *words]) == 0
    assert not list(Path().iterdir())


def test_evaluation_names_the_remedy(tmp_path: Path) -> None:
    from dataset_reinforcement.robustness import Part
    from dataset_reinforcement.scoring import score_part

    source = open_images(write_images(tmp_path, damaged=1))
    part = Part(name="", images=source, accepted=tuple((label,) for label in range(CLASSES)))
    with pytest.raises(ValueError, match=r"00\.png cannot be decoded.*; mend or remove the file"):
        score_part(lambda b: torch.zeros(len(b), CLASSES), part, lambda x: x, num_classes=CLASSES)
