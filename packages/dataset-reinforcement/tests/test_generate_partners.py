"""Which images views are mixed with, and how many images are decoded for that."""

import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from teacher_files import OPTIONS, SIZE, make_teacher, write_images

from dataset_reinforcement.generate import generate
from dataset_reinforcement.info import describe_store
from dataset_reinforcement.store.info import read_info
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.variants import variant
from dataset_reinforcement.views import draw_reinforcement
from tenfold.augment.pipeline import Augment

NUM_IMAGES, POOL = 1000, 10
SIZES = np.full((NUM_IMAGES, 2), 20)
AUGMENT = Augment(variant("mixing", size=SIZE))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty images in four classes."""
    return write_images(tmp_path_factory.mktemp("images") / "images", count=10)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherConfig:
    return make_teacher(tmp_path_factory.mktemp("teacher"), members=1)


def partners(index: int, views: int, sizes: Any = SIZES, **options: Any) -> list[int]:
    drawn = [draw_reinforcement(AUGMENT, 3, index, view, sizes, **options) for view in range(views)]
    return [mix.partner for _, mix in drawn if mix is not None]


def test_a_pool_of_partners_is_shared_by_a_group_and_comes_from_anywhere() -> None:
    found = [set(partners(index, 60, partner_pool=POOL)) for index in range(2 * POOL)]
    pools = [set.union(*found[:POOL]), set.union(*found[POOL:])]
    assert [len(pool) for pool in pools] == [POOL, POOL]
    assert not pools[0] & pools[1]
    assert min(pools[0]) < NUM_IMAGES / 3 < 2 * NUM_IMAGES / 3 < max(pools[0])
    # Every image meets every partner about as often.
    counts = Counter(p for index in range(POOL) for p in partners(index, 60, partner_pool=POOL))
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_pool_has_usable_images_only() -> None:
    sizes = SIZES.copy()
    sizes[::2] = 0
    found = partners(1, 200, sizes, partner_pool=POOL)
    assert len(set(found)) == POOL
    assert all(partner % 2 for partner in found)


def test_views_without_a_partner_are_the_same_for_any_kind_of_partners() -> None:
    drawn = [
        [draw_reinforcement(AUGMENT, 3, 5, view, SIZES, **options) for view in range(40)]
        for options in ({}, {"partner_group": 10}, {"partner_pool": 10})
    ]
    for several in zip(*drawn, strict=True):
        assert len({own for own, _ in several}) == 1
        assert len({mix and (mix.mixup, mix.cutmix) for _, mix in several}) == 1


def test_a_store_of_a_pool_says_so_and_its_views_are_those(
    images: Path, teacher: TeacherConfig, tmp_path: Path
) -> None:
    options = OPTIONS | {"partner_pool": 8, "shard_size": 16, "seed": 3}
    generate(str(images), tmp_path, teacher, **options)
    store = Store.open(tmp_path)
    assert store.info.partner_pool == 8
    assert dict(describe_store(tmp_path, store.info))["partners"] == "of pools of 8 for 8 images"
    augment = Augment(store.augment)
    for index in range(40):
        for view in range(3):
            stored = store.read(index, view)
            drawn = draw_reinforcement(augment, 3, index, view, store.sizes, partner_pool=8)
            assert (stored.own, stored.mix) == drawn
    with pytest.raises(ValueError, match=r"partner_pool: 8 -> null"):
        generate(str(images), tmp_path, teacher, **(options | {"partner_pool": None}), append=True)
    assert read_info(tmp_path) == store.info


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(
    ("options", "decodes"), [({"partner_group": 8}, 40), ({"partner_pool": 8}, 80)]
)
def test_partners_near_by_are_decoded_once(
    images: Path,
    teacher: TeacherConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: dict[str, int],
    decodes: int,
    threads: int,
) -> None:
    loads: Counter[str] = Counter()
    real, lock = Image.open, threading.Lock()

    def counted(*args: Any, **kwargs: Any) -> Image.Image:
        with lock:
            loads["all"] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(Image, "open", counted)
    changes = {"variant": "mixing", "views": 12, "shard_size": 40, "view_threads": threads}
    generate(str(images), tmp_path, teacher, **(OPTIONS | changes | options))
    # One decode of each for the scan; threads may ask for one image at the same time.
    assert loads["all"] - 40 <= decodes + 10 * (threads - 1)
