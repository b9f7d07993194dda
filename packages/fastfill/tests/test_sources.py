"""Originals: folders, tars, texts and demo data; what is missing or damaged."""

import io
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastfill.demo_sources import DIGITS_RANGE, NOISE
from fastfill.originals import OriginalError
from fastfill.sources import open_source
from tenfold.shards import write_shard

SHADES = (0, 85, 170, 255)


def image_bytes(shade: int, *, kind: str = "PNG", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, shade, shade)).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def folder_of_images(root: Path) -> Path:
    for name, shade in zip(("b/1.png", "b/2.png", "a/deep/3.png", "top.png"), SHADES, strict=True):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(image_bytes(shade))
    (root / ".hidden.png").write_bytes(b"")
    (root / "notes.txt").write_text("no image")
    return root


def test_folder_takes_classes_from_subfolders(tmp_path: Path) -> None:
    source = open_source(str(folder_of_images(tmp_path)))
    assert source.kind == "image"
    assert list(source.ids()) == ["a/deep/3.png", "b/1.png", "b/2.png", "top.png"]
    assert source.labels.tolist() == [0, 1, 1, -1]
    assert source.class_names == ("a", "b")
    assert source.groups is None
    assert [np.asarray(source.load(id))[0, 0, 0] for id in source.ids()] == [170, 0, 85, 255]


def test_fingerprint_of_a_folder_sees_another_file(tmp_path: Path) -> None:
    before = open_source(str(folder_of_images(tmp_path))).fingerprint()
    assert open_source(str(tmp_path)).fingerprint() == before
    (tmp_path / "new.png").write_bytes(image_bytes(3))
    assert open_source(str(tmp_path)).fingerprint() != before


@pytest.mark.parametrize(
    ("id", "reason"),
    [
        ("../secret.png", "is refused"),
        ("/etc/passwd", "is refused"),
        ("a/../../secret.png", "is refused"),
        ("a\\b.png", "is refused"),
        ("a\0.png", "is refused"),
        ("gone.png", "is missing"),
        ("x" * 300 + ".png", "cannot be read"),
        ("text.png", "no JPEG, PNG or WebP"),
        ("cut.png", "cannot be decoded"),
        ("deep.png", "more than 8 bits"),
        ("empty.png", "cannot be decoded"),
        ("folder.png", "cannot be read"),
    ],
)
def test_bad_originals_of_a_folder(tmp_path: Path, id: str, reason: str) -> None:
    root = tmp_path / "images"
    folder_of_images(root)
    (tmp_path / "secret.png").write_bytes(image_bytes(9))
    (root / "text.png").write_text("hello")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    (root / "cut.png").write_bytes(buffer.getvalue()[:2000])
    Image.fromarray(np.full((4, 4), 60000, dtype=np.uint16)).save(root / "deep.png")
    (root / "empty.png").write_bytes(b"")
    (root / "folder.png").mkdir()
    with pytest.raises(OriginalError, match=reason) as caught:
        open_source(str(root)).load(id)
    assert caught.value.id == id
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert (copy.id, copy.reason) == (id, caught.value.reason)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PNG"), ("P", "PNG"), ("RGBA", "WEBP")])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str, kind: str) -> None:
    (tmp_path / f"x.{kind.lower()}").write_bytes(image_bytes(51, kind=kind, mode=mode))
    image = open_source(str(tmp_path)).load(f"x.{kind.lower()}")
    assert isinstance(image, Image.Image)
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).astype(int) - 51).max() <= 2


def write_tars(folder: Path) -> None:
    samples = [
        {"__key__": f"k{number}", "png": image_bytes(shade), "cls": number}
        for number, shade in enumerate(SHADES)
    ]
    del samples[3]["cls"]
    write_shard(folder / "x-0.tar", samples[:3])
    write_shard(folder / "x-1.tar", samples[3:])


def test_tars_by_folder_pattern_and_file(tmp_path: Path) -> None:
    write_tars(tmp_path)
    for spec in (tmp_path, tmp_path / "x-*.tar"):
        source = open_source(str(spec))
        assert list(source.ids()) == ["k0", "k1", "k2", "k3"]
        assert source.labels.tolist() == [0, 1, 2, -1]
    one = open_source(str(tmp_path / "x-1.tar"))
    assert list(one.ids()) == ["k3"]
    assert np.asarray(one.load("k3"))[0, 0, 0] == 255
    again = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert again.ids() == source.ids()
    assert again.fingerprint() == source.fingerprint()


def test_tars_name_bad_samples(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "x.tar",
        [
            {"__key__": "ok", "png": image_bytes(3), "cls": 1},
            {"__key__": "none", "cls": 1},
            {"__key__": "two", "png": image_bytes(3), "webp": image_bytes(3, kind="WEBP")},
            {"__key__": "bad", "png": b"?"},
        ],
    )
    source = open_source(str(tmp_path))
    for id, reason in (
        ("none", "has 0"),
        ("two", "has 2"),
        ("bad", "no JPEG"),
        ("gone", "is missing"),
    ):
        with pytest.raises(OriginalError, match=reason):
            source.load(id)


def test_tars_of_texts(tmp_path: Path) -> None:
    write_shard(
        tmp_path / "x.tar", [{"__key__": "a", "txt": " hello "}, {"__key__": "b", "txt": b"\xff"}]
    )
    source = open_source(str(tmp_path))
    assert source.kind == "text"
    assert source.load("a") == "hello"
    with pytest.raises(OriginalError, match="no UTF-8"):
        source.load("b")


def test_a_key_in_two_tars_is_refused(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, [{"__key__": "same", "png": image_bytes(1)}])
    with pytest.raises(ValueError, match=r"'same' stands in a\.tar and b\.tar"):
        open_source(str(tmp_path))


def test_text_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.txt"
    path.write_text("one\n\nthree\u2028still three\n", encoding="utf-8")
    source = open_source(str(path))
    assert list(source.ids()) == ["0", "1", "2"]
    assert source.load("2") == "three\u2028still three"
    with pytest.raises(OriginalError, match="empty"):
        source.load("1")
    assert source.labels.tolist() == [-1, -1, -1]


def test_json_lines_with_names_and_groups(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    rows = [
        {"id": "x", "text": "a", "label": "dog", "group": "g"},
        {"id": "y", "text": "b", "label": "cat"},
        {"id": "z", "text": "c"},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = open_source(str(path))
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [1, 0, -1]
    assert source.groups == ("g", "", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"t\.jsonl:1: is no JSON"),
        ("[]", "must be a JSON object"),
        ('{"text": "a"}', "'id' must be a text"),
        ('{"id": "a", "text": 3}', "'text' must be a text"),
        ('{"id": "a", "text": "a", "label": -1}', "'label' must be"),
        ('{"id": "a", "text": "a", "label": true}', "'label' must be"),
        ('{"id": "a", "text": "a"}\n{"id": "a", "text": "b"}', "'a' stands twice"),
        ("", "holds no texts"),
    ],
)
def test_bad_json_lines(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        open_source(str(tmp_path / "t.jsonl"))


def test_names_and_numbers_as_labels_do_not_mix(tmp_path: Path) -> None:
    rows = '{"id": "a", "text": "a", "label": 1}\n{"id": "b", "text": "b", "label": "x"}\n'
    (tmp_path / "t.jsonl").write_text(rows)
    with pytest.raises(ValueError, match="some labels are names"):
        _ = open_source(str(tmp_path / "t.jsonl")).labels


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("gone", FileNotFoundError, "does not exist"),
        ("empty", FileNotFoundError, "holds no images"),
        ("x-*.tar", FileNotFoundError, "names no tar"),
        ("x.csv", ValueError, "unknown kind"),
        ("digits", ValueError, "no demo data"),
        ("digits:valid", ValueError, "no demo data"),
        ("digits:train:4", ValueError, "two classes"),
        ("digits:train:5-3", ValueError, "two classes"),
        ("digits:train:0-10", ValueError, "two classes"),
        ("digits:train:0-4:1", ValueError, "no demo data"),
        ("glyphs:train:0-4", ValueError, "must be a number of characters"),
        ("glyphs:train:100000", ValueError, "glyphs have 2"),
    ],
)
def test_bad_names(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    spec: str,
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "x.csv").write_text("")
    with pytest.raises(error, match=message):
        open_source(spec).ids()


def test_digits_are_split_and_noisy() -> None:
    train, test = open_source("digits:train"), open_source("digits:test")
    assert (len(train.ids()), len(test.ids())) == (1078, 719)
    assert not set(train.ids()) & set(test.ids())
    few = open_source("digits:train:0-4")
    assert set(few.labels) == set(range(5))
    wanted = [id for id, label in zip(train.ids(), train.labels, strict=True) if label < 5]
    assert list(few.ids()) == wanted
    assert np.array_equal(few.load(wanted[3]), train.load(wanted[3]))


def test_noise_of_digits_has_the_pilot_s_size() -> None:
    from sklearn.datasets import load_digits

    clean = load_digits(return_X_y=True)[0].reshape(-1, 8, 8) / 16
    source = open_source("digits:test")
    low, high = DIGITS_RANGE
    errors = []
    for id in source.ids():
        image = source.load(id)
        assert isinstance(image, Image.Image)
        ink = np.asarray(image)[..., 0] / 255 * (high - low) + low
        errors.append(ink - clean[int(id.removeprefix("digit-"))])
    noise = np.stack(errors)
    assert abs(noise.mean()) < 0.003
    assert abs(noise.std() - NOISE) < 0.003
    assert not np.allclose(noise[0], noise[1], atol=0.1)


def test_glyphs_have_other_faces_in_test() -> None:
    train, test = open_source("glyphs:train:40"), open_source("glyphs:test:40")
    assert (len(train.ids()), len(test.ids())) == (40 * 11, 40 * 5)
    assert np.bincount(train.labels).tolist() == [11] * 40
    assert not {id.rsplit("-", 1)[0] for id in train.ids()} & {
        id.rsplit("-", 1)[0] for id in test.ids()
    }
    half = open_source("glyphs:train:40:0-19")
    assert np.bincount(half.labels).tolist() == [11] * 20
    assert half.class_names == train.class_names
    image = half.load(half.ids()[0])
    assert isinstance(image, Image.Image)
    assert (image.size, image.mode) == ((32, 32), "RGB")
    with pytest.raises(OriginalError, match="is missing"):
        half.load("gone")


def test_sources_and_caches_open_without_torch() -> None:
    code = "import fastfill.sources, fastfill.cache, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
