"""The verb `merge`: all views of all stores, in order, and what does not belong together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_stores import AUGMENTS, NUM_IMAGES, assert_same, make_store, reinforcement

from dataset_reinforcement.store import merge as merge_module
from dataset_reinforcement.store.info import DrawnViews, read_info, write_info
from dataset_reinforcement.store.merge import merge
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.versions import library_versions

CONFIG = AUGMENTS["randaug_mixing"]


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    """Two stores with other parts, shards, seeds, skipped images."""
    one = make_store(tmp_path / "one", CONFIG, views=(2, 3), shard_size=4, skipped=(1,))
    other = make_store(tmp_path / "other", CONFIG, views=(4,), shard_size=3, seed=7, skipped=(6,))
    return [one, other]


def test_merged_views_follow_each_other(stores: list[Path], tmp_path: Path) -> None:
    before = [content(store) for store in stores]
    merge(stores, tmp_path / "out")
    assert [content(store) for store in stores] == before
    merged = Store.open(tmp_path / "out")
    assert (merged.num_views, len(merged.info.parts), merged.info.seed) == (9, 1, None)
    assert [shard.images for shard in merged.info.parts[0].shards] == [(0, 4), (4, 8), (8, 10)]
    assert [entry.index for entry in merged.info.skipped] == [1, 6]
    assert merged.verify_checksums() == []
    assert not (tmp_path / "out" / ".jobs").exists()
    sources = [Store.open(store) for store in stores]
    for image in set(range(NUM_IMAGES)) - {1, 6}:
        for view in range(9):
            source, number = (sources[0], view) if view < 5 else (sources[1], view - 5)
            assert_same(merged.read(image, view), source.read(image, number))
    drawn = reinforcement(CONFIG, 3, 2, seed=7)
    assert_same(merged.read(3, 7), drawn, atol=2**-11)


def test_a_killed_merge_goes_on(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge(stores, tmp_path / "straight")
    calls = []
    write = merge_module.write_shard

    def killed(*words: Any) -> dict[str, Any]:
        calls.append(words)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*words)

    monkeypatch.setattr(merge_module, "write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        merge(stores, tmp_path / "out")
    assert Store.open(tmp_path / "out", allow_partial=True).coverage == pytest.approx(0.3)
    merge(stores, tmp_path / "out")
    assert len(calls) == 4
    assert content(tmp_path / "out") == content(tmp_path / "straight")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top_k": 2}, "differ in top_k: 3 and 2"),
        ({"teacher": {"members": ["other"]}}, "differ in teacher.members.0: 'test' and 'other': "),
        ({"prob_dtype": "float32"}, "differ in prob_dtype"),
        ({"versions": {"torch": "1.0"}}, "differ in versions: "),
        (
            {"versions": library_versions() | {"numpy": "0"}},
            r"differ in versions\.numpy: '[\d.]+' ",
        ),
        ({"decode": {"mode": "L"}}, "differ in decode: "),
        ({"fingerprint": "00"}, "differ in fingerprint"),
        ({"classes": (*"abcdefghijkl",)}, r"classes\.0: 'class 0' and 'a'; .* and 7 more:"),
        ({"seed": 0}, "with the same seed 0"),
    ],
)
def test_stores_that_differ_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    one = make_store(tmp_path / "one", CONFIG, views=(1,))
    other = make_store(tmp_path / "other", CONFIG, views=(1,), **{"seed": 1, **changes})
    with pytest.raises(ValueError, match=message):
        merge([one, other], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_another_pipeline_is_named_by_its_field(tmp_path: Path) -> None:
    one = make_store(tmp_path / "one", CONFIG, views=(1,))
    other = make_store(tmp_path / "other", replace(CONFIG, erase=0.5), views=(1,), seed=1)
    with pytest.raises(ValueError, match=r"differ in augment\.erase: 0\.25 and 0\.5: merge"):
        merge([one, other], tmp_path / "out")


def test_what_stands_in_the_way_is_kept(stores: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for target, message in [(out, "is not empty"), (stores[0], "is one of the stores")]:
        with pytest.raises(ValueError, match=message):
            merge(stores, target)
    assert content(out) == {"thesis.txt": b"mine"}
    with pytest.raises(ValueError, match="other has one part of views already: give further"):
        merge(stores[1:], tmp_path / "new")
    with pytest.raises(ValueError, match="at least one store, got none"):
        merge([], tmp_path / "new")
    for size in (0, 4097):
        with pytest.raises(ValueError, match=rf"shard_size must lie in 1\.\.4096, got {size}"):
            merge(stores, tmp_path / "new", shard_size=size)
    (stores[1] / read_info(stores[1]).parts[0].shards[0].file).unlink()
    with pytest.raises(ValueError, match="other is partial"):
        merge(stores, tmp_path / "new")


def test_workers_give_the_same_bytes(stores: list[Path], tmp_path: Path) -> None:
    merge(stores, tmp_path / "one-worker")
    merge(stores, tmp_path / "two-workers", workers=2)
    assert content(tmp_path / "two-workers") == content(tmp_path / "one-worker")


def test_the_same_views_are_refused_in_merged_stores_too(
    stores: list[Path], tmp_path: Path
) -> None:
    third = make_store(tmp_path / "third", CONFIG, views=(1,), seed=2)
    merge(stores, tmp_path / "two")
    merge([third, tmp_path / "two"], tmp_path / "three")
    sources = (DrawnViews(0, 0, 2), DrawnViews(0, 2, 3), DrawnViews(7, 0, 4))
    assert read_info(tmp_path / "two").sources == sources
    assert read_info(tmp_path / "three").sources == (DrawnViews(2, 0, 1), *sources)
    for again in (tmp_path / "two", stores[0], stores[1]):
        with pytest.raises(ValueError, match=r"same seed \d, .*the same views \(views \d to \d"):
            merge([tmp_path / "three", again], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_views_of_one_seed_are_merged(stores: list[Path], tmp_path: Path) -> None:
    merge(stores, tmp_path / "two")
    more = make_store(tmp_path / "more", CONFIG, views=(1,), seed=9)
    write_info(more, replace(read_info(more), seed=None, sources=(DrawnViews(7, 4, 1),)))
    merge([tmp_path / "two", more], tmp_path / "out")
    assert Store.open(tmp_path / "out").num_views == 10


def test_stores_of_unknown_seeds_are_told_by_their_files(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, other, copy = (
        make_store(tmp_path / name, CONFIG, views=(2,), seed=seed)
        for name, seed in (("one", 0), ("other", 1), ("copy", 0))
    )
    for store in (one, other, copy):
        write_info(store, replace(read_info(store), seed=None))
    with pytest.raises(ValueError, match=r"one and .*copy hold the same 1 parts of views"):
        merge([one, other, copy], tmp_path / "out")
    merge([one, other], tmp_path / "out")
    assert "one does not tell from which seeds" in caplog.text


def test_a_damaged_store_is_not_merged(stores: list[Path], tmp_path: Path) -> None:
    file = read_info(stores[1]).parts[0].shards[2].file
    data = bytearray((stores[1] / file).read_bytes())
    data[-3] ^= 1
    (stores[1] / file).write_bytes(data)
    with pytest.raises(ValueError, match=rf"other/{file} is damaged: its sha256"):
        merge(stores, tmp_path / "out")
    assert not (tmp_path / "out").exists()
