"""`verify`: a whole store passes; other bytes, pixels, teachers or probabilities do not."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from teacher_files import OPTIONS, make_teacher, write_images, write_member

from dataset_reinforcement.apple.export_apple import export_apple
from dataset_reinforcement.apple.import_apple import import_apple
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from dataset_reinforcement.verify import choose_pairs, measure, verify


class Made(NamedTuple):
    """Images, a teacher and their store, which no test changes."""

    images: Path
    teacher: TeacherConfig
    store: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    images, teacher = write_images(folder / "images"), make_teacher(folder)
    generate(str(images), folder / "store", teacher, **OPTIONS)
    return Made(images, teacher, folder / "store")


def test_a_whole_store_passes_and_shuffled_parameters_are_noticed(
    made: Made, capsys: pytest.CaptureFixture[str]
):
    assert verify(made.store, str(made.images), made.teacher, sample=30) == 0
    out = capsys.readouterr().out
    assert "30 views: largest |dp|" in out
    assert "tolerance 0.002: ok" in out
    assert "shuffled parameters would be noticed" in out


def test_the_deviation_is_the_rounding_of_storage(made: Made):
    store = Store.open(made.store)
    teacher = build_teacher(made.teacher, num_classes=4)
    pairs = choose_pairs(store, 10**6, seed=0)
    assert pairs == [(image, view) for image in range(16) for view in range(3)]
    found = measure(store, open_images(str(made.images)), teacher, pairs)
    assert 0 < found.largest.max() < 2**-11
    assert found.shuffled is not None
    assert np.median(found.shuffled) > 0.01
    assert found.noticed(0.002) > 0.9


def test_a_tighter_tolerance_fails_with_exit_code_one(
    made: Made, capsys: pytest.CaptureFixture[str]
):
    options: dict[str, Any] = {"sample": 48, "tolerance": 1e-7}
    assert verify(made.store, str(made.images), made.teacher, **options) == 1
    assert "beyond it" in capsys.readouterr().out


def test_the_sample_is_drawn_without_repeats_from_a_key(made: Made):
    store = Store.open(made.store)
    first, again, other = (choose_pairs(store, 20, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert len(set(first)) == 20


def test_a_flipped_byte_is_found(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    store = shutil.copytree(made.store, tmp_path / "store")
    path = next(store.rglob("shard-00001*"))
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)
    assert verify(store, str(made.images), made.teacher) == 1
    assert "1 files are damaged: views-00000-00003/shard-00001" in capsys.readouterr().out


def test_another_teacher_or_other_images_are_refused(made: Made, tmp_path: Path):
    other = write_member(tmp_path / "m.safetensors", seed=9)
    one = TeacherConfig(members=(other,))
    with pytest.raises(ValueError, match=r"teacher has 2 members, the given one 1"):
        verify(made.store, str(made.images), one)
    two = TeacherConfig(members=(made.teacher.members[0], other))
    with pytest.raises(ValueError, match=r"member 1 of the store's teacher has weights_sha256"):
        verify(made.store, str(made.images), two)
    images = shutil.copytree(made.images, tmp_path / "images")
    (images / "dog/1.png").unlink()
    with pytest.raises(ValueError, match=r"image 5 of the store has key 'dog/1\.png'"):
        verify(made.store, str(images), made.teacher)
    with pytest.raises(ValueError, match=r"sample must be >= 1, got 0"):
        verify(made.store, str(made.images), made.teacher, sample=0)


def test_an_imported_store_is_measured_with_the_teacher_given(
    made: Made,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
):
    """Official folders do not tell their teacher's weights."""
    export_apple(made.store, tmp_path / "official")
    import_apple(tmp_path / "official", tmp_path / "out", images=str(made.images))
    assert verify(tmp_path / "out", str(made.images), made.teacher, sample=30) == 0
    assert "30 views: largest |dp|" in capsys.readouterr().out
    assert "the given one is believed" in caplog.text


@pytest.mark.parametrize("tolerance", [-1e-9, float("nan"), float("inf")])
def test_an_impossible_tolerance_is_refused(made: Made, tolerance: float):
    with pytest.raises(ValueError, match=r"tolerance must be >= 0, got (-1e-09|nan|inf)"):
        verify(made.store, str(made.images), made.teacher, tolerance=tolerance)


def test_a_missing_checkpoint_is_an_error_before_files_are_hashed(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delattr(Store, "verify_checksums")
    member = MemberConfig(model="conv4", checkpoint=tmp_path / "gone.ckpt", size=16)
    with pytest.raises(FileNotFoundError, match=r"checkpoint of member 0 is missing: .*gone\.ckpt"):
        verify(made.store, str(made.images), TeacherConfig(members=(member,)))
    with pytest.raises(ValueError, match=r"member 0 of the store's teacher has weights_sha256"):
        verify(
            made.store, str(made.images), replace(made.teacher, members=made.teacher.members[::-1])
        )


def test_a_device_that_is_not_there_is_refused(made: Made):
    with pytest.raises(ValueError, match=r"device must be auto, cpu, cuda .* got 'abacus'"):
        verify(made.store, str(made.images), made.teacher, device="abacus")


def test_a_store_of_one_view_has_no_control(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    generate(str(made.images), tmp_path / "one", made.teacher, **(OPTIONS | {"views": 1}))
    assert verify(tmp_path / "one", str(made.images), made.teacher) == 0
    assert "cannot be told" in capsys.readouterr().out
