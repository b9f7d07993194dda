"""The verb `demo-data` and what the small experiments train."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastfill import demo_data as demo_module
from fastfill.cli import APP
from fastfill.config import BackboneConfig
from fastfill.demo_data import DEMOS, demo_data
from fastfill.demo_training import DemoImageStream, train_backbone
from fastfill.demo_views import NOISE, SHIFT, images_of, view_of
from fastfill.feature_cache import read_cache
from fastfill.gallery.vector_files import read_ids, read_vectors
from fastfill.sources import open_source
from fastfill.weights import load_backbone


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both demos in a few steps."""
    for name in DEMOS:
        setting = replace(DEMOS[name], old_steps=3, steps=3)
        monkeypatch.setitem(demo_module.DEMOS, name, setting)


@pytest.mark.usefixtures("quick")
def test_a_demo_is_two_models_and_what_both_say(tmp_path: Path) -> None:
    assert APP.main(["demo-data", f"--out={tmp_path / 'demo'}", "--views=2"]) == 0
    demo = tmp_path / "demo"
    train, test = read_cache(demo / "train"), read_cache(demo / "test")
    assert (train.num_views, test.num_views) == (2, 1)
    assert (len(train), len(test)) == (1078, 719)
    assert train.cards == test.cards
    old, new = (load_backbone(demo / f"{name}.safetensors") for name in ("old", "new"))
    assert (old[1], new[1]) == (train.cards.old, train.cards.new)
    source = open_source("digits:test")
    with torch.inference_mode():
        said = new[0].embed_uint8(images_of(source, 1)).numpy()
    assert np.allclose(test.new(), said, atol=1e-5)
    assert test.labels.tolist() == source.labels.tolist()
    assert np.array_equal(read_vectors(demo / "old.npy"), test.old())
    assert list(read_ids(demo / "ids.txt")) == list(test.ids)
    assert not np.array_equal(train.new(0), train.new(1))


@pytest.mark.usefixtures("quick")
def test_a_demo_that_is_there_is_kept_and_another_seed_is_another_demo(tmp_path: Path) -> None:
    demo_data(tmp_path / "one", views=1)
    files = sorted(p for p in (tmp_path / "one").rglob("*") if p.is_file())
    before = {path: path.stat().st_mtime_ns for path in files if path.suffix == ".safetensors"}
    demo_data(tmp_path / "one", views=1)
    assert before == {path: path.stat().st_mtime_ns for path in before}
    demo_data(tmp_path / "again", views=1)
    demo_data(tmp_path / "other", views=1, seed=1)
    one, again, other = (read_cache(tmp_path / n / "test") for n in ("one", "again", "other"))
    assert np.array_equal(one.new(), again.new())
    assert not np.array_equal(one.new(), other.new())


@pytest.mark.usefixtures("quick")
def test_mistakes_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert APP.main(["demo-data", f"--out={tmp_path / 'demo'}", "--views=0"]) == 2
    assert "error: views must be >= 1, got 0" in capsys.readouterr().err
    assert not (tmp_path / "demo").exists()


def test_an_old_model_learns_from_its_classes_alone() -> None:
    source = open_source("digits:train")
    model = BackboneConfig(arch="tiny_mlp", dim=16, num_classes=10)
    backbone = train_backbone(model, source, steps=150, lr=0.3, seed=0, seen=5)
    images, labels = images_of(source, 1), torch.from_numpy(source.labels)
    with torch.no_grad():
        guesses = backbone(backbone.preprocess(images)).argmax(dim=1)
    seen = labels < 5
    assert (guesses < 5).all()
    assert (guesses[seen] == labels[seen]).float().mean() > 0.9
    assert not any(p.requires_grad for p in backbone.parameters())


def test_a_view_is_noise_and_a_shift_that_follow_from_the_key() -> None:
    images = torch.full((20, 3, 12, 12), 128, dtype=torch.uint8)
    images[:, :, 6, 6] = 255
    noisy = view_of(images, 0, 1, shift=False)
    assert torch.equal(noisy, view_of(images, 0, 1, shift=False))
    assert not torch.equal(noisy, view_of(images, 0, 2, shift=False))
    assert (noisy.float() - images)[:, :, :5].std() == pytest.approx(NOISE, rel=0.05)
    shifted = view_of(images, 0, 1, shift=True)
    peaks = shifted[:, 0].flatten(1).argmax(dim=1)
    rows, columns = peaks // 12 - 6, peaks % 12 - 6
    for offsets in (rows, columns):
        assert offsets.abs().max() == SHIFT
        assert offsets.unique().numel() == 2 * SHIFT + 1


def test_batches_of_the_demo_are_distinct_rows_with_their_labels() -> None:
    images = (torch.arange(150) + 50).to(torch.uint8)[:, None, None, None].expand(-1, 1, 8, 8)
    stream = iter(DemoImageStream(images, torch.arange(150), seed=0, shift=False))
    first, second = next(stream), next(stream)
    assert first["label"].unique().numel() == 128
    assert not torch.equal(first["label"], second["label"])
    means = first["image"].float().mean(dim=(1, 2, 3))
    assert (means - first["label"] - 50).abs().max() < NOISE
