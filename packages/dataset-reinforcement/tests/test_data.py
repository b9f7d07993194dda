"""The stream of a run: ranks, micro-batches, workers, resume; what must fit together."""

import dataclasses
import json
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_reinforcement import AUGMENT, CLASSES, SEED, SIZE, TinyData

from dataset_reinforcement.config import CurriculumConfig, ResolutionConfig
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.replay import ImageBatch
from tenfold import loader_workers


def make(tiny: TinyData, *, step: int = 0, **changes: Any) -> ReinforcementData:
    """Make the data module of one rank, its trainer at `step`."""
    options = {
        "images": tiny.train,
        "store": tiny.store(),
        "augment": AUGMENT,
        "batch_size": 8,
        "total_steps": 7,
        "eval_resize": 0,
        "workers": 0,
    }
    ranks = {name: changes.pop(name, default) for name, default in (("rank", 0), ("world", 1))}
    accum = changes.pop("accum", 1)
    data = ReinforcementData(changes.pop("val", tiny.val), **(options | changes))
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step,
        global_rank=ranks["rank"],
        world_size=ranks["world"],
        accumulate_grad_batches=accum,
        max_steps=7,
    )
    data.setup("fit")
    return data


def run(tiny: TinyData, **changes: Any) -> list[ImageBatch]:
    return list(make(tiny, **changes).train_dataloader())


def images_of(batches: list[ImageBatch]) -> torch.Tensor:
    return torch.cat([batch["image"] for batch in batches])


def test_a_step_is_the_same_for_any_ranks_micro_batches_and_workers(tiny: TinyData) -> None:
    straight = run(tiny)
    assert [len(batch["label"]) for batch in straight] == [8] * 7
    assert straight[0]["classes"].shape == (8, 3)
    halves = [run(tiny, rank=rank, world=2, workers=rank) for rank in (0, 1)]
    parts = run(tiny, accum=4)
    for step, batch in enumerate(straight):
        both = [halves[0][step], halves[1][step]]
        assert set(both[0]["keys"]).isdisjoint(both[1]["keys"])
        assert torch.equal(images_of(both), batch["image"])
        assert torch.equal(images_of(parts[4 * step : 4 * step + 4]), batch["image"])
        keys = ["classes", "probabilities", "label", "reinforced"]
        for key in keys:
            assert torch.equal(torch.cat([half[key] for half in both]), batch[key])


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_sees_the_rest(
    tiny: TinyData, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_workers, "processors", lambda: 2)
    straight, later = run(tiny), run(tiny, step=3, workers=workers)
    assert len(later) == 4
    for one, other in zip(straight[3:], later, strict=True):
        assert one["keys"] == other["keys"]
        assert torch.equal(one["image"], other["image"])


def test_epochs_are_whole_across_batches(tiny: TinyData) -> None:
    batches = run(tiny, batch_size=23, store=None, mode="erm")
    assert all(len(set(batch["keys"])) == 23 for batch in batches)
    crossing = [key for batch in run(tiny, batch_size=10) for key in batch["keys"]]
    assert [len(set(crossing[n : n + 23])) for n in (0, 23, 46)] == [23, 23, 23]


def test_steps_of_several_resolutions(tiny: TinyData) -> None:
    resolution = ResolutionConfig(low=8, high=16, scales=3, multiple=4)
    batches = run(tiny, resolution=resolution)
    assert batches[0]["image"].shape[-1] == 16
    counts = {b["image"].shape[-1]: len(b["label"]) for b in batches}
    assert counts == {8: 18, SIZE: 8, 16: 4}
    halves = [run(tiny, resolution=resolution, rank=rank, world=2) for rank in (0, 1)]
    for whole, *parts in zip(batches, *halves, strict=True):
        if len(parts[0]["keys"]) * 2 == len(whole["keys"]):
            assert parts[0]["image"].shape[-1] == whole["image"].shape[-1]


def test_views_and_classes_can_be_fewer_than_stored(tiny: TinyData) -> None:
    data = make(tiny, views=1, top_k=2, share=1.0)
    assert data.training.store.num_views == 1
    assert {batch["classes"].shape for batch in data.train_dataloader()} == {(8, 2)}
    with pytest.raises(ValueError, match=r"num_views must lie in 1\.\.3"):
        make(tiny, views=4)


def test_images_to_measure_on_come_once(tiny: TinyData) -> None:
    halves = [make(tiny, rank=rank, world=2, eval_batch_size=4) for rank in (0, 1)]
    loaders = [list(data.val_dataloader()) for data in halves]
    assert len(loaders[0]) == len(loaders[1])
    keys = [key for loader in loaders for batch in loader for key in batch["keys"]]
    assert len(keys) == len(set(keys)) == 11
    assert halves[0].num_classes == CLASSES


def rewritten(tiny: TinyData, tmp_path: Path, **changes: Any) -> str:
    """Copy the training images with other arrays."""
    with np.load(tiny.train) as arrays:
        np.savez(tmp_path / "other.npz", **({**arrays} | changes))
    return str(tmp_path / "other.npz")


def test_images_of_another_order_or_other_classes_are_refused(
    tiny: TinyData, tmp_path: Path
) -> None:
    with np.load(tiny.train) as arrays:
        images, names = arrays["images"], arrays["classes"]
    turned = rewritten(tiny, tmp_path, images=images[::-1])
    with pytest.raises(ValueError, match="image 0 of the store has key"):
        make(tiny, images=turned)
    fewer = rewritten(tiny, tmp_path, classes=[*names[:-1], "another"])
    with pytest.raises(ValueError, match="class 4 is 'another' and 'class-4'"):
        make(tiny, images=fewer)
    with pytest.raises(ValueError, match="data set has class 'another'"):
        make(tiny, images=fewer, val=fewer)


def test_a_partial_store_needs_leave(
    tiny: TinyData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = tmp_path / "store"
    for path in sorted(tiny.store(shard_size=12).rglob("*")):
        target = store / path.relative_to(tiny.store(shard_size=12))
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    next(store.rglob("shard-00001.safetensors")).unlink()
    with pytest.raises(ValueError, match=r"is partial .* allow_partial"):
        make(tiny, store=store)
    data = make(tiny, store=store, allow_partial=True, share=1.0)
    assert "52.2% of the images are reinforced" in caplog.text
    batches = list(data.train_dataloader())
    by_key = {data.training.images.key(index): index for index in range(23)}
    for batch in batches:
        for key, reinforced in zip(batch["keys"], batch["reinforced"], strict=True):
            assert reinforced == (by_key[key] < 12)


def test_a_store_of_other_library_versions_needs_leave(tiny: TinyData, tmp_path: Path) -> None:
    source, store = tiny.store(), tmp_path / "store"
    for path in (p for p in source.rglob("*") if p.is_file()):
        target = store / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    info = json.loads((store / "store.json").read_text())
    info["versions"]["torch"] = "0.1"
    (store / "store.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="allow_other_versions"):
        make(tiny, store=store)
    make(tiny, store=store, allow_other_versions=True)


def test_a_run_goes_on_with_its_own_data_only(tiny: TinyData) -> None:
    state = make(tiny).state_dict()
    make(tiny).load_state_dict(state)
    for changes, name in (
        ({"seed": 1}, "seed 0, now it is 1"),
        ({"batch_size": 4}, "batch_size 8, now it is 4"),
        ({"mode": "erm"}, "fingerprint"),
        ({"store": tiny.store(seed=SEED + 1)}, "store"),
        ({"views": 2}, "store"),
        ({"share": 0.5}, r"share 0\.99, now it is 0\.5"),
        ({"augment": dataclasses.replace(AUGMENT, flip=0.0)}, "augment"),
        ({"curriculum": CurriculumConfig(order="band", band=(0.0, 0.9))}, "curriculum"),
        ({"resolution": ResolutionConfig(low=8, high=16, scales=2, multiple=4)}, "resolution"),
    ):
        with pytest.raises(ValueError, match=f"the interrupted run had data.{name}"):
            make(tiny, **changes).load_state_dict(state)
    make(tiny, total_steps=9).load_state_dict(state)
    sizes = {"resolution": ResolutionConfig(low=8, high=16, scales=2, multiple=4)}
    planned = make(tiny, **sizes).state_dict()
    with pytest.raises(ValueError, match=r"data\.total_steps 7, now it is 9"):
        make(tiny, total_steps=9, **sizes).load_state_dict(planned)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, r"data\.batch_size must be >= 1, got 0"),
        ({"workers": -1}, r"data\.workers must be >= 0, got -1"),
        ({"max_bad_fraction": 1.0}, r"data\.max_bad_fraction must be in \[0, 1\), got 1\.0"),
        ({"images": ""}, r"data\.images must name the images"),
        ({"images": "absent.npz"}, "no images at 'absent.npz'"),
        ({"store": None}, r"loss\.mode dr needs data\.store"),
        ({"packed": Path("x")}, r"data\.packed takes the place of images"),
        ({"batch_size": 9, "world": 2}, "multiple of ranks x micro-batches = 2, got 9"),
        ({"total_steps": 6}, r"data\.total_steps is 6, the run has 7 steps"),
    ],
)
def test_mistakes(tiny: TinyData, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        make(tiny, **changes).train_dataloader()


def test_another_size_than_the_stores_is_told(
    tiny: TinyData, caplog: pytest.LogCaptureFixture
) -> None:
    make(tiny)
    make(tiny, resolution=ResolutionConfig(low=8, high=16, scales=2, multiple=4))
    assert "pixels" not in caplog.text
    make(tiny, augment=dataclasses.replace(AUGMENT, size=8))
    assert "data.augment.size is 8, the stored views have 12 pixels: they are" in caplog.text


@pytest.mark.parametrize(("wanted", "started"), [(0, 0), (2, 2), (9, 2)])
def test_no_more_workers_than_processors(
    tiny: TinyData,
    wanted: int,
    started: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(loader_workers, "processors", lambda: 2)
    loader_workers._note.cache_clear()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # on one core
        data = make(tiny, workers=wanted)
        loaders = [data.train_dataloader(), data.val_dataloader(), data.val_dataloader()]
    assert [loader.num_workers for loader in loaders] == [started] * 3
    said = [t for t in caplog.messages if "processors" in t]
    assert said == ["data.workers is 9, this process has 2 processors: 2 are started"] * (
        wanted > started
    )


def test_the_augmentation_of_plain_images_is_the_users(tiny: TinyData) -> None:
    still = dataclasses.replace(AUGMENT, crop="none", flip=0.0, rand_augment=0.0, erase=0.0)
    one, other = (run(tiny, augment=still, share=0.0, seed=seed, batch_size=23) for seed in (0, 1))
    by_key = dict(zip(one[0]["keys"], one[0]["image"], strict=True))
    for key, image in zip(other[0]["keys"], other[0]["image"], strict=True):
        assert torch.equal(by_key[key], image)
