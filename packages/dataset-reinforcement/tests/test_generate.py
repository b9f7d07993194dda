"""Generation: the same bytes from any number of workers, exact views, and what stops it."""

import errno
import logging
import shutil
import zlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from teacher_files import CLASSES, OPTIONS, SIZE, hashes, make_teacher, write_images, write_member
from torch import Tensor, nn

from dataset_reinforcement import shard_job
from dataset_reinforcement.generate import generate
from dataset_reinforcement.generation_plan import begun_store
from dataset_reinforcement.images import open_images
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import read_samples
from dataset_reinforcement.teacher import build_teacher
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.variants import variant
from dataset_reinforcement.views import draw_reinforcement, make_view
from tenfold.augment.mixing import to_float
from tenfold.augment.pipeline import Augment
from tenfold.jobs import JobError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen images in four classes, which no test changes."""
    return write_images(tmp_path_factory.mktemp("images") / "images")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> TeacherConfig:
    return make_teacher(tmp_path_factory.mktemp("teacher"))


def make(images: Path, out: Path, teacher: TeacherConfig, **changes: Any) -> Store:
    generate(str(images), out, teacher, **(OPTIONS | changes))
    return Store.open(out)


def float_view(view: Tensor) -> Tensor:
    return to_float(view) if view.dtype == torch.uint8 else view


def test_stored_views_and_probabilities_are_those_of_a_naive_loop(
    images: Path, teacher: TeacherConfig, tmp_path: Path
):
    store = make(images, tmp_path / "out", teacher, prob_dtype="float32", seed=5)
    source, augment = open_images(str(images)), Augment(variant("randaug_mixing", size=SIZE))
    sizes = [tuple(source.load(index).shape[1:]) for index in range(len(source))]
    network = build_teacher(teacher, num_classes=len(CLASSES))
    mixed = 0
    for index in range(len(source)):
        for view in range(3):
            own, mix = draw_reinforcement(augment, 5, index, view, sizes)
            stored = store.read(index, view)
            assert (stored.own, stored.mix) == (own, mix)
            mixed += mix is not None
            pixels = make_view(augment, source.load, own, mix, index)
            dense = network.probabilities(float_view(pixels)[None])[0]
            expected = dense.topk(3)
            assert stored.classes.tolist() == expected.indices.tolist()
            found = torch.from_numpy(stored.probabilities)
            torch.testing.assert_close(found, expected.values, atol=1e-6, rtol=1e-5)
    assert 20 < mixed < 48
    assert store.samples[3].height == sizes[3][0]


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_workers_gives_the_same_bytes(
    images: Path, teacher: TeacherConfig, tmp_path: Path, workers: int
):
    make(images, tmp_path / "one", teacher)
    make(images, tmp_path / "more", teacher, workers=workers)
    assert hashes(tmp_path / "one") == hashes(tmp_path / "more")
    assert len(list((tmp_path / "one").rglob("shard-*"))) == 4
    assert not (tmp_path / "one/.jobs").exists()


@pytest.mark.parametrize("options", [{"view_threads": 3}, {"view_batch": 7}, {"shard_size": 16}])
def test_how_views_are_scheduled_changes_no_label(
    images: Path, teacher: TeacherConfig, tmp_path: Path, options: dict[str, int]
):
    plain = make(images, tmp_path / "plain", teacher)
    other = make(images, tmp_path / "other", teacher, **options)
    for index in range(16):
        for view in range(3):
            one, two = plain.read(index, view), other.read(index, view)
            assert (one.own, one.mix) == (two.own, two.mix)
            assert one.classes.tolist() == two.classes.tolist()
            np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-3)


def test_the_number_of_threads_of_the_caller_stays(
    images: Path, teacher: TeacherConfig, tmp_path: Path
):
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    make(images, tmp_path / "out", teacher)
    found = torch.get_num_threads()
    torch.set_num_threads(threads)
    assert found == 2


def test_view_threads_and_images_in_tow_leave_the_bytes(
    images: Path, teacher: TeacherConfig, tmp_path: Path
):
    make(images, tmp_path / "plain", teacher)
    make(images, tmp_path / "threads", teacher, view_threads=2)
    assert hashes(tmp_path / "plain") == hashes(tmp_path / "threads")


def test_appended_views_are_those_of_one_longer_run(
    images: Path, teacher: TeacherConfig, tmp_path: Path
):
    out = tmp_path / "parts"
    before = make(images, out, teacher)
    shards = {name: value for name, value in hashes(out).items() if "views" in name}
    parts = make(images, out, teacher, views=2, append=True)
    assert shards.items() <= hashes(out).items()
    whole = make(images, tmp_path / "whole", teacher, views=5)
    assert (before.num_views, parts.num_views, whole.num_views) == (3, 5, 5)
    for index in range(16):
        for view in range(5):
            one, two = parts.read(index, view), whole.read(index, view)
            assert (one.own, one.mix) == (two.own, two.mix)
            np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-3)
    assert len({before.read(0, view).own for view in range(3)}) == 3


def test_a_finished_store_is_left_as_it_is(images: Path, teacher: TeacherConfig, tmp_path: Path):
    out = tmp_path / "out"
    make(images, out, teacher)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    make(images, out, teacher, workers=2, view_batch=3)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    with pytest.raises(ValueError, match=r"is complete with 3 views: add more with append"):
        make(images, out, teacher, views=4)


def test_other_settings_are_refused_and_named(images: Path, teacher: TeacherConfig, tmp_path: Path):
    out = tmp_path / "out"
    make(images, out, teacher)
    changes: dict[str, dict[str, Any]] = {
        r"seed: 0 -> 1": {"seed": 1},
        r"augment\.mixup: 0\.5 -> 0\.0": {"variant": "randaug"},
        r"top_k: 3 -> 2": {"top_k": 2},
        r"partner_group: null -> 4": {"partner_group": 4},
        r'prob_dtype: "float16" -> "float32"': {"prob_dtype": "float32"},
    }
    for message, change in changes.items():
        for append in (False, True):
            with pytest.raises(ValueError, match=rf"was begun with other settings \(.*{message}"):
                make(images, out, teacher, append=append, **change)
    other = replace(teacher, members=teacher.members[::-1])
    with pytest.raises(ValueError, match=r'teacher\.members\.0\.weights_sha256: "\w+" -> "\w+"'):
        make(images, out, other, append=True)


def test_changed_images_are_refused(images: Path, teacher: TeacherConfig, tmp_path: Path):
    copy = shutil.copytree(images, tmp_path / "images")
    make(copy, tmp_path / "out", teacher)
    (copy / "cat/2.png").rename(copy / "cat/9.png")
    with pytest.raises(
        ValueError, match=r"image 2 of the store has key 'cat/2\.png'.*'cat/3\.png'"
    ):
        make(copy, tmp_path / "out", teacher, append=True)


def test_damaged_images_are_skipped_and_never_partners(
    images: Path, teacher: TeacherConfig, tmp_path: Path
):
    copy = shutil.copytree(images, tmp_path / "images")
    for name in ("cat/1.png", "owl/0.png", "owl/1.png", "owl/2.png", "owl/3.png", "yak/0.png"):
        (copy / name).write_bytes(b"no image")
    # Images 8 to 12 are one shard without views.
    store = make(copy, tmp_path / "out", teacher, shard_size=4, views=6)
    bad = [1, 8, 9, 10, 11, 12]
    assert [skipped.index for skipped in store.info.skipped] == bad
    assert store.info.skipped[0].key == "cat/1.png"
    assert "cat/1.png cannot be decoded" in store.info.skipped[0].reason
    assert [index for index in range(16) if not store.is_reinforced(index)] == bad
    assert store.samples[1].height == 0
    good = [index for index in range(16) if index not in bad]
    mixes = [store.read(index, view).mix for index in good for view in range(6)]
    partners = {mix.partner for mix in mixes if mix is not None}
    assert partners <= set(good)
    assert len(partners) > 5
    for path in copy.glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of the 16 images .* can be decoded"):
        make(copy, tmp_path / "none", teacher)


def test_every_image_is_decoded_once_for_all_its_views(
    images: Path, teacher: TeacherConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    loads: Counter[str] = Counter()
    real = Image.open

    def counted(*args: Any, **kwargs: Any) -> Image.Image:
        loads["all"] += 1
        return real(*args, **kwargs)

    monkeypatch.setattr(Image, "open", counted)
    make(images, tmp_path / "out", teacher, variant="randaug", views=7)
    assert loads["all"] == 2 * 16  # once for its size, once for seven views


@pytest.mark.parametrize("group", [1, 5])
def test_partners_come_from_their_group(
    images: Path, teacher: TeacherConfig, tmp_path: Path, group: int
):
    store = make(images, tmp_path / "out", teacher, views=8, partner_group=group)
    pairs = [(i, store.read(i, j).mix) for i in range(16) for j in range(8)]
    partners = {(i // group, mix.partner // group) for i, mix in pairs if mix is not None}
    assert partners == {(number, number) for number in range(-(-16 // group))}


def test_too_many_classes_are_clamped_with_a_notice(
    images: Path, teacher: TeacherConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        store = make(images, tmp_path / "out", teacher, top_k=10, prob_dtype="float32")
    assert store.top_k == 4
    assert "top_k 10 exceeds the 4 classes" in caplog.text
    sums = [store.read(i, j).probabilities.sum() for i in range(16) for j in range(3)]
    np.testing.assert_allclose(sums, 1, atol=1e-6)


def test_a_broken_teacher_stops_and_names_the_view(images: Path, tmp_path: Path):
    config = write_member(tmp_path / "m.safetensors")
    weights = load_file(tmp_path / "m.safetensors")
    weights["head.bias"][2] = float("nan")
    save_file(weights, tmp_path / "m.safetensors")
    message = r"not finite for image 0, view 0, drawn \{\"own\": \{\"crop\": \[\d+, \d+"
    with pytest.raises(JobError, match=message):
        make(images, tmp_path / "out", TeacherConfig(members=(config,)))


class Hungry(nn.Module):
    """Runs out of memory above three views."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return self.inner(images)


def test_a_full_memory_leaves_the_labels(
    images: Path,
    teacher: TeacherConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    plain = make(images, tmp_path / "plain", teacher)

    def hungry(config: TeacherConfig, **options: Any) -> Any:
        built = build_teacher(config, **options)
        built._run = [Hungry(network) for network in built._run]
        return built

    monkeypatch.setattr(shard_job, "build_teacher", hungry)
    halved = make(images, tmp_path / "halved", teacher)
    assert caplog.text.count("going on with 2 at once") == 4  # every shard begins anew
    for index in range(16):
        one, two = plain.read(index, 1), halved.read(index, 1)
        assert one.own == two.own
        assert one.classes.tolist() == two.classes.tolist()
        np.testing.assert_allclose(one.probabilities, two.probabilities, atol=1e-3)


def test_a_full_disk_leaves_a_store_that_opens_partially(
    images: Path, teacher: TeacherConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    out, written = tmp_path / "out", shard_job.write_shard

    def full(path: Path, columns: Any) -> Any:
        if path.name == "shard-00002.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return written(path, columns)

    with monkeypatch.context() as patch:
        patch.setattr(shard_job, "write_shard", full)
        with pytest.raises(JobError, match=r"make room"):
            make(images, out, teacher)
    with pytest.raises(ValueError, match="partial"):
        Store.open(out)
    partial = Store.open(out, allow_partial=True)
    assert partial.coverage == 10 / 16
    assert partial.read(0, 1).classes.shape == (3,)
    with pytest.raises(ValueError, match=r"begun with views 3 and shard_size 5: give the same"):
        make(images, out, teacher, views=4)
    make(images, out, teacher)
    make(images, tmp_path / "whole", teacher)
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_second_writer_is_refused(images: Path, teacher: TeacherConfig, tmp_path: Path):
    import fcntl

    out = tmp_path / "out"
    (out / ".jobs").mkdir(parents=True)
    with (out / ".jobs/scan.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(JobError, match=r"another run of 'scan' is writing to"):
            make(images, out, teacher)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"views": 0}, r"views must be >= 1, got 0"),
        ({"top_k": 0}, r"top_k must be >= 1, got 0"),
        ({"view_batch": 0}, r"view_batch must be >= 1"),
        ({"view_threads": 0}, r"view_threads must be >= 1"),
        ({"shard_size": 5000}, r"shard_size must lie in 1\.\.4096, got 5000"),
        ({"prob_dtype": "int8"}, r"prob_dtype must be float16 or float32, got 'int8'"),
        ({"devices": ["tpu"]}, r"devices has 'tpu', which is not here"),
        ({"devices": ["cpu", "cpu"]}, r"2 devices need as many workers, got workers 1"),
        ({"partner_group": 0}, r"partner_group must be >= 1 or null, got 0"),
        ({"partner_group": 4, "variant": "rrc"}, r"partner_group is 4, but .* mixes no images"),
        ({"variant": "randoug"}, r"did you mean randaug"),
        ({"partner_pool": 0}, r"partner_pool must be >= 1 or null, got 0"),
        ({"partner_pool": 4, "variant": "rrc"}, r"partner_pool is 4, but .* mixes no images"),
        ({"partner_pool": 4, "partner_group": 4}, r"and partner_pool 4: give one of them"),
        ({"first_view": -1}, r"first_view must be >= 0, got -1"),
        ({"compat": "orange"}, r"compat must be apple or null, got orange"),
        ({"compat": "apple", "augment": variant("rrc")}, r"compat is apple, which is for named"),
        ({"append": True}, r"there is no store at .* to append to"),
    ],
)
def test_impossible_options_are_refused(
    images: Path, teacher: TeacherConfig, tmp_path: Path, changes: dict[str, Any], message: str
):
    with pytest.raises(ValueError, match=message):
        make(images, tmp_path / "out", teacher, **changes)


def test_a_folder_of_something_else_is_refused(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"is not empty and holds no store"):
        begun_store(tmp_path)
    with pytest.raises(ValueError, match=r"notes\.txt is a file"):
        begun_store(tmp_path / "notes.txt")


def test_a_teacher_of_other_classes_is_refused_before_the_first_job(images: Path, tmp_path: Path):
    config = TeacherConfig(members=(write_member(tmp_path / "m.safetensors", classes=7),))
    with pytest.raises(ValueError, match=r"does not fit conv4 of 4 classes: head\."):
        make(images, tmp_path / "out", config)
    assert not list((tmp_path / "out").glob("views-*"))


def test_the_samples_are_those_of_the_images(images: Path, teacher: TeacherConfig, tmp_path: Path):
    make(images, tmp_path / "out", teacher)
    source = open_images(str(images))
    for index, sample in enumerate(read_samples(tmp_path / "out")):
        height, width = source.load(index).shape[1:]
        checksum = zlib.crc32((images / source.key(index)).read_bytes())
        place = (source.key(index), source.num_bytes(index), height, width, source.label(index))
        assert tuple(sample) == (*place, checksum)
