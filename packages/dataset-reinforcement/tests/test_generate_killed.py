"""A generation killed at any moment: the same command gives the same bytes as one left alone."""

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from generate_killed import run
from teacher_files import OPTIONS, hashes, make_teacher, write_images

from dataset_reinforcement.generate import generate
from dataset_reinforcement.teacher_config import TeacherConfig


class Whole(NamedTuple):
    """Images, a teacher, a store left alone, the same with views appended, changes of each run."""

    images: Path
    teacher: TeacherConfig
    store: Path
    appended: Path
    changes: tuple[int, int]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    images, teacher = write_images(folder / "images", count=2), make_teacher(folder, members=1)
    (images / "cat/broken.png").write_bytes(b"no image")
    store, appended = folder / "store", folder / "appended"
    first = run(images, store, teacher, 0, append=False)
    shutil.copytree(store, appended)
    second = run(images, appended, teacher, 0, append=True)
    return Whole(images, teacher, store, appended, (first, second))


def check_kills(whole: Whole, tmp_path: Path, count: int, *, append: bool) -> None:
    changes = whole.changes[append]
    expected = hashes(whole.appended if append else whole.store)
    moments = np.random.default_rng(0).permutation(changes - 1)[: count - 1] + 1
    for number in [*moments.tolist(), changes]:
        out = tmp_path / f"killed-{number}"
        if append:
            shutil.copytree(whole.store, out)
        run(whole.images, out, whole.teacher, number, append=append)
        generate(str(whole.images), out, whole.teacher, append=append, **OPTIONS)
        assert hashes(out) == expected, f"killed at change {number} of {changes}"


def test_a_killed_generation_continues_to_the_same_bytes(whole: Whole, tmp_path: Path):
    check_kills(whole, tmp_path, 5, append=False)


@pytest.mark.slow
def test_a_generation_killed_at_any_of_twenty_moments_continues(whole: Whole, tmp_path: Path):
    check_kills(whole, tmp_path, 20, append=False)


def test_a_killed_appending_continues_to_the_same_bytes(whole: Whole, tmp_path: Path):
    check_kills(whole, tmp_path, 5, append=True)


@pytest.mark.slow
def test_an_appending_killed_at_any_of_twenty_moments_continues(whole: Whole, tmp_path: Path):
    check_kills(whole, tmp_path, 20, append=True)


def test_a_killed_restoration_continues_to_the_same_bytes(whole: Whole, tmp_path: Path):
    damaged = shutil.copytree(whole.store, tmp_path / "damaged")
    for path in damaged.rglob("shard-*"):
        path.unlink()
    out = shutil.copytree(damaged, tmp_path / "straight")
    changes = run(whole.images, out, whole.teacher, 0, append=False)
    for number in [*range(2, changes, changes // 4), changes]:
        out = shutil.copytree(damaged, tmp_path / f"killed-{number}")
        run(whole.images, out, whole.teacher, number, append=False)
        generate(str(whole.images), out, whole.teacher, **OPTIONS)
        assert hashes(out) == hashes(whole.store), f"killed at change {number} of {changes}"


def test_a_generation_killed_again_and_again_ends_at_last(whole: Whole, tmp_path: Path):
    out = tmp_path / "out"
    for number in (10, 25, 30):
        run(whole.images, out, whole.teacher, number, append=False)
    run(whole.images, out, whole.teacher, 0, append=False)
    assert hashes(out) == hashes(whole.store)
