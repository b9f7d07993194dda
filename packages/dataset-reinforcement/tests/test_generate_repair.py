"""Stores with lost or damaged shards: restored to the same bytes, or refused before any work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from teacher_files import OPTIONS, hashes, make_teacher, write_images, write_member

from dataset_reinforcement import generate as generate_module
from dataset_reinforcement import shard_repair
from dataset_reinforcement.generate import generate
from dataset_reinforcement.image_scan import scan_images
from dataset_reinforcement.images import open_images
from dataset_reinforcement.store.info import plan_part, read_info, write_info
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.writing import StoreWriter
from dataset_reinforcement.teacher_config import TeacherConfig
from tenfold.jobs import JobError

FIRST, LAST = (f"views-{part}/shard-00001.safetensors" for part in ("00000-00003", "00003-00005"))


class Made(NamedTuple):
    """Images, a teacher and a store of two parts, which no test changes."""

    images: Path
    teacher: TeacherConfig
    store: Path

    def generate(self, out: Path, **changes: Any) -> None:
        generate(str(self.images), out, self.teacher, **(OPTIONS | changes))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    images = write_images(folder / "images", count=3)
    made = Made(images, make_teacher(folder), folder / "store")
    made.generate(made.store)
    made.generate(made.store, views=2, append=True)
    return made


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("views", [2, 3, 5])
@pytest.mark.parametrize("harm", [remove, cut])
def test_lost_shards_are_restored_to_the_same_bytes(
    made: Made, tmp_path: Path, harm: Callable[[Path], None], views: int
):
    out = shutil.copytree(made.store, tmp_path / "out")
    harm(out / FIRST)
    shutil.rmtree((out / LAST).parent)
    made.generate(out, views=views)
    assert hashes(out) == hashes(made.store)
    assert Store.open(out).verify_checksums() == []


def test_a_store_of_one_part_is_not_called_complete(
    made: Made, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    out = tmp_path / "out"
    made.generate(out)
    expected = hashes(out)
    cut(out / FIRST)
    caplog.set_level("INFO")
    made.generate(out)
    assert f"lacks 1 shards, first {FIRST}" in caplog.text
    assert "nothing is left to do" not in caplog.text
    assert hashes(out) == expected
    made.generate(out)
    assert "nothing is left to do" in caplog.text


def test_other_views_than_were_made_are_refused(made: Made, tmp_path: Path):
    out = shutil.copytree(made.store, tmp_path / "out")
    (out / LAST).unlink()
    with pytest.raises(
        ValueError, match=r"shard-00001\S+ is missing .* views is 4: give 2 or 3 or 5"
    ):
        made.generate(out, views=4)
    with pytest.raises(ValueError, match=r"was begun with other settings .*seed: 0 -> 1"):
        made.generate(out, views=3, seed=1)


def test_a_killed_restoration_goes_on(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = shutil.copytree(made.store, tmp_path / "out")
    shutil.rmtree((out / LAST).parent)
    calls: list[Any] = []
    real = shard_repair.reinforce_shard

    def killed(*words: Any) -> dict[str, Any]:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*words)

    monkeypatch.setattr(shard_repair, "reinforce_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        made.generate(out)
    assert not (out / LAST).exists()
    made.generate(out)
    assert len(calls) == 1 + len(read_info(out).parts[1].shards)
    assert hashes(out) == hashes(made.store)


def test_shards_of_other_bytes_are_not_put_into_the_store(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out = shutil.copytree(made.store, tmp_path / "out")
    (out / LAST).unlink()
    real = shard_repair.reinforce_shard

    def other(*words: Any) -> dict[str, Any]:
        result = real(*words)
        return result | {"shard": result["shard"] | {"sha256": "00"}}

    with monkeypatch.context() as patch:
        patch.setattr(shard_repair, "reinforce_shard", other)
        with pytest.raises(JobError, match=r"shard-00001\S+ comes out with other bytes"):
            made.generate(out)
    assert not (out / LAST).exists()
    made.generate(out)
    assert hashes(out) == hashes(made.store)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove, "is missing: copy the store again"),
        (cut, r"has \d+ bytes, store\.json says \d+"),
        (flip, r"is damaged: its sha256 is not that of store\.json"),
    ],
)
def test_a_damaged_store_gets_no_more_views(
    made: Made, tmp_path: Path, harm: Callable[[Path], None], message: str
):
    out = shutil.copytree(made.store, tmp_path / "out")
    harm(out / FIRST)
    before = hashes(out)
    for views in (1, 2):
        with pytest.raises(ValueError, match=rf"{FIRST} {message}"):
            made.generate(out, views=views, append=True)
    assert hashes(out) == before


def test_a_part_that_was_finished_before_a_kill_is_restored_too(made: Made, tmp_path: Path):
    out = shutil.copytree(made.store, tmp_path / "out")
    whole = read_info(out)
    planned = plan_part(first=3, count=2, num_images=whole.num_images, shard_size=5)
    StoreWriter(out, whole).begin([whole.parts[0], planned], counts=whole.counts)
    (out / FIRST).unlink()
    with pytest.raises(ValueError, match=rf"{FIRST} is missing"):
        made.generate(out, views=2, append=True)
    made.generate(out)
    made.generate(out, views=2, append=True)
    assert hashes(out) == hashes(made.store)


def test_a_missing_file_at_the_end_is_called_missing(made: Made, tmp_path: Path):
    out = shutil.copytree(made.store, tmp_path / "out")
    info = read_info(out)
    (out / LAST).unlink()
    with pytest.raises(ValueError, match=rf"{LAST} is missing; generate again"):
        StoreWriter(out, info).finish(info.parts)
    write_info(out, info)


def test_the_teacher_is_refused_before_an_image_is_decoded(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    config = TeacherConfig(members=(write_member(tmp_path / "m.safetensors", classes=7),))
    scans: list[str] = []

    def scan(images: str, *words: Any, **options: Any) -> Any:
        scans.append(images)
        return scan_images(images, *words, **options)

    monkeypatch.setattr(generate_module, "scan_images", scan)
    with pytest.raises(ValueError, match=r"does not fit conv4 of 4 classes: head\."):
        generate(str(made.images), tmp_path / "out", config, **OPTIONS)
    assert not scans
    assert not (tmp_path / "out").exists()
    made.generate(tmp_path / "out", views=1)
    assert len(scans) == 1
    assert len(open_images(str(made.images))) == 12
