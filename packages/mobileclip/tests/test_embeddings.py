"""Layouts and codecs of stored embeddings: exact, safe, and no column lost."""

import gzip
import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from published_shards import DIMS, make_sample, unit_rows

from mobileclip import embedding_codecs
from mobileclip.embedding_codecs import FORMATS, Format, decode, encode
from mobileclip.embeddings import Embeddings, check_units, check_width, from_arrays
from tenfold import keyed


def make(dtype: torch.dtype = torch.bfloat16) -> Embeddings:
    rng = keyed.generator("embeddings")
    image, text, first, second = (torch.from_numpy(unit_rows(rng, n)) for n in (5, 2, 3, 4))
    synthetic = {"syn_text_b": second, "syn_text": first}
    return Embeddings(image=image, text=text, synthetic=synthetic).to(dtype)


def same(one: Embeddings, other: Embeddings) -> bool:
    pairs = zip(one.tables(), other.tables(), strict=True)
    return all(a == b and x.dtype == y.dtype and torch.equal(x, y) for (a, x), (b, y) in pairs)


@pytest.mark.parametrize("form", FORMATS)
def test_bfloat16_survives_bit_for_bit(form: Format) -> None:
    stored = make()
    data = encode(stored, form)
    assert same(decode(data, form, num_real=2).to(torch.bfloat16), stored)
    assert encode(make(), form) == data


def test_all_bits_of_bfloat16_survive() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(torch.bfloat16)
    every = Embeddings(image=bits.view(64, 1024), text=bits.view(64, 1024)[:1], synthetic={})
    read = decode(encode(every, "emb.bin"), "emb.bin")
    assert torch.equal(read.image.view(torch.int16), every.image.view(torch.int16))


def test_emb_bin_is_a_header_of_16_bytes_and_raw_rows() -> None:
    stored = make()
    data = encode(stored, "emb.bin")
    assert struct.unpack("<4sHHHHI", data[:16])[:5] == (b"DREB", 1, 10, 5, 2)
    row = torch.frombuffer(bytearray(data[16 + 2 * 10 * 3 :]), dtype=torch.bfloat16, count=10)
    assert torch.equal(row, stored.image[3])
    assert data.endswith(b'{"syn_text":3,"syn_text_b":4}')
    read = decode(data, "emb.bin")
    storages = {table.untyped_storage().data_ptr() for _, table in read.tables()}
    assert len(storages) == 1  # windows on one buffer


@pytest.mark.parametrize("layout", ["legacy", "new"])
@pytest.mark.parametrize("form", FORMATS)
def test_both_published_layouts(layout: str, form: Format) -> None:
    made = make_sample(3, layout=layout, form=form)  # type: ignore[arg-type]
    read = decode(made.members[form], form).to(torch.float32)
    assert np.array_equal(read.image.numpy(), made.image)
    assert np.array_equal(read.text.numpy(), made.text)
    assert np.array_equal(read.synthetic["syn_text"].numpy(), made.synthetic)


def test_several_real_captions_of_the_legacy_layout() -> None:
    rows = torch.eye(10)
    read = from_arrays({"image_emb": rows, "text_emb": rows}, num_real=3)
    assert torch.equal(read.text, rows[:3])
    assert torch.equal(read.synthetic["syn_text"], rows[3:])
    assert from_arrays({"image_emb": rows, "text_emb": rows[:3]}, num_real=3).synthetic == {}


ROWS = torch.eye(10)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"text_emb": ROWS}, "image_emb missing"),
        ({"image_emb": ROWS, "text_emb": ROWS, "other": ROWS}, "unknown array 'other'"),
        ({"image_emb": ROWS, "text_emb": ROWS[:0]}, "0 rows for 1 real"),
        ({"image_emb": ROWS, "text_emb": ROWS[:, :9]}, "text_emb is 9 wide, image_emb 10"),
        ({"image_emb": ROWS[:0], "text_emb": ROWS}, "at least one view"),
        ({"image_emb": ROWS[0], "text_emb": ROWS}, r"image_emb must be \[rows, width\]"),
        ({"image_emb": ROWS.int(), "text_emb": ROWS}, "int32"),
    ],
)
def test_arrays_that_are_no_embeddings(arrays: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_arrays(arrays)


def test_no_column_is_dropped_in_silence() -> None:
    # Defect 2 of the official patch: dimension -1 sliced [:, 0:-1].
    check_width(10, DIMS)
    with pytest.raises(ValueError, match=r"10 wide, the teachers \[6, 3\] together 9"):
        check_width(10, (6, 3))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0, 1.5])
def test_rows_must_be_unit_vectors_of_each_teacher(value: float) -> None:
    stored = make(torch.float32)
    check_units(stored, DIMS)
    stored.synthetic["syn_text"][1, 6:] = value
    with pytest.raises(ValueError, match=r"syn_text_emb row 1 has norm .* for teacher 1"):
        check_units(stored, DIMS)


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    # Defect 7: webdataset loads `pth` without weights_only.
    target = tmp_path / "evil"
    buffer = io.BytesIO()
    torch.save({"image_emb": Evil(target)}, buffer)
    objects = io.BytesIO()
    np.savez(objects, image_emb=np.array([Evil(target)], dtype=object))
    cases: list[tuple[Format, bytes]] = [
        ("pth.gz", gzip.compress(buffer.getvalue())),
        ("pth.gz", gzip.compress(pickle.dumps(Evil(target)))),
        ("npz", objects.getvalue()),
    ]
    for form, data in cases:
        with pytest.raises(ValueError, match=r"no plain tensors|no archive|refused"):
            decode(data, form)
    assert not target.exists()


def test_a_bomb_is_not_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_codecs, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="more than 10000 bytes"):
        decode(zlib.compress(bytes(10**6), wbits=31), "pth.gz")


@pytest.mark.parametrize(
    ("form", "data", "message"),
    [
        ("pth.gz", b"no gzip", "no plain tensors"),
        ("pth.gz", encode(make(), "pth.gz")[:-50], "cut short"),
        ("pth.gz", gzip.compress(b"no torch"), "no archive"),
        ("pth.gz", gzip.compress(b"PK no torch"), "no plain tensors"),
        ("emb.bin", b"DREB", "4 bytes, its header alone has 16"),
        ("emb.bin", b"X" * 50, "no emb.bin of version 1"),
        ("emb.bin", encode(make(), "emb.bin")[:-3], "keys|damaged"),
        ("emb.bin", encode(make(), "emb.bin")[:30], "damaged"),
        ("npz", b"no zip", "npz is damaged"),
    ],
)
def test_damaged_members(form: Format, data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(data, form)


def test_unknown_formats() -> None:
    for call in (lambda: encode(make(), "pkl"), lambda: decode(b"", "pkl")):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"emb\.bin, npz, pth\.gz, got 'pkl'"):
            call()
