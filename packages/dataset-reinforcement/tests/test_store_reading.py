"""A store as a whole: reading, selecting, coverage of partial stores, damage, other data sets."""

import multiprocessing
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_stores import (
    AUGMENTS,
    CLASSES,
    NUM_IMAGES,
    assert_same,
    describe,
    images,
    make_store,
    reinforcement,
    samples,
)

from dataset_reinforcement.store.info import plan_part, read_info, write_info
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import write_samples
from dataset_reinforcement.store.versions import library_versions
from dataset_reinforcement.store.writing import StoreWriter

CONFIG = AUGMENTS["randaug_mixing"]
HALF = 2**-11
"""Largest error of rounding a probability to half precision."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Two parts of 5 and 3 views, three shards each."""
    return make_store(tmp_path / "store", CONFIG, views=(5, 3))


def test_every_view_reads_as_written(path: Path) -> None:
    store = Store.open(path)
    assert (store.num_images, store.num_views, store.top_k) == (NUM_IMAGES, 8, 3)
    assert (store.classes, store.augment, store.coverage) == (CLASSES, CONFIG, 1.0)
    assert store.samples == samples(images())
    for image in reversed(range(NUM_IMAGES)):
        assert store.is_reinforced(image)
        for view in reversed(range(8)):
            written = reinforcement(CONFIG, image, view)
            assert_same(store.read(image, view), written, atol=HALF)


def test_single_precision_reads_exactly(tmp_path: Path) -> None:
    path = make_store(tmp_path, CONFIG, top_k=12, prob_dtype="float32")
    store = Store.open(path)
    for view in range(5):
        assert_same(store.read(7, view), reinforcement(CONFIG, 7, view, top_k=12))


def test_entropies_of_all_parts(path: Path) -> None:
    store = Store.open(path)
    found = store.entropies(6)
    expected = [reinforcement(CONFIG, 6, view).entropy for view in range(8)]
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, np.array(expected, np.float16))
    np.testing.assert_array_equal(store.select(views=6).entropies(6), found[:6])


@pytest.mark.parametrize(("image", "view"), [(-1, 0), (10, 0), (0, -1), (0, 8)])
def test_places_outside_are_refused(path: Path, image: int, view: int) -> None:
    with pytest.raises(IndexError, match=rf"image {image}, view {view} is not within 10 x 8"):
        Store.open(path).read(image, view)


def test_selecting_rewrites_nothing(path: Path) -> None:
    before = {file: file.stat().st_mtime_ns for file in path.rglob("*")}
    store = Store.open(path)
    small = store.select(views=6, top_k=2)
    assert (small.num_views, small.top_k, store.num_views, store.top_k) == (6, 2, 8, 3)
    for view in range(6):
        whole, part = store.read(4, view), small.read(4, view)
        assert (part.own, part.mix, part.entropy) == (whole.own, whole.mix, whole.entropy)
        np.testing.assert_array_equal(part.classes, whole.classes[:2])
        np.testing.assert_array_equal(part.probabilities, whole.probabilities[:2])
    with pytest.raises(IndexError):
        small.read(4, 6)
    assert {file: file.stat().st_mtime_ns for file in path.rglob("*")} == before


def test_selecting_more_than_there_is_is_refused(path: Path) -> None:
    store = Store.open(path)
    for options, message in [
        ({"views": 9}, r"num_views must lie in 1\.\.8 .* got 9"),
        ({"views": 0}, "got 0"),
        ({"top_k": 4}, r"top_k must lie in 1\.\.3 .* got 4"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.select(**options)
    with pytest.raises(ValueError, match=r"1\.\.2 .* got 3"):
        store.select(top_k=2).select(top_k=3)


def test_skipped_images_are_not_reinforced(tmp_path: Path) -> None:
    store = Store.open(make_store(tmp_path, CONFIG, skipped=(2, 8)))
    assert [i for i in range(NUM_IMAGES) if not store.is_reinforced(i)] == [2, 8]
    assert store.coverage == pytest.approx(0.8)
    for read in (lambda: store.read(2, 0), lambda: store.entropies(8)):
        with pytest.raises(ValueError, match=r"image [28] is not reinforced"):
            read()
    assert_same(store.read(3, 1), reinforcement(CONFIG, 3, 1), atol=HALF)


def _digest(store: Store) -> list[float]:
    found = [store.read(i, j).probabilities for i in range(0, NUM_IMAGES, 3) for j in range(8)]
    return np.concatenate(found).tolist()


def test_other_processes_read_the_same(path: Path) -> None:
    store = Store.open(path)
    expected = _digest(store)
    _ = store.samples
    state = store.__getstate__()
    assert state["_readers"] == {}
    assert not {"samples", "_reinforced"} & set(state)
    assert _digest(pickle.loads(pickle.dumps(store))) == expected  # noqa: S301
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(_digest, [store, store]) == [expected, expected]


def test_a_store_just_begun_is_empty_and_partial(tmp_path: Path) -> None:
    StoreWriter(tmp_path, describe(CONFIG)).begin()
    with pytest.raises(ValueError, match=r"is partial .*0\.0% of the images .*allow_partial"):
        Store.open(tmp_path)
    store = Store.open(tmp_path, allow_partial=True)
    assert store.coverage == 0.0
    assert not store.is_reinforced(0)


def test_a_partial_store_reports_its_coverage(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A killed generation: planned shards, of which some are there."""
    planned = [plan_part(first=0, count=5, num_images=NUM_IMAGES, shard_size=4)]
    planned.append(plan_part(first=5, count=3, num_images=NUM_IMAGES, shard_size=4))
    StoreWriter(path, describe(CONFIG)).begin(planned)
    (path / planned[1].shards[1].file).unlink()
    with pytest.raises(ValueError, match=r"1 shards missing, first views-00005-00008/shard-00001"):
        Store.open(path)
    store = Store.open(path, allow_partial=True)
    assert store.coverage == pytest.approx(0.6)
    assert "60.0% of the images" in caplog.text
    assert [i for i in range(NUM_IMAGES) if store.is_reinforced(i)] == [0, 1, 2, 3, 8, 9]
    assert_same(store.read(9, 7), reinforcement(CONFIG, 9, 7), atol=HALF)
    with pytest.raises(ValueError, match="image 5 is not reinforced"):
        store.read(5, 0)
    first_part = store.select(views=5)
    assert first_part.coverage == 1.0
    assert_same(first_part.read(5, 4), reinforcement(CONFIG, 5, 4), atol=HALF)
    assert pickle.loads(pickle.dumps(first_part)).coverage == 1.0  # noqa: S301


def test_a_lost_shard_makes_a_store_partial(path: Path) -> None:
    (path / "views-00000-00005/shard-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"partial \(complete; 1 shards missing, first .*00002"):
        Store.open(path)
    assert Store.open(path, allow_partial=True).coverage == pytest.approx(0.8)
    assert Store.open(path, allow_partial=True).verify_checksums() == [
        "views-00000-00005/shard-00002.safetensors"
    ]


def test_a_truncated_shard_is_named_on_opening(path: Path) -> None:
    shard = path / "views-00000-00005/shard-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    for allow_partial in (False, True):
        with pytest.raises(ValueError, match=r"shard-00001\.safetensors has \d+ bytes.*truncated"):
            Store.open(path, allow_partial=allow_partial)


def test_any_flipped_byte_is_found_and_named(path: Path) -> None:
    assert Store.open(path).verify_checksums() == []
    name = "views-00005-00008/shard-00000.safetensors"
    shard = path / name
    data = shard.read_bytes()
    for place in (3, 50, len(data) // 2, len(data) - 1):
        shard.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert Store.open(path).verify_checksums() == [name]
    shard.write_bytes(data)
    write_samples(path, samples(images(order=[1, 0, *range(2, 10)])))
    assert Store.open(path).verify_checksums() == ["samples.parquet"]


def test_a_shard_of_another_shape_is_refused(path: Path, tmp_path: Path) -> None:
    other = make_store(tmp_path / "other", CONFIG, views=(4,))
    name = "shard-00000.safetensors"
    target = path / "views-00000-00005" / name
    target.write_bytes((other / "views-00000-00004" / name).read_bytes())
    info = read_info(path)
    first = info.parts[0]
    changed = replace(first.shards[0], bytes=target.stat().st_size)
    parts = (replace(first, shards=(changed, *first.shards[1:])), info.parts[1])
    write_info(path, replace(info, parts=parts))
    with pytest.raises(ValueError, match=r"\(4, 4, 3\), store.json says \(4, 5, 3\)"):
        Store.open(path).read(0, 0)


def test_an_unfinished_shard_stops_finishing(path: Path) -> None:
    info = read_info(path)
    (path / info.parts[1].shards[2].file).unlink()
    with pytest.raises(ValueError, match=r"shard-00002\.safetensors is missing"):
        StoreWriter(path, describe(CONFIG)).finish(info.parts)


def test_the_right_images_pass(path: Path) -> None:
    Store.open(path).check_source(images())


@pytest.mark.parametrize("allow_other_versions", [False, True])
def test_other_images_are_refused(path: Path, *, allow_other_versions: bool) -> None:
    store = Store.open(path)
    turned = images(order=[*range(8), 9, 8])
    renamed = images(classes=[*CLASSES[:5], "other", *CLASSES[6:]])
    fewer = images(classes=CLASSES[:10])
    other_mode = images()
    other_mode.decode["mode"] = "L"
    for source, message in [
        (turned, r"image 8 .*key 'image-8"),
        (renamed, "class 'other' where .* has 'class 5'"),
        (fewer, "the data set has 10 classes"),
        (other_mode, r"mode RGB \(here L\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            store.check_source(source, allow_other_versions=allow_other_versions)


def test_a_store_of_other_versions_is_refused_at_replay(tmp_path: Path) -> None:
    versions = library_versions()
    path = make_store(tmp_path, CONFIG, versions=versions | {"torch": "1.0.0"})
    store = Store.open(path)
    message = rf"torch 1\.0\.0 \(here {versions['torch']}\).*allow_other_versions"
    with pytest.raises(ValueError, match=message):
        store.check_source(images())
    store.check_source(images(), allow_other_versions=True)
