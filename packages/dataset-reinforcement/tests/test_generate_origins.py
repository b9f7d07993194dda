"""Stores that grow, are merged or were imported: what `generate` may add to, and what it says."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from made_stores import assert_same
from teacher_files import OPTIONS, hashes, make_teacher, write_images

from dataset_reinforcement import generate as generate_module
from dataset_reinforcement.apple.export_apple import export_apple
from dataset_reinforcement.apple.import_apple import import_apple
from dataset_reinforcement.generate import generate
from dataset_reinforcement.store.info import DrawnViews, read_info, write_info
from dataset_reinforcement.store.merge import merge
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher_config import MemberConfig, TeacherConfig
from dataset_reinforcement.variants import variant


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
    images = write_images(folder / "images", count=2)
    made = Made(images, make_teacher(folder, members=1), folder / "store")
    made.generate(made.store)
    made.generate(made.store, views=2, append=True)
    return made


def test_views_of_one_seed_made_apart_are_those_of_a_store_that_grew(made: Made, tmp_path: Path):
    made.generate(tmp_path / "one")
    made.generate(tmp_path / "other", views=2, first_view=3)
    assert read_info(tmp_path / "other").drawn == (DrawnViews(0, 3, 2),)
    merge([tmp_path / "one", tmp_path / "other"], tmp_path / "joined")
    merge([made.store], tmp_path / "compacted")
    assert hashes(tmp_path / "joined") == hashes(tmp_path / "compacted")
    grown, joined = Store.open(made.store), Store.open(tmp_path / "joined")
    for image in range(8):
        for view in range(5):
            assert_same(grown.read(image, view), joined.read(image, view))


def test_a_compacted_store_grows_like_the_one_it_was(made: Made, tmp_path: Path):
    merge([made.store], tmp_path / "out")
    grown = shutil.copytree(made.store, tmp_path / "grown")
    for store in (grown, tmp_path / "out"):
        made.generate(store, append=True)
    found = [Store.open(store) for store in (grown, tmp_path / "out")]
    assert [len(store.info.parts) for store in found] == [3, 2]
    assert [store.num_views for store in found] == [8, 8]
    for image in range(8):
        for view in range(8):
            assert_same(found[0].read(image, view), found[1].read(image, view))


def test_later_views_are_restored_and_appended_to_under_their_numbers(made: Made, tmp_path: Path):
    out = tmp_path / "out"
    made.generate(out, views=2, first_view=3)
    with pytest.raises(ValueError, match=r"first_view: 3 -> 0"):
        made.generate(out, views=2, append=True)
    made.generate(out, views=2, first_view=3, append=True)
    assert read_info(out).drawn == (DrawnViews(0, 3, 2), DrawnViews(0, 5, 2))
    whole = hashes(out)
    for path in out.glob("views-*/shard-00000.safetensors"):
        path.unlink()
    made.generate(out, views=2, first_view=3)
    assert hashes(out) == whole


def test_files_that_merge_wrote_are_not_generated_again(made: Made, tmp_path: Path):
    merge([made.store], tmp_path / "out")
    (tmp_path / "out" / read_info(tmp_path / "out").parts[0].shards[0].file).unlink()
    with pytest.raises(
        ValueError, match=r"shard-00000\S+ is missing .* written by merge, so .*: copy"
    ):
        made.generate(tmp_path / "out", views=5)


def test_an_unfinished_merge_is_not_appended_to(made: Made, tmp_path: Path):
    merge([made.store], tmp_path / "out")
    write_info(tmp_path / "out", replace(read_info(tmp_path / "out"), status="partial"))
    with pytest.raises(ValueError, match=r"is an unfinished merge: give its command again"):
        made.generate(tmp_path / "out", append=True)


@pytest.mark.parametrize("append", [True, False])
def test_merged_and_imported_stores_get_no_views_and_say_what_to_do(
    made: Made, tmp_path: Path, append: bool
):
    made.generate(tmp_path / "other", seed=1)
    merge([made.store, tmp_path / "other"], tmp_path / "merged")
    with pytest.raises(ValueError, match=r"merged from stores of several seeds: .* and merge both"):
        made.generate(tmp_path / "merged", append=append)
    export_apple(made.store, tmp_path / "official")
    import_apple(tmp_path / "official", tmp_path / "imported", images=str(made.images))
    with pytest.raises(ValueError, match=r"imported from official data, .*; generate another"):
        made.generate(tmp_path / "imported", append=append)


def test_a_missing_checkpoint_is_an_error_before_the_images_are_opened(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def opened(images: str) -> None:
        raise AssertionError(images)

    monkeypatch.setattr(generate_module, "opened", opened)
    member = MemberConfig(model="conv4", checkpoint=tmp_path / "gone.ckpt", size=16)
    config = TeacherConfig(members=(*made.teacher.members, member))
    with pytest.raises(FileNotFoundError, match=r"checkpoint of member 1 is missing: .*gone\.ckpt"):
        generate(str(made.images), tmp_path / "out", config, **OPTIONS)
    assert not (tmp_path / "out").exists()


def test_official_draws_and_labels_are_stored_on_request(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    made.generate(tmp_path / "ours", views=20)
    made.generate(tmp_path / "official", views=20, compat="apple")
    ours, official = Store.open(tmp_path / "ours"), Store.open(tmp_path / "official")
    assert official.augment == variant("randaug_mixing", size=16, compat="apple")
    assert (
        official.info.compat is None
    )  # its pixels are made by one backend, so they replay exactly
    weights = [
        [
            mix.mixup
            for i in range(8)
            for j in range(20)
            if (mix := store.read(i, j).mix) and mix.mixup
        ]
        for store in (ours, official)
    ]
    assert min(weights[0]) >= 0.5 >= max(weights[1])
    with pytest.raises(ValueError, match=r'augment\.mixup_owner: "apple" -> "most"'):
        made.generate(tmp_path / "official", views=20)
