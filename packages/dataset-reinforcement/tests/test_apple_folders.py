"""Official folders: written here from their description, imported, exported, read back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_stores import AUGMENTS, CLASSES, NUM_IMAGES, TOP_K, images, make_store, save_images
from official_reinforcements import (
    EXPECTED,
    MIXED_VIEW,
    OFFICIAL,
    PARAMS,
    PLAIN_VIEW,
    label,
    official_config,
    save,
    write_official,
)

from dataset_reinforcement.apple import import_apple as import_module
from dataset_reinforcement.apple.export_apple import export_apple
from dataset_reinforcement.apple.import_apple import import_apple
from dataset_reinforcement.apple.unpickle import load_plain
from dataset_reinforcement.info import info
from dataset_reinforcement.store.reading import Store
from tenfold.augment.config import AugmentConfig


@pytest.fixture
def named(tmp_path: Path) -> str:
    return save_images(tmp_path / "images.npz")


@pytest.mark.parametrize("zipped", [True, False])
def test_imports_what_the_files_say(tmp_path: Path, named: str, *, zipped: bool) -> None:
    folder = write_official(tmp_path / "official", zipped=zipped)
    import_apple(folder, tmp_path / "out", images=named, prob_dtype="float32", shard_size=4)
    store = Store.open(tmp_path / "out")
    assert (store.num_images, store.num_views, store.top_k) == (NUM_IMAGES, 2, TOP_K)
    assert (store.info.compat, store.info.seed, store.info.versions) == ("apple", None, {})
    assert store.info.teacher["name"] == "ig_resnext101_32x8d,ig_resnext101_32x16d"
    assert store.augment == replace(AUGMENTS["randaug_mixing"], translate_pixels=16)
    assert store.verify_checksums() == []
    for index in range(NUM_IMAGES):
        for view, expected in enumerate(EXPECTED):
            found = store.read(index, view)
            assert (found.own, found.mix) == expected
            ranked = sorted(zip(*label(index, view), strict=True), reverse=True)
            assert found.probabilities.tolist() == [p for p, _ in ranked]
            assert found.classes.tolist() == [c for _, c in ranked]
            rest = (1 - sum(p for p, _ in ranked)) / (len(CLASSES) - TOP_K)
            dense = [p for p, _ in ranked] + [rest] * (len(CLASSES) - TOP_K)
            entropy = -sum(p * np.log(p) for p in dense)
            assert found.entropy == pytest.approx(entropy, rel=2e-3)


def test_an_imported_store_fits_its_images(tmp_path: Path, named: str) -> None:
    import_apple(write_official(tmp_path / "official"), tmp_path / "out", images=named)
    store = Store.open(tmp_path / "out")
    with pytest.raises(ValueError, match=r"image 0 .*key '0000000-"):
        store.check_source(images())  # the same pixels under other names
    assert store.samples[3].label == 3
    assert (store.samples[3].height, store.samples[3].num_bytes) == (0, 2016)


def test_a_killed_import_goes_on(
    tmp_path: Path, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_official(tmp_path / "official")
    straight, out = tmp_path / "straight", tmp_path / "out"
    import_apple(folder, straight, images=named, shard_size=4)
    calls = []
    read = import_module.read_image

    def killed(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return read(*words)

    monkeypatch.setattr(import_module, "read_image", killed)
    with pytest.raises(KeyboardInterrupt):
        import_apple(folder, out, images=named, shard_size=4)
    import_apple(folder, out, images=named, shard_size=4)
    assert len(calls) == 6 + 6
    for path in straight.rglob("*"):
        assert path.is_dir() or path.read_bytes() == (out / path.relative_to(straight)).read_bytes()
    with pytest.raises(ValueError, match="out is not empty"):
        import_apple(folder, out, images=named)


@pytest.mark.parametrize("name", ["rrc", "randaug", "mixing", "randaug_mixing", "random_crop"])
def test_export_and_import_give_the_same_views(tmp_path: Path, named: str, name: str) -> None:
    source = Store.open(
        make_store(tmp_path / "store", AUGMENTS[name], views=(3, 2), prob_dtype="float32")
    )
    export_apple(source.path, tmp_path / "official")
    assert not list((tmp_path / "official").glob("*.json"))
    import_apple(tmp_path / "official", tmp_path / "out", images=named, prob_dtype="float32")
    found = Store.open(tmp_path / "out")
    defaults = {} if AUGMENTS[name].mixes else {"mixup_owner": "apple"}
    assert found.augment == replace(AUGMENTS[name], translate_pixels=16, **defaults)
    for index in range(NUM_IMAGES):
        for view in range(5):
            one, other = source.read(index, view), found.read(index, view)
            assert (one.own, one.mix) == (other.own, other.mix)
            np.testing.assert_array_equal(one.classes, other.classes)
            np.testing.assert_array_equal(one.probabilities, other.probabilities)


def test_exported_files_have_the_official_layout(tmp_path: Path) -> None:
    """Loaded by torch itself, as the official code does."""
    path = make_store(tmp_path / "store", AUGMENTS["randaug_mixing"], views=(6,))
    export_apple(path, tmp_path / "official")
    names = {f"{index}.pth.tar" for index in range(NUM_IMAGES)} | {"config.pth.tar"}
    assert {file.name for file in (tmp_path / "official").iterdir() if file.is_file()} == names
    mixed = 0
    for image in range(NUM_IMAGES):
        file = tmp_path / f"official/{image}.pth.tar"
        index, views = torch.load(file, weights_only=False)
        assert (index, len(views)) == (image, 6)
        for view in views:
            assert [type(values) for values in view["prob"]] == [list, list]
            mixed += _check_official_params(view["params"])
    assert 0 < mixed < 6 * NUM_IMAGES
    config = load_plain(tmp_path / "official/config.pth.tar")
    assert config["reinforce"]["num_samples"] == 6
    assert config["reinforce"]["image_augmentation"]["mixup"]["div_by"] == 2.0


def _check_official_params(params: list[Any]) -> bool:
    partner, crop, flip, ops, _, mixup, cutmix = params
    if partner is None:
        assert (len(crop), type(flip), len(ops), mixup, cutmix) == (4, bool, 2, None, None)
        return False
    assert [len(crop), len(flip), len(ops), len(ops[0])] == [2, 2, 2, 2]
    assert mixup is not None or len(cutmix) == 5
    return True


def test_stores_that_the_layout_cannot_hold_are_not_exported(tmp_path: Path) -> None:
    skipped = make_store(tmp_path / "skipped", AUGMENTS["rrc"], skipped=(3,))
    with pytest.raises(ValueError, match=r"image 3 .* has no reinforcements"):
        export_apple(skipped, tmp_path / "out")
    with pytest.raises(ValueError, match="is a store"):
        export_apple(make_store(tmp_path / "whole", AUGMENTS["rrc"]), skipped)
    plain = replace(AUGMENTS["rrc"], antialias=False)
    with pytest.raises(ValueError, match=r"augment\.antialias"):
        export_apple(make_store(tmp_path / "plain", plain), tmp_path / "out")
    whole = AugmentConfig(size=16, crop="none")
    with pytest.raises(ValueError, match=r"augment\.crop is none"):
        export_apple(make_store(tmp_path / "uncropped", whole), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _views(**changes: Any) -> list[dict[str, Any]]:
    views = [{"params": params, "prob": label(5, view)} for view, params in enumerate(PARAMS)]
    return [views[0], views[1] | changes]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ((4, _views()), r"does not hold \(index, views\) of image 5"),
        ("text", "does not hold"),
        ((5, _views()[:1]), "has 1 views, config.pth.tar says 2"),
        ((5, {"a": 1}), "no list of views"),
        ((5, _views(params={"random_erase": None})), "view 1: .*only compressed"),
        ((5, _views(params=PLAIN_VIEW[:-1])), "view 1: .*got 6"),
        ((5, _views(params=[NUM_IMAGES, *MIXED_VIEW[1:]])), "partner 10 is not within 10"),
        ((5, _views(prob=([0.5, 0.2], [1, 2]))), r"view 1: .*expected \(3,\)"),
        ((5, _views(prob=([0.5, 0.2, 0.1], [1, 2, 12]))), "classes reach 12, expected below 12"),
        ((5, _views(prob=([0.5, 0.2, 0.1], [1, 2, -1]))), "expected below 12"),
        ((5, [_views()[0], {"params": PLAIN_VIEW}]), "view 1: .*prob"),
        ((5, [_views()[0], 3]), "view 1"),
    ],
)
def test_malformed_files_are_named(
    tmp_path: Path, named: str, content: object, message: str
) -> None:
    folder = write_official(tmp_path / "official")
    save(folder / "5.pth.tar", content)
    with pytest.raises(Exception, match=message) as caught:
        import_apple(folder, tmp_path / "out", images=named)
    assert "5.pth.tar" in str(caught.value)


def test_gaps_and_other_images_are_refused(tmp_path: Path, named: str) -> None:
    folder = write_official(tmp_path / "official")
    (folder / "3.pth.tar").rename(folder / "10.pth.tar")
    with pytest.raises(ValueError, match=r"10 images up to 10, but lacks 3\.pth\.tar"):
        import_apple(folder, tmp_path / "out", images=named)
    (folder / "10.pth.tar").unlink()
    (folder / "9.pth.tar").rename(folder / "3.pth.tar")
    with pytest.raises(ValueError, match="reinforces 9 images, the data set has 10"):
        import_apple(folder, tmp_path / "out", images=named)
    with pytest.raises(FileNotFoundError, match=r"config\.pth\.tar does not exist"):
        import_apple(tmp_path, tmp_path / "out", images=named)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (official_config(compress=False), "compress: false"),
        ({"num_classes": 12}, "it has no 'reinforce'"),
        ([], "config.pth.tar"),
        (
            official_config({**OFFICIAL, "random_resize_crop": {"size": 16}}),
            "unknown step 'random_resize_crop'; did it mean 'random_resized_crop'",
        ),
        (official_config() | {"num_classes": 13}, "13 classes, the data set 12"),
    ],
)
def test_bad_configurations_are_named(
    tmp_path: Path, named: str, config: object, message: str
) -> None:
    folder = write_official(tmp_path / "official")
    torch.save(config, folder / "config.pth.tar")
    with pytest.raises(ValueError, match=message):
        import_apple(folder, tmp_path / "out", images=named)


def test_a_hostile_folder_is_refused(tmp_path: Path, named: str) -> None:
    class Touch:
        def __reduce__(self) -> tuple[Any, ...]:
            return eval, (f"open({str(tmp_path / 'victim')!r}, 'w')",)

    folder = write_official(tmp_path / "official")
    save(folder / "2.pth.tar", (2, [{"params": Touch()}]))
    with pytest.raises(Exception, match=r"2\.pth\.tar is refused: it asks for builtins\.eval"):
        import_apple(folder, tmp_path / "out", images=named)
    torch.save({"reinforce": Touch()}, folder / "config.pth.tar")
    with pytest.raises(ValueError, match=r"config\.pth\.tar is refused"):
        import_apple(folder, tmp_path / "out", images=named)
    assert not (tmp_path / "victim").exists()


def test_info_shows_an_imported_store(
    tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import_apple(write_official(tmp_path / "official"), tmp_path / "out", images=named)
    members = [{"model": "ig_resnext101_32x8d"}, {"model": "ig_resnext101_32x16d"}]
    assert Store.open(tmp_path / "out").info.teacher["members"] == members
    info(tmp_path / "out")
    assert "ig_resnext101_32x16d" in capsys.readouterr().out


def test_a_described_teacher_survives_export_and_import(
    tmp_path: Path, named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher = {
        "members": [{"model": "conv4", "weights_sha256": "ab" * 32, "size": 16, "mean": [0.5] * 3}],
        "precision": "fp32",
        "compile": False,
    }
    export_apple(make_store(tmp_path / "store", AUGMENTS["rrc"], teacher=teacher), tmp_path / "to")
    import_apple(tmp_path / "to", tmp_path / "out", images=named)
    assert Store.open(tmp_path / "out").info.teacher == teacher
    info(tmp_path / "out")
    out = capsys.readouterr().out
    assert "conv4 at 16 px, weights abababababab" in out


def test_info_shows_a_teacher_of_unknown_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info(make_store(tmp_path / "store", AUGMENTS["rrc"], teacher={"members": "[{'model': 'x'}]"}))
    assert "{'model': 'x'}" in capsys.readouterr().out


def test_a_damaged_store_is_not_exported(tmp_path: Path) -> None:
    store = make_store(tmp_path / "store", AUGMENTS["rrc"])
    path = sorted(store.rglob("shard-*"))[1]
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged: its sha256"):
        export_apple(store, tmp_path / "out")
    assert not (tmp_path / "out").exists()
