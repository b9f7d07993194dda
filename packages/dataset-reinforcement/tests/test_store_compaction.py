"""`merge` of one store, or of parts of one seed: fewer files, the same views."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_stores import AUGMENTS, NUM_IMAGES, assert_same, describe, make_store

from dataset_reinforcement.store.info import (
    MAX_SHARD_IMAGES,
    DrawnViews,
    StoreInfo,
    plan_part,
    read_info,
    write_info,
)
from dataset_reinforcement.store.merge import merge, plan_merge
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import read_samples, write_samples
from tenfold.augment.config import AugmentConfig

CONFIG = AUGMENTS["randaug_mixing"]
IMAGENET = 1_281_167
FILE_BUDGET = 400


def num_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


@pytest.mark.parametrize("name", list(AUGMENTS))
def test_a_grown_store_has_the_same_views_in_fewer_files(tmp_path: Path, name: str) -> None:
    skipped = (1, 6)
    grown = make_store(
        tmp_path / "grown", AUGMENTS[name], views=(1, 2, 2, 1), shard_size=3, skipped=skipped
    )
    merge([grown], tmp_path / "out", shard_size=8)
    one, other = Store.open(grown), Store.open(tmp_path / "out")
    assert (num_files(grown), num_files(tmp_path / "out")) == (4 * 4 + 2, 2 + 2)
    assert other.verify_checksums() == []
    assert (one.num_views, other.num_views, len(other.info.parts)) == (6, 6, 1)
    assert [other.is_reinforced(i) for i in range(NUM_IMAGES)] == [
        i not in skipped for i in range(NUM_IMAGES)
    ]
    for image in set(range(NUM_IMAGES)) - set(skipped):
        np.testing.assert_array_equal(one.entropies(image), other.entropies(image))
        for view in range(6):
            assert_same(one.read(image, view), other.read(image, view))


def test_a_compacted_store_keeps_its_seed_and_what_else_it_tells(tmp_path: Path) -> None:
    grown = make_store(tmp_path / "grown", CONFIG, views=(2, 3), seed=5, partner_pool=4)
    merge([grown], tmp_path / "out")
    before, after = read_info(grown), read_info(tmp_path / "out")
    assert after.drawn == (DrawnViews(5, 0, 5),)
    assert after.parts[0].joined
    assert not any(part.joined for part in before.parts)
    assert replace(after, parts=before.parts) == before
    assert [shard.images for shard in after.parts[0].shards] == [(0, 4), (4, 8), (8, 10)]


def imagenet_store(augment: AugmentConfig, *, parts: int, shard_size: int) -> StoreInfo:
    planned = [
        plan_part(first=50 * number, count=50, num_images=IMAGENET, shard_size=shard_size)
        for number in range(parts)
    ]
    return describe(augment, num_images=IMAGENET, parts=tuple(planned))


@pytest.mark.parametrize(("parts", "shard_size"), [(1, 4096), (8, 4096), (8, 1000)])
def test_imagenets_files_stay_below_the_budget(parts: int, shard_size: int) -> None:
    """As `generate` plans them, whose shards have 4,096 images by default, and as `merge` does."""
    store = imagenet_store(CONFIG, parts=parts, shard_size=shard_size)
    files = sum(len(part.shards) for part in store.parts) + 2
    assert (files <= FILE_BUDGET) == (parts == 1)
    plan = plan_merge([store], shard_size=MAX_SHARD_IMAGES)
    assert (plan.count, len(plan.shards) + 2) == (50 * parts, 315)
    if shard_size == MAX_SHARD_IMAGES:
        assert plan_merge([store]) == plan


def test_consecutive_views_of_one_seed_keep_it(tmp_path: Path) -> None:
    whole = make_store(tmp_path / "whole", CONFIG, views=(2, 3))
    parts = []
    for number, part in enumerate(read_info(whole).parts):
        folder = make_store(tmp_path / f"part-{number}", CONFIG, views=(part.count,), seed=number)
        info = read_info(folder)
        write_info(folder, replace(info, seed=0, first_view=part.first))
        parts.append(folder)
    merge(parts, tmp_path / "out")
    found = read_info(tmp_path / "out")
    assert (found.seed, found.first_view, found.drawn) == (0, 0, (DrawnViews(0, 0, 5),))
    merge(parts[::-1], tmp_path / "turned")
    found = read_info(tmp_path / "turned")
    assert (found.seed, found.drawn) == (None, (DrawnViews(0, 2, 3), DrawnViews(0, 0, 2)))
    with pytest.raises(ValueError, match=r"views 2 to 4 and views 2 to 4 of that seed"):
        merge([parts[1], whole], tmp_path / "twice")


def test_later_views_of_a_seed_keep_their_numbers(tmp_path: Path) -> None:
    parts = [make_store(tmp_path / str(n), CONFIG, views=(2,), seed=n) for n in range(2)]
    for number, folder in enumerate(parts):
        write_info(folder, replace(read_info(folder), seed=9, first_view=50 + 2 * number))
    merge(parts, tmp_path / "out")
    found = read_info(tmp_path / "out")
    assert (found.seed, found.first_view, found.drawn) == (9, 50, (DrawnViews(9, 50, 4),))


def test_partners_of_other_pools_are_no_store_of_one_seed(tmp_path: Path) -> None:
    one = make_store(tmp_path / "one", CONFIG, views=(1,), partner_pool=4)
    other = make_store(tmp_path / "other", CONFIG, views=(1,), seed=1)
    write_info(other, replace(read_info(other), seed=0, first_view=1))
    merge([one, other], tmp_path / "out")
    found = read_info(tmp_path / "out")
    assert (found.seed, found.partner_pool, len(found.sources)) == (None, None, 2)


def with_checksums(store: Path, values: list[int | None]) -> Path:
    samples = read_samples(store)
    write_samples(store, [s._replace(crc32=v) for s, v in zip(samples, values, strict=True)])
    return store


def test_stores_of_images_with_other_bytes_are_refused(tmp_path: Path) -> None:
    values: list[int | None] = list(range(NUM_IMAGES))
    one = make_store(tmp_path / "one", CONFIG, views=(1,))
    other = with_checksums(make_store(tmp_path / "other", CONFIG, views=(1,), seed=1), values)
    merge([one, other], tmp_path / "out")
    assert read_samples(tmp_path / "out") == read_samples(other)
    with_checksums(one, [*values[:3], None, 77, *values[5:]])
    with pytest.raises(ValueError, match=r"1 have other bytes, first image 4 \(key 'image-4-"):
        merge([one, other], tmp_path / "new")
