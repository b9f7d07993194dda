"""Images by index: order, labels, decode policy, and what is refused."""

import io
import pickle
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from dataset_reinforcement import demo, tar_images
from dataset_reinforcement.image_decoding import ImageDecodeError, decode_image, decode_policy
from dataset_reinforcement.images import ImageSource, open_images
from tenfold.shards import write_shard


def encode(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_grey_and_cmyk_images_become_rgb():
    grey = noise((5, 7))
    decoded = decode_image(encode(Image.fromarray(grey)), "grey")
    assert decoded.dtype == torch.uint8
    assert decoded.shape == (3, 5, 7)
    assert all((channel.numpy() == grey).all() for channel in decoded)
    ink = Image.new("CMYK", (4, 3), (0, 255, 255, 0))
    red = decode_image(encode(ink, "TIFF"), "cmyk")
    assert red[:, 0, 0].tolist() == [255, 0, 0]


def test_an_exif_rotation_is_not_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees when shown
    plain = noise((6, 10, 3))
    data = encode(Image.fromarray(plain), "JPEG", exif=exif, quality=95)
    assert decode_image(data, "turned").shape == (3, 6, 10)
    assert decode_policy()["exif"] == "ignored"
    assert decode_policy()["mode"] == "RGB"


def test_sixteen_bit_grey_keeps_its_range_and_transparency_is_dropped():
    deep = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    assert decode_image(encode(Image.fromarray(deep)), "deep")[0].tolist() == [[0, 1, 128, 255]]
    clear = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert decode_image(encode(clear), "clear")[:, 0, 0].tolist() == [10, 20, 30]
    palette = Image.fromarray(np.zeros((2, 2), dtype=np.uint8)).convert("P")
    palette.putpalette([7, 8, 9] * 256)
    data = encode(palette, transparency=bytes([0, 128]))
    assert decode_image(data, "palette")[:, 0, 0].tolist() == [7, 8, 9]


def broken_png() -> bytes:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", 4, 4, 8, 2, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk
    return data + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\4IDATjunkjunk"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        encode(Image.fromarray(noise((40, 40, 3))), "JPEG")[:400],
        encode(Image.fromarray(noise((40, 40, 3))))[:2000],
        broken_png(),
    ],
)
def test_damaged_images_are_named(data: bytes):
    with pytest.raises(ImageDecodeError, match=r"^cat/1\.jpg cannot be decoded: \S"):
        decode_image(data, "cat/1.jpg")


def make_folder(folder: Path) -> Path:
    names = ("b/2.png", "b/10.PNG", "b/1.png", "a/z.png", "a/sub/x.png", "C/a.jpeg", "a/B.png")
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise((4, 4 + seed, 3), seed)).save(path)
    (folder / "b/notes.txt").write_text("no image")
    (folder / "readme.txt").write_text("no class")
    return folder


def test_a_folder_has_torchvisions_order(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    ours, theirs = open_images(str(folder)), ImageFolder(folder)
    assert list(ours.classes) == theirs.classes
    expected = [(str(Path(p).relative_to(folder)), label) for p, label in theirs.samples]
    assert [(ours.key(i), ours.label(i)) for i in range(len(ours))] == expected
    for index, (image, _) in enumerate(theirs):
        assert (ours.load(index).permute(1, 2, 0).numpy() == np.asarray(image)).all()
        assert ours.num_bytes(index) == (folder / ours.key(index)).stat().st_size


def test_a_file_that_goes_is_missing_rather_than_damaged(tmp_path: Path):
    folder = make_folder(tmp_path / "images")
    images = open_images(str(folder))
    (folder / images.key(2)).unlink()
    with pytest.raises(FileNotFoundError, match=re.escape(images.key(2))):
        images.load(2)


def make_tars(folder: Path, keys: tuple[str, ...] = ("a/0", "b/1", "x", "y")) -> list[np.ndarray]:
    """Two tars of two samples each, labels 0, 1, 2, 0."""
    folder.mkdir()
    pixels = [noise((5, 6, 3), seed) for seed in range(4)]
    labels: list[dict[str, Any]] = [{"cls": 0}, {"json": {"label": 1}}, {"cls": 2}, {"cls": 0}]
    samples = [
        {"__key__": key, ("png" if n != 2 else "webp"): _png_or_webp(pixels[n], n == 2), **label}
        for n, (key, label) in enumerate(zip(keys, labels, strict=True))
    ]
    for number in range(2):
        write_shard(folder / f"{number}.tar", samples[2 * number : 2 * number + 2])
    return pixels


def _png_or_webp(pixels: np.ndarray, webp: bool) -> bytes:
    image = Image.fromarray(pixels)
    return encode(image, "WEBP", lossless=True) if webp else encode(image)


def test_tars_are_read_by_position_and_survive_pickling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    pixels = make_tars(tmp_path / "tars")
    monkeypatch.setattr(tar_images, "_OPEN_AT_MOST", 1)
    first = open_images(str(tmp_path / "tars"))
    for images in (
        first,
        pickle.loads(pickle.dumps(first)),  # noqa: S301
        open_images(str(tmp_path / "tars/*.tar")),
    ):
        assert len(images) == 4
        assert [images.key(i) for i in range(4)] == ["a/0", "b/1", "x", "y"]
        assert [images.label(i) for i in range(4)] == [0, 1, 2, 0]
        assert images.classes == ("0", "1", "2")
        for index in (3, 0, 2, 1):
            assert (images.load(index).permute(1, 2, 0).numpy() == pixels[index]).all()
    assert len(open_images(str(tmp_path / "tars/1.tar"))) == 2
    (tmp_path / "tars/classes.txt").write_text("cat\ndog\nowl\nyak\n")
    assert open_images(str(tmp_path / "tars")).classes == ("cat", "dog", "owl", "yak")
    (tmp_path / "tars/classes.txt").write_text("cat\n")
    with pytest.raises(ValueError, match=r"names 1 classes, but a sample has label 2"):
        open_images(str(tmp_path / "tars"))


def test_faulty_tars_are_refused(tmp_path: Path):
    make_tars(tmp_path / "twice", keys=("a", "b", "c", "a"))
    with pytest.raises(ValueError, match=r"key 'a' stands in .*0\.tar and in .*1\.tar"):
        open_images(str(tmp_path / "twice"))
    png = encode(Image.fromarray(noise((2, 2, 3))))
    faults: dict[str, dict[str, Any]] = {
        r"sample 'a' has no label: it has neither": {"png": png},
        r"sample 'a' has no label: .*'seven'": {"png": png, "cls": b"seven"},
        r"sample 'a' has no label: it is -1": {"png": png, "cls": b"-1"},
        r"sample 'a' has no label: 'label'": {"png": png, "json": {"class": 1}},
        r"sample 'a' has 0 images \(cls\)": {"cls": 1},
        r"sample 'a' has 2 images \(cls, jpg, png\)": {"jpg": png, "png": png, "cls": 1},
    }
    for message, sample in faults.items():
        write_shard(tmp_path / "faulty.tar", [{"__key__": "a", **sample}])
        with pytest.raises(ValueError, match=message):
            open_images(str(tmp_path / "faulty.tar"))


def save_npz(path: Path, **changes: Any) -> Path:
    arrays = {
        "images": noise((3, 4, 5)),
        "labels": np.arange(3),
        "classes": np.array(["a", "b", "c"]),
    }
    arrays |= changes
    np.savez(path, **{name: value for name, value in arrays.items() if value is not None})
    return path


def test_an_array_file_is_read_and_its_keys_follow_the_pixels(tmp_path: Path):
    grey = open_images(str(save_npz(tmp_path / "grey.npz")))
    assert (len(grey), grey.classes, grey.label(2)) == (3, ("a", "b", "c"), 2)
    assert grey.num_bytes(0) == 20
    assert (grey.load(1).numpy() == noise((3, 4, 5))[1]).all()
    pixels = noise((3, 4, 5, 3))
    colour = open_images(str(save_npz(tmp_path / "colour.npz", images=pixels)))
    assert (colour.load(2).permute(1, 2, 0).numpy() == pixels[2]).all()
    pixels[1, 2, 3, 0] ^= 1
    other = open_images(str(save_npz(tmp_path / "other.npz", images=pixels)))
    assert [colour.key(i) == other.key(i) for i in range(3)] == [True, False, True]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": None}, r"lacks \['classes'\]"),
        ({"images": np.zeros((3, 4, 5))}, r"images are float64 \(3, 4, 5\), expected uint8"),
        ({"images": np.zeros((3, 4, 5, 4), np.uint8)}, r"expected uint8 \[n, H, W\] or"),
        ({"labels": np.arange(4)}, r"labels are int64 \(4,\), expected int \[3\]"),
        ({"labels": np.zeros(3)}, r"labels are float64"),
        ({"labels": np.array([0, 1, 3])}, r"labels lie in 0\.\.3, but there are 3 classes"),
        ({"labels": np.array([-1, 0, 1])}, r"labels lie in -1\.\.1"),
    ],
)
def test_malformed_arrays_are_refused(tmp_path: Path, changes: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        open_images(str(save_npz(tmp_path / "bad.npz", **changes)))


def test_nothing_where_images_should_be(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no images at '.*nowhere': expected a folder"):
        open_images(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"has no class folders"):
        open_images(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"class folder .*empty has no image"):
        open_images(str(tmp_path))
    for name in ("glyphs", "glyphs/other", "glyphs/student/many", "photos/train"):
        with pytest.raises(ValueError, match=rf"there is no demo:{name}: choose demo:glyphs"):
            open_images(f"demo:{name}")
    with pytest.raises(ValueError, match=r"2 to 727 characters in all faces, got 1000"):
        open_images("demo:glyphs/student/1000")


def faces(images: ImageSource) -> set[str]:
    return {images.key(index).partition("/")[0] for index in range(len(images))}


def test_demo_characters_are_the_same_classes_in_each_part():
    student, teacher, test = (
        open_images(f"demo:glyphs/{part}/30") for part in ("student", "teacher", "test")
    )
    assert student.classes == teacher.classes == test.classes
    assert student.classes[:3] == ("exclamation mark", "quotation mark", "number sign")
    assert [len(images) for images in (student, teacher, test)] == [2 * 30, 11 * 30, 5 * 30]
    assert faces(student) < faces(teacher)
    assert not faces(test) & faces(teacher)
    for images in (student, test):
        labels = [images.label(index) for index in range(len(images))]
        assert np.bincount(labels).tolist() == [len(faces(images))] * 30
    assert student.load(0).shape == (3, 32, 32)
    shared = {student.key(index): student.load(index) for index in range(len(student))}
    found = [i for i in range(len(teacher)) if teacher.key(i) in shared]
    assert len(found) == len(student)
    assert all(torch.equal(teacher.load(i), shared[teacher.key(i)]) for i in found)


def test_the_default_demo_has_three_hundred_classes():
    assert len(open_images("demo:glyphs/student")) == 2 * demo.NUM_CHARACTERS == 600


def test_demo_digits_are_split_without_overlap():
    train, test = open_images("demo:digits/train"), open_images("demo:digits/test")
    assert (len(train), len(test)) == (1078, 719)
    assert train.classes == tuple("0123456789")
    names = [{source.key(i)[:10] for i in range(len(source))} for source in (train, test)]
    assert not names[0] & names[1]
    assert max(int(train.load(i).max()) for i in range(50)) == 255
