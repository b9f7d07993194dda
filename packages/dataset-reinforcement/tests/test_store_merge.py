"""The verb `merge`: all views of all stores, in order, and what does not belong together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from made_stores import AUGMENTS, NUM_IMAGES, assert_same, make_store, reinforcement

from dataset_reinforcement.store import merge as merge_module
from dataset_reinforcement.store.info import read_info
from dataset_reinforcement.store.merge import merge
from dataset_reinforcement.store.reading import Store

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
        ({"teacher": {"members": ["other"]}}, "differ in teacher"),
        ({"prob_dtype": "float32"}, "differ in prob_dtype"),
        ({"versions": {"torch": "1.0"}}, "differ in versions"),
        ({"decode": {"mode": "L"}}, "differ in decode"),
        ({"fingerprint": "00"}, "differ in fingerprint"),
        ({"classes": (*"abcdefghijkl",)}, "differ in classes: 'class 0' and 'a'"),
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
    with pytest.raises(ValueError, match=r"differ in augment: erase 0\.25 and 0\.5"):
        merge([one, other], tmp_path / "out")


def test_what_stands_in_the_way_is_kept(stores: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    for target, message in [(out, "is not empty"), (stores[0], "is one of the stores")]:
        with pytest.raises(ValueError, match=message):
            merge(stores, target)
    assert content(out) == {"thesis.txt": b"mine"}
    with pytest.raises(ValueError, match="at least two stores, got 1"):
        merge(stores[:1], tmp_path / "new")
    (stores[1] / read_info(stores[1]).parts[0].shards[0].file).unlink()
    with pytest.raises(ValueError, match="other is partial"):
        merge(stores, tmp_path / "new")


def test_workers_give_the_same_bytes(stores: list[Path], tmp_path: Path) -> None:
    merge(stores, tmp_path / "one-worker")
    merge(stores, tmp_path / "two-workers", workers=2)
    assert content(tmp_path / "two-workers") == content(tmp_path / "one-worker")
