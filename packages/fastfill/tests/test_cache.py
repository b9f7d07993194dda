"""The verbs `cache-features` and `embed`: from originals and models to features and vectors."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastfill import image_sources
from fastfill.cache import cache_features, read_cache
from fastfill.card import ModelCard, TransformCard, probe_of, vector_stats
from fastfill.config import BackboneConfig
from fastfill.embed import embed
from fastfill.encoders import load_encoder
from fastfill.models import build_backbone
from fastfill.sources import open_source
from fastfill.transform import Transformation
from fastfill.views import crop_box, draw_view
from fastfill.weights import backbone_card, save_backbone, save_transformation
from tenfold import keyed
from tenfold.jobs import JobError


def save_model(path: Path, *, dim: int, seed: int, classes: int = 4) -> str:
    torch.manual_seed(seed)
    backbone = build_backbone(BackboneConfig(arch="tiny_conv", dim=dim, num_classes=classes)).eval()
    with torch.no_grad():  # random weights give all-zero vectors now and then
        backbone.head.weight.mul_(3)
        for module in backbone.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.bias.fill_(0.5)
    save_backbone(path, backbone, backbone_card(backbone, name=path.stem))
    return str(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("inputs")
    rng = np.random.default_rng(0)
    for number in range(9):
        path = root / "images" / f"c{number % 3}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (36, 44, 3), dtype=np.uint8)).save(path)
    return {
        "data": str(root / "images"),
        "old": save_model(root / "old.safetensors", dim=3, seed=0),
        "new": save_model(root / "new.safetensors", dim=5, seed=1),
        "side": save_model(root / "side.safetensors", dim=2, seed=2),
    }


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*")) if path.is_file()}


def test_features_are_what_the_encoders_say(inputs: dict[str, str], tmp_path: Path) -> None:
    cache_features(tmp_path, **inputs, dtype="float32", shard_size=4, batch_size=3)
    cache, source = read_cache(tmp_path), open_source(inputs["data"])
    assert cache.ids == source.ids()
    assert cache.labels.tolist() == source.labels.tolist()
    assert cache.class_names == ("c0", "c1", "c2")
    images: list[Any] = [source.load(id) for id in source.ids()]
    for role in ("old", "new", "side"):
        encoder = load_encoder(inputs[role])
        np.testing.assert_allclose(
            getattr(cache, role)(), encoder.embed_images(images), rtol=1e-5, atol=1e-6
        )
        assert getattr(cache.cards, role) == encoder.card
    assert np.array_equal(cache.head, load_encoder(inputs["new"]).head)
    assert np.array_equal(cache.old_head, load_encoder(inputs["old"]).head)
    cache.verify()


def test_views_are_the_same_for_all_models(inputs: dict[str, str], tmp_path: Path) -> None:
    cache_features(
        tmp_path, **inputs, views=3, augment="rrc", seed=5, dtype="float32", batch_size=7
    )
    cache, source = read_cache(tmp_path), open_source(inputs["data"])
    for view in range(3):
        images = [
            draw_view(image, size=32, seed=5, id=id, view=view)
            for id in source.ids()
            if isinstance(image := source.load(id), Image.Image)
        ]
        for role in ("old", "new", "side"):
            expected = load_encoder(inputs[role]).embed_images(images, whole=True)
            np.testing.assert_allclose(getattr(cache, role)(view), expected, rtol=1e-5, atol=1e-6)
    assert not np.allclose(cache.old(0), cache.old(1))


def test_interrupted_and_continued_equals_straight(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**inputs, "views": 2, "augment": "rrc", "shard_size": 2, "batch_size": 4}
    cache_features(tmp_path / "straight", **options)
    decode, loads = image_sources.decode_image, []

    def interrupted(data: bytes, id: str) -> Image.Image:
        loads.append(id)
        if len(loads) == 6:
            raise KeyboardInterrupt
        return decode(data, id)

    monkeypatch.setattr(image_sources, "decode_image", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache_features(tmp_path / "out", **options)
    with pytest.raises(FileNotFoundError, match="has finished"):
        read_cache(tmp_path / "out")
    assert loads[5] in open_source(inputs["data"]).ids()[4:6]
    cache_features(tmp_path / "out", **options)
    assert sorted(loads[6:]) == sorted(open_source(inputs["data"]).ids()[4:])
    assert tree(tmp_path / "out") == tree(tmp_path / "straight")
    monkeypatch.undo()
    with pytest.raises(ValueError, match="seed"):
        cache_features(tmp_path / "out", **options, seed=1)


@pytest.mark.slow
def test_workers_do_not_change_a_byte(inputs: dict[str, str], tmp_path: Path) -> None:
    for workers in (1, 2):
        cache_features(
            tmp_path / str(workers), **inputs, shard_size=3, workers=workers, read_threads=workers
        )
    assert tree(tmp_path / "1") == tree(tmp_path / "2")


def damaged(inputs: dict[str, str], folder: Path) -> dict[str, str]:
    shutil.copytree(inputs["data"], folder)
    (folder / "c0" / "3.png").write_bytes(b"no image")
    (folder / "c1" / "1.png").write_bytes((folder / "c1" / "4.png").read_bytes()[:900])
    return {**inputs, "data": str(folder)}


def test_damaged_originals_are_left_out_and_listed(inputs: dict[str, str], tmp_path: Path) -> None:
    broken = damaged(inputs, tmp_path / "images")
    cache_features(tmp_path / "out", **broken, shard_size=4, dtype="float32")
    cache_features(tmp_path / "whole", **inputs, shard_size=4, dtype="float32")
    cache, whole = read_cache(tmp_path / "out"), read_cache(tmp_path / "whole")
    kept = [row for row, id in enumerate(whole.ids) if id not in ("c0/3.png", "c1/1.png")]
    assert list(cache.ids) == [whole.ids[row] for row in kept]
    np.testing.assert_allclose(cache.new(), whole.new()[kept], rtol=1e-5, atol=1e-6)
    assert cache.labels.tolist() == whole.labels[kept].tolist()
    rows = [
        json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()
    ]
    assert [row["id"] for row in rows] == ["c0/3.png", "c1/1.png"]
    assert "no JPEG" in rows[0]["reason"]
    assert not (tmp_path / "whole" / "failed.jsonl").exists()


def test_vectors_that_are_no_embeddings_are_left_out(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    torch.manual_seed(3)
    backbone = build_backbone(BackboneConfig(arch="tiny_conv", dim=5, num_classes=4)).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.fill_(0.0)
    save_backbone(tmp_path / "z.safetensors", backbone, backbone_card(backbone, name="z"))
    with pytest.raises(ValueError, match=r"no original of .* has an embedding of zeros of z"):
        cache_features(tmp_path / "o", **{**inputs, "new": str(tmp_path / "z.safetensors")})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, "views must be >= 1"),
        ({"views": 2}, "use augment rrc"),
        ({"augment": "blur"}, "augment must be none or rrc"),
        ({"shard_size": 0}, "shard_size must be >= 1"),
        ({"workers": 0}, "workers must be >= 1"),
        ({"read_threads": 0}, "read_threads must be >= 1"),
        ({"devices": ["cpu", "cpu"]}, "2 devices need as many workers"),
        ({"data": "TEXTS"}, "old embeds images, but .* has texts"),
        ({"data": "digits:test"}, "labels go up to 9, but the classifier of new has 4 rows"),
    ],
)
def test_bad_options(
    inputs: dict[str, str], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "t.txt").write_text("a\nb\n")
    if changes.get("data") == "TEXTS":
        changes = {"data": str(tmp_path / "t.txt")}
    with pytest.raises(ValueError, match=message):
        cache_features(tmp_path / "out", **{**inputs, **changes})


def test_folder_of_other_things(inputs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(ValueError, match="not begun by this verb"):
        cache_features(tmp_path, **inputs)
    with pytest.raises(ValueError, match="is a file"):
        cache_features(tmp_path / "x", **inputs)


def test_embed_writes_vectors_ids_and_card(inputs: dict[str, str], tmp_path: Path) -> None:
    broken = damaged(inputs, tmp_path / "images")
    out = tmp_path / "gallery.npy"
    embed(out, model=inputs["old"], data=broken["data"], batch_size=2)
    vectors, encoder = np.load(out, mmap_mode="r"), load_encoder(inputs["old"])
    ids = (tmp_path / "gallery.ids.txt").read_text().splitlines()
    source = open_source(broken["data"])
    assert ids == [id for id in source.ids() if id not in ("c0/3.png", "c1/1.png")]
    images: list[Any] = [source.load(id) for id in ids]
    assert (vectors.dtype, vectors.shape) == (np.float32, (7, 3))
    np.testing.assert_allclose(vectors, encoder.embed_images(images), rtol=1e-5, atol=1e-6)
    assert ModelCard.from_json((tmp_path / "gallery.card.json").read_text()) == encoder.card
    failed = (tmp_path / "gallery.failed.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in failed] == ["c0/3.png", "c1/1.png"]
    with pytest.raises(ValueError, match="exists: delete it"):
        embed(out, model=inputs["old"], data=broken["data"])


def test_embed_refuses(inputs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"?")
    (tmp_path / "t.jsonl").write_text('{"id": "a\\nb", "text": "a"}')
    for out, options, message in (
        ("v.txt", {}, "must end in .npy"),
        ("v.npy", {"batch_size": 0}, "batch_size must be >= 1"),
        ("v.npy", {"data": str(tmp_path / "bad")}, "no original of .* can be used"),
        ("v.npy", {"data": str(tmp_path / "t.jsonl")}, "has a line break"),
    ):
        with pytest.raises(ValueError, match=message):
            embed(tmp_path / out, **{"model": inputs["old"], "data": inputs["data"], **options})
        assert not (tmp_path / out).exists()


def test_a_reader_that_breaks_is_no_failed_original(
    inputs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(data: bytes, id: str) -> Image.Image:
        raise TypeError("a mistake in the program")

    monkeypatch.setattr(image_sources, "decode_image", broken)
    with pytest.raises(JobError, match="a mistake in the program"):
        cache_features(tmp_path / "out", **inputs)


def test_crops_are_inside_and_of_allowed_area_and_ratio() -> None:
    shares = []
    for number in range(300):
        rng = keyed.generator("test crop", number)
        left, top, right, bottom = crop_box(rng, 200, 100)
        assert 0 <= left < right <= 200
        assert 0 <= top < bottom <= 100
        ratio = (right - left) / (bottom - top)
        assert 0.7 < ratio < 1.4
        shares.append((right - left) * (bottom - top) / (200 * 100))
    assert min(shares) < 0.12
    assert max(shares) > 0.5
    # Nothing of an allowed ratio has 8 % of such a strip.
    assert crop_box(keyed.generator("x"), 1000, 9) == (494, 0, 506, 9)


def test_half_of_the_views_are_mirrored() -> None:
    ramp = Image.fromarray(np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 4, (64, 1, 3)))
    drawn = [np.asarray(draw_view(ramp, size=8, seed=0, id="a", view=v)) for v in range(200)]
    mirrored = sum(int(view[0, 0, 0]) > int(view[0, -1, 0]) for view in drawn)
    assert 70 < mirrored < 130
    again = draw_view(ramp, size=8, seed=0, id="a", view=3)
    assert np.array_equal(again, drawn[3])
    assert not np.array_equal(draw_view(ramp, size=8, seed=1, id="a", view=3), drawn[3])


def test_features_for_a_known_map_come_from_its_old_model(
    inputs: dict[str, str], tmp_path: Path
) -> None:
    cache_features(tmp_path / "one", **inputs)
    made = read_cache(tmp_path / "one")
    for name, factor in (("same", 1.0), ("other", 1.1)):
        card = TransformCard(
            old=made.cards.old,
            new=made.cards.new,
            inner=4,
            old_stats=vector_stats(made.old()),
            probe=probe_of(made.old() * np.float32(factor)),
        )
        save_transformation(tmp_path / name, Transformation(3, 5, inner=4), card)
    cache_features(tmp_path / "two", **inputs, h=tmp_path / "same")
    with pytest.raises(ValueError, match="old embeds 9 of 9 probe items otherwise"):
        cache_features(tmp_path / "two", **inputs, h=tmp_path / "other")
    with pytest.raises(ValueError, match=r"old model of .*same: expected old"):
        cache_features(tmp_path / "three", **inputs | {"old": inputs["side"]}, h=tmp_path / "same")
