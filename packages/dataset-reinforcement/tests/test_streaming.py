"""Packed shards: the same examples as by random access, files as they were, partners in reach."""

import io
import logging
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_reinforcement import AUGMENT, CLASSES, SEED, SIZE, TinyData

from dataset_reinforcement import data as data_module
from dataset_reinforcement import image_decoding
from dataset_reinforcement.data import ReinforcementData
from dataset_reinforcement.dataset import ReinforcedImages
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.replay import ImageBatch, Place, ReplayConfig, as_float
from dataset_reinforcement.store import versions
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import read_samples, write_samples
from dataset_reinforcement.streaming import PackedImages, pack
from tenfold import loader_workers
from tenfold.shards import TarMembers, read_index, verify

MIXING = replace(AUGMENT, mixup=0.5, cutmix=0.5)


def write_images(folder: Path) -> None:
    """Write 14 images of 5 classes, JPEG and PNG."""
    rng = np.random.Generator(np.random.Philox(key=2))
    for number in range(14):
        place = folder / f"class-{number % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        extension = ("jpg", "png", "JPEG")[number % 3]
        pixels = rng.integers(0, 255, (18, 17, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{number:02d}.{extension}")


@pytest.fixture(scope="module")
def folder(tiny: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, a store whose partners are in groups of 4, and both packed in shards of 8."""
    root = tmp_path_factory.mktemp("packed")
    write_images(root / "images")
    options: dict[str, Any] = {"views": 3, "top_k": 3, "seed": SEED}
    generate(
        str(root / "images"),
        root / "store",
        tiny.teacher,
        augment=MIXING,
        partner_group=4,
        **options,
    )
    pack(str(root / "images"), root / "store", root / "packed", shard_size=8)
    return root


def make(folder: Path, tiny: TinyData, *, step: int = 0, **changes: Any) -> ReinforcementData:
    ranks = {name: changes.pop(name, default) for name, default in (("rank", 0), ("world", 1))}
    accum = changes.pop("accum", 1)
    options = {"batch_size": 4, "total_steps": 9, "eval_resize": 0, "workers": 0, "seed": 3}
    data = ReinforcementData(
        tiny.val, packed=folder / "packed", augment=AUGMENT, **(options | changes)
    )
    data.trainer = SimpleNamespace(  # type: ignore[assignment]
        global_step=step,
        global_rank=ranks["rank"],
        world_size=ranks["world"],
        accumulate_grad_batches=accum,
        max_steps=9,
        default_root_dir=str(folder),
    )
    data.setup("fit")
    return data


def run(folder: Path, tiny: TinyData, **changes: Any) -> list[ImageBatch]:
    return list(make(folder, tiny, **changes).train_dataloader())


def test_files_are_kept_and_the_index_tells_all(folder: Path) -> None:
    assert verify(folder / "packed", deep=True).ok
    index = read_index(folder / "packed")
    assert [entry.num_samples for entry in index.entries] == [8, 6]
    images = open_images(str(folder / "images"))
    seen = []
    for entry in index.entries:
        members = TarMembers(folder / "packed" / entry.name)
        for key in members.keys:
            original = folder / "images" / images.key(int(key))
            extension = {".JPEG": "jpg"}.get(original.suffix, original.suffix[1:])
            assert set(members.extensions(key)) == {extension, "cls", "dr.npz"}
            assert members.read(key, extension) == original.read_bytes()
            assert int(members.read(key, "cls")) == images.label(int(key))
            seen.append(int(key))
    assert seen == list(range(14))
    packed = PackedImages(folder / "packed")
    assert (packed.num_images, packed.num_views) == (14, 3)
    assert packed.info.augment == MIXING


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_a_stream_gives_the_examples_of_random_access(
    folder: Path, tiny: TinyData, share: float
) -> None:
    store = Store.open(folder / "store")
    config = ReplayConfig(
        mode="dr",
        augment=AUGMENT,
        stored=MIXING,
        seed=3,
        share=share,
        num_classes=CLASSES,
        top_k=3,
    )
    data = ReinforcedImages(open_images(str(folder / "images")), config, store=store)
    position, seen = 0, []
    for batch in run(folder, tiny, share=share):
        for row, key in enumerate(batch["keys"]):
            example = data[Place(position // 14, int(key), SIZE)]
            assert torch.equal(as_float(example["image"]), as_float(batch["image"][row]))
            assert example["reinforced"] == batch["reinforced"][row]
            assert example["classes"].tolist() == batch["classes"][row].tolist()
            assert example["probabilities"].tolist() == batch["probabilities"][row].tolist()
            seen.append(int(key))
            position += 1
    assert sorted(seen[:14]) == sorted(seen[14:28]) == list(range(14))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_ranks_micro_batches_workers_and_resume(
    folder: Path, tiny: TinyData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader_workers, "processors", lambda: 2)
    straight = [batch["keys"] for batch in run(folder, tiny)]
    assert len(straight) == 9
    halves = [run(folder, tiny, rank=rank, world=2) for rank in (0, 1)]
    joined = [a["keys"] + b["keys"] for a, b in zip(*halves, strict=True)]
    assert joined == straight
    parts = [batch["keys"] for batch in run(folder, tiny, accum=2)]
    assert [a + b for a, b in zip(parts[::2], parts[1::2], strict=True)] == straight
    later = [batch["keys"] for batch in run(folder, tiny, step=5, workers=2)]
    assert later == straight[5:]


def test_fewer_views_and_classes_and_other_modes(folder: Path, tiny: TinyData) -> None:
    (first, *_) = run(folder, tiny, views=1, top_k=2, share=1.0)
    assert first["classes"].shape == (4, 2)
    assert "classes" not in run(folder, tiny, mode="erm")[0]
    beside = run(folder, tiny, mode="kd")[0]
    stored = run(folder, tiny, share=1.0)[0]
    assert torch.equal(beside["image"], stored["image"])
    with pytest.raises(ValueError, match=r"data\.views is 4, .* has 3"):
        make(folder, tiny, views=4)


def test_what_is_not_reinforced_or_damaged(
    folder: Path, tiny: TinyData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path / "images")
    damaged = sorted((tmp_path / "images").rglob("*.png"))[0]
    damaged.write_bytes(b"no image")
    generate(str(tmp_path / "images"), tmp_path / "store", tiny.teacher, augment=AUGMENT, views=2)
    with caplog.at_level(logging.WARNING):
        pack(str(tmp_path / "images"), tmp_path / "store", tmp_path / "packed")
    assert f"left out: {damaged} cannot be decoded" in caplog.text
    assert read_index(tmp_path / "packed").num_samples == 13
    with pytest.raises(FileExistsError, match="holds packed images already"):
        pack(str(tmp_path / "images"), tmp_path / "store", tmp_path / "packed")


def pack_arrays(tiny: TinyData, tmp_path: Path) -> Path:
    pack(tiny.train, tiny.store(), tmp_path / "packed", shard_size=10)
    return tmp_path / "packed"


def test_packed_views_of_other_libraries_need_leave(
    folder: Path, tiny: TinyData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = versions.library_versions()
    with monkeypatch.context() as patch:
        patch.setattr(versions, "library_versions", lambda: real | {"torch": "0.1"})
        with pytest.raises(ValueError, match=r"\(here 0\.1\).*allow_other_versions"):
            make(folder, tiny)
        make(folder, tiny, allow_other_versions=True)
    policy = image_decoding.decode_policy()
    monkeypatch.setattr(data_module, "decode_policy", lambda: policy | {"jpeg": "0.1"})
    with pytest.raises(ValueError, match=r"jpeg .* \(here 0\.1\).*allow_other_versions"):
        make(folder, tiny)
    make(folder, tiny, allow_other_versions=True)
    data = ReinforcementData(
        tiny.val, packed=pack_arrays(tiny, tmp_path), augment=AUGMENT, eval_resize=0
    )
    data.setup("fit")  # its PNG decode alike whatever reads JPEG


def test_partners_must_be_in_reach(folder: Path, tiny: TinyData, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="multiple of the store's partner_group 4, got 6"):
        pack(str(folder / "images"), folder / "store", tmp_path / "a", shard_size=6)
    with pytest.raises(ValueError, match="generate it with partner_group"):
        pack(tiny.train, tiny.store(augment=MIXING), tmp_path / "b")
    with pytest.raises(ValueError, match="shard_size must be >= 1, got 0"):
        pack(tiny.train, tiny.store(), tmp_path / "c", shard_size=0)


@pytest.mark.parametrize("extension", ["jpg", "bmp"])
def test_an_image_of_another_size_is_not_packed(
    tiny: TinyData, tmp_path: Path, extension: str
) -> None:
    for label in range(CLASSES):
        path = tmp_path / f"images/class-{label}/a.{extension}"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (20, 24)).save(path)
    images, store = str(tmp_path / "images"), tmp_path / "store"
    generate(images, store, tiny.teacher, augment=AUGMENT, views=1, top_k=3)
    samples = read_samples(store)
    write_samples(store, [samples[0], samples[1]._replace(height=25), *samples[2:]])
    with pytest.raises(ValueError, match=rf"image 1 \(key 'class-1/a\.{extension}'\) is 24 x 20"):
        pack(images, store, tmp_path / "packed")


def test_images_of_an_array_become_png(tiny: TinyData, tmp_path: Path) -> None:
    images = open_images(tiny.train)
    members = TarMembers(pack_arrays(tiny, tmp_path) / "shard-00001.tar")
    with Image.open(io.BytesIO(members.read("000000013", "png"))) as image:
        assert np.array_equal(np.asarray(image), images.load(13).permute(1, 2, 0).numpy())


def test_other_shards_are_refused(tmp_path: Path) -> None:
    from tenfold.testing import tiny_shards

    tiny_shards(tmp_path)
    with pytest.raises(ValueError, match="holds no packed reinforcements; make them with `pack`"):
        PackedImages(tmp_path)


def test_a_damaged_store_is_not_packed(folder: Path, tmp_path: Path) -> None:
    store = shutil.copytree(folder / "store", tmp_path / "store")
    (path,) = store.rglob("shard-*")
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged: its sha256"):
        pack(str(folder / "images"), store, tmp_path / "out", shard_size=8)
    assert not (tmp_path / "out").exists()
