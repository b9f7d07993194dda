"""The decoder table: values, limits, and refusals before anything is expanded."""

import io
import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foreign_tars import PIXELS, image_bytes, write_tar
from PIL import Image

from tenfold.shards import (
    DecodeLimits,
    ShardError,
    default_decoders,
    index_folder,
    verify,
)
from tenfold.shards.decoding import decode


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 9))


def test_images_become_writable_rgb():
    table = default_decoders()
    np.testing.assert_array_equal(decode("png", image_bytes("PNG", PIXELS), table), PIXELS)
    lossless = image_bytes("WEBP", PIXELS, lossless=True)
    np.testing.assert_array_equal(decode("seg.webp", lossless, table), PIXELS)
    jpeg = decode("jpg", image_bytes("JPEG", PIXELS, quality=95), table)
    assert jpeg.shape == PIXELS.shape
    assert jpeg.flags.writeable
    grey = decode("jpeg", image_bytes("JPEG", PIXELS[..., 0]), table)
    assert grey.shape == (5, 7, 3)
    palette = io.BytesIO()
    Image.fromarray(PIXELS).quantize(4).save(palette, "PNG", transparency=b"\0\1\2\3")
    assert decode("png", palette.getvalue(), table).shape == (5, 7, 3)


def npy_bytes(header: str, data: bytes = b"", *, version: int = 1) -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + struct.pack("<H", len(text)) + text + data


def npz_bytes(members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members:
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return buffer.getvalue()


def object_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return buffer.getvalue()


WHOLE_PNG = image_bytes("PNG", PIXELS)


@pytest.mark.parametrize(
    ("extension", "data", "message"),
    [
        ("jpg", b"no image", "cannot decode: UnidentifiedImageError"),
        ("jpg", image_bytes("JPEG", PIXELS)[:-40], "cannot decode: OSError"),
        ("png", WHOLE_PNG[:60] + b"\xff" + WHOLE_PNG[61:], "cannot decode: "),
        ("png", image_bytes("PNG", PIXELS[..., 0].astype(np.uint16)), "more than 8 bits"),
        ("png", image_bytes("GIF", PIXELS[..., 0]), "UnidentifiedImageError"),
        ("png", png_header(9000, 9000), "9000 x 9000 has more than 67108864 pixels"),
        ("png", png_header(50_000, 50_000), "DecompressionBombError"),
        ("txt", b"\xff\xfe", "UnicodeDecodeError"),
        ("txt", b"x" * (2**24 + 1), "text of 16777217 bytes is over the limit"),
        ("json", b"{", "JSONDecodeError"),
        ("json", b" " * (2**24 + 1), "json of 16777217 bytes is over the limit"),
        ("json", b"[" * 100_000, "RecursionError"),
        ("cls", b"1" * 21, "over the limit of 20"),
        ("cls", b"x", "ValueError"),
        ("npy", object_npy(), "npy dtype object is refused"),
        ("npy", npy_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"), "refused"),
        ("npy", npy_bytes("{'descr': '|S0', 'fortran_order': False, 'shape': (9,), }"), "refused"),
        (
            "npy",
            npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000,), }"),
            "array of 80000000000 bytes is over the limit",
        ),
        (
            "npy",
            npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }", b"\0" * 31),
            r"header says 32 bytes \(4,\), 31 follow",
        ),
        (
            "npy",
            npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }", b"\0" * 8),
            "header says",
        ),
        ("npy", npy_bytes("{}", version=3), r"npy version \(3, 0\)"),
        ("npy", b"", "cannot decode"),
        ("npz", npz_bytes([("a.npy", bytes(2**28 + 1))]), "npz of 268435457 bytes is over"),
        ("npz", npz_bytes([("a.npy", object_npy())]), "npy dtype object is refused"),
        ("npz", npz_bytes([("a.pkl", b"")]), "must be distinct .npy files"),
        ("npz", b"PK", "BadZipFile"),
        ("pyd", b"", "'pyd' is not in the decoder table; pickled data can run code"),
        ("pkl", b"", "pickled data"),
        ("pickle", b"", "pickled data"),
        ("pth", b"", "pickled data"),
        ("feat.pt", b"", "pickled data"),
        ("pth.gz", b"", "known are cls, int, jpeg"),
        ("JPG", b"", "extensions are lower case: 'jpg'"),
        ("flac", b"", "known are cls"),
    ],
)
def test_decoder_refuses(extension, data, message):
    with pytest.raises(ShardError, match=message) as caught:
        decode(extension, data, default_decoders())
    assert "\n" not in str(caught.value)


def test_limits_and_own_decoders():
    small = default_decoders(DecodeLimits(max_pixels=34, max_text_bytes=3, max_bytes=64))
    with pytest.raises(ShardError, match="7 x 5 has more than 34 pixels"):
        decode("png", WHOLE_PNG, small)
    with pytest.raises(ShardError, match="over the limit of 3"):
        decode("json", b"1234", small)
    with pytest.raises(ShardError, match="over the limit of 64"):
        decode("npz", npz_bytes([("a.npy", npy_bytes("{}"))] * 1 + [("b.npy", bytes(80))]), small)
    assert decode("up.txt", b"a", {**small, "up.txt": bytes.upper}) == b"A"
    with pytest.raises(ValueError, match="max_pixels must be at least 1"):
        DecodeLimits(max_pixels=0)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickle_bombs_do_not_go_off(tmp_path):
    fuse = tmp_path / "exploded"
    bomb = pickle.dumps(Bomb(fuse))
    array = np.empty(1, dtype=object)
    array[0] = Bomb(fuse)
    npy = io.BytesIO()
    np.save(npy, array, allow_pickle=True)
    path = write_tar(
        tmp_path / "0.tar",
        [(f"{i}.{name}", bomb) for i, name in enumerate(("pyd", "pkl", "pickle", "pth", "pt"))]
        + [("8.npy", npy.getvalue()), ("9.npz", npz_bytes([("a.npy", npy.getvalue())]))],
    )
    index_folder(tmp_path)
    report = verify(tmp_path, deep=True)
    assert len(report.problems) == 7
    assert f"{path}: sample '0': member '0.pyd': extension 'pyd'" in report.problems[0]
    assert not fuse.exists()
    pickle.loads(bomb)  # noqa: S301 - the bomb is a live one
    assert fuse.exists()
