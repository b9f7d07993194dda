"""Images that are replaced by others of the same name and size: refused with their key."""

import shutil
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from teacher_files import CLASSES, OPTIONS, hashes, make_teacher

from dataset_reinforcement import generate as generate_module
from dataset_reinforcement.array_images import ArrayImages
from dataset_reinforcement.corruptions import CorruptedImages
from dataset_reinforcement.generate import generate
from dataset_reinforcement.images import open_images
from dataset_reinforcement.inspect_store import inspect
from dataset_reinforcement.store.reading import Store
from dataset_reinforcement.store.samples import SAMPLES, read_samples
from dataset_reinforcement.teacher_config import TeacherConfig
from dataset_reinforcement.verify import verify
from tenfold.jobs import JobError
from tenfold.shards import write_shard

REFUSED = r"image 3 \(key 'dog/1\.bmp'\) has other bytes of the same size than when \S+ was made"


class Made(NamedTuple):
    """Images, a teacher and a store, which no test changes."""

    images: Path
    teacher: TeacherConfig
    store: Path


def write_image(path: Path, seed: int) -> None:
    """Write noise without compression: all images have the same number of bytes."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 22, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    images, teacher = folder / "images", make_teacher(folder, members=1)
    for label, name in enumerate(CLASSES):
        (images / name).mkdir(parents=True)
        for number in range(2):
            write_image(images / name / f"{number}.bmp", 2 * label + number)
    generate(str(images), folder / "store", teacher, **OPTIONS)
    return Made(images, teacher, folder / "store")


def changed(made: Made, tmp_path: Path) -> Path:
    copy = shutil.copytree(made.images, tmp_path / "images")
    write_image(copy / "dog/1.bmp", 99)
    return copy


def test_a_changed_image_gets_no_more_views(made: Made, tmp_path: Path):
    images, out = changed(made, tmp_path), shutil.copytree(made.store, tmp_path / "out")
    with pytest.raises(JobError, match=REFUSED):
        generate(str(images), out, made.teacher, append=True, **OPTIONS)
    assert Store.open(out, allow_partial=True).num_views == 6
    generate(str(made.images), out, made.teacher, append=True, **OPTIONS)
    assert Store.open(out).verify_checksums() == []


def test_a_changed_partner_is_named_too(made: Made, tmp_path: Path):
    generate(str(made.images), tmp_path / "out", made.teacher, **(OPTIONS | {"views": 9}))
    store = Store.open(tmp_path / "out")
    mixes = {(i, j): store.read(i, j).mix for i in (0, 1, 2) for j in range(9)}
    image = next(i for (i, _), mix in mixes.items() if mix and mix.partner == 3)
    images, sheet = str(changed(made, tmp_path)), tmp_path / "sheet.png"
    with pytest.raises(ValueError, match=REFUSED):
        inspect(store.path, images, sheet, index=[image], views=9)


def test_an_image_that_changes_between_scan_and_views_is_refused(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    images, real = shutil.copytree(made.images, tmp_path / "images"), generate_module.scan_images

    def scan(*words: object, **options: object) -> object:
        found = real(*words, **options)  # type: ignore[arg-type]
        write_image(images / "dog/1.bmp", 99)
        return found

    monkeypatch.setattr(generate_module, "scan_images", scan)
    with pytest.raises(JobError, match=REFUSED):
        generate(str(images), tmp_path / "out", made.teacher, **OPTIONS)


def test_verify_reads_the_images_of_its_sample_or_all(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    images = str(changed(made, tmp_path))
    with pytest.raises(ValueError, match=REFUSED):
        verify(made.store, images, made.teacher, sample=24)
    assert verify(made.store, images, made.teacher, sample=1, every_image=True) == 1
    assert "1 images have other bytes than recorded: 'dog/1.bmp'" in capsys.readouterr().out
    assert verify(made.store, str(made.images), made.teacher, sample=1, every_image=True) == 0


def without_checksums(store: Path) -> Path:
    """Make it a store of an earlier version."""
    table = pq.read_table(store / SAMPLES, use_threads=False).drop_columns(["crc32"])
    pq.write_table(table, store / SAMPLES)
    return store


def test_stores_without_checksums_open_and_compare_nothing(made: Made, tmp_path: Path):
    before = read_samples(made.store)
    store = without_checksums(shutil.copytree(made.store, tmp_path / "store"))
    assert read_samples(store) == [sample._replace(crc32=None) for sample in before]
    opened = Store.open(store)
    assert opened.verify_checksums() == []
    assert opened.recorded.checksums.tolist() == [-1] * 8
    source = open_images(str(changed(made, tmp_path)))
    opened.check_source(source)
    assert opened.load(source, 3).shape == (3, 20, 22)
    with pytest.raises(ValueError, match=REFUSED):
        Store.open(made.store).load(source, 3)
    with pytest.raises(
        ValueError, match=r"has no checksums of its images .*: leave every_image out"
    ):
        verify(store, str(made.images), made.teacher, every_image=True)
    shards = {name: value for name, value in hashes(store).items() if "views" in name}
    generate(str(made.images), store, made.teacher, append=True, **OPTIONS)
    assert shards.items() <= hashes(store).items()


def test_another_size_is_named_by_key(made: Made):
    with pytest.raises(ValueError, match=r"image 3 \(key 'dog/1\.bmp'\) is 9 x 22 pixels, 20 x 22"):
        Store.open(made.store).check_size(3, 9, 22)


def test_every_kind_of_source_has_the_checksum_of_its_bytes(made: Made, tmp_path: Path):
    data = (made.images / "dog/1.bmp").read_bytes()
    folder = open_images(str(made.images))
    write_shard(tmp_path / "0.tar", [{"__key__": "a", "png": data, "cls": 0}])
    pixels = folder.load(3).permute(1, 2, 0).numpy()
    array = ArrayImages(pixels[None], np.zeros(1, dtype=np.int64), ["a"])
    assert [folder.checksum(3), open_images(str(tmp_path / "0.tar")).checksum(0)] == [
        zlib.crc32(data),
        zlib.crc32(data),
    ]
    assert array.checksum(0) == zlib.crc32(pixels.tobytes())
    assert CorruptedImages(folder, "gaussian_noise", 1).checksum(3) == zlib.crc32(data)
