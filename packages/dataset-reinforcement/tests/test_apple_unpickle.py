"""The restricted unpickler: plain values come out, all else is refused and nothing happens."""

import builtins
import collections
import io
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dataset_reinforcement.apple import unpickle
from dataset_reinforcement.apple.unpickle import load_plain

PLAIN = (
    17,
    [
        {
            "params": [
                None,
                [3, -4, 5, 6],
                True,
                [[1, -0.09], [0, 0.0]],
                (0.25, {"a": b"\x00\xff", "ä": 2**70}),
            ],
            "prob": ([0.5, 0.125], [1, 999]),
        }
    ],
)
ZIP, LEGACY = True, False


def save(value: object, path: Path, *, protocol: int = 4, zipped: bool = ZIP) -> Path:
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    return path


def in_zip(program: bytes, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    return path


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_values_come_out(tmp_path: Path, protocol: int, *, zipped: bool) -> None:
    path = save(PLAIN, tmp_path / "17.pth.tar", protocol=protocol, zipped=zipped)
    assert load_plain(path) == PLAIN


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("protocol", [2, 4])
def test_numpy_values_come_out_as_plain_ones(
    tmp_path: Path, protocol: int, *, zipped: bool
) -> None:
    matrix = np.arange(6, dtype=np.int16).reshape(2, 3)
    value = {
        "scalars": [np.int64(-3), np.float32(0.1), np.float64(0.1), np.bool_(True), np.uint8(200)],
        "big endian": np.array([1.5, -2], ">f4"),
        "fortran": np.asfortranarray(matrix),
        "matrix": matrix,
        "halves": np.array([0.5, 0.1], np.float16),
        "empty": np.zeros((0, 4), np.float32),
    }
    found = load_plain(save(value, tmp_path / "x", protocol=protocol, zipped=zipped))
    assert found["scalars"] == [-3, float(np.float32(0.1)), 0.1, True, 200]
    assert {type(number) for number in found["scalars"]} == {int, float, bool}
    for name in ("big endian", "fortran", "matrix", "halves", "empty"):
        np.testing.assert_array_equal(np.array(found[name]).reshape(value[name].shape), value[name])


def test_files_of_numpy_1_are_read(tmp_path: Path) -> None:
    """Its core had another name; the pickles differ in that alone."""
    program = pickle.dumps([np.int64(5), np.arange(3)], protocol=2)
    old = program.replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != program
    assert load_plain(in_zip(old, tmp_path / "x")) == [5, [0, 1, 2]]


class Call:
    """Pickles to a call of `function`."""

    def __init__(self, function: Callable[..., Any], *words: object) -> None:
        self.function, self.words = function, words

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[object, ...]]:
        return self.function, self.words


def hostile(victim: Path) -> dict[str, tuple[object, str]]:
    touch = f"touch {victim}"
    evaluated = f"open({str(victim)!r}, 'w').close()"
    return {
        "system": (Call(os.system, touch), "system"),
        "eval": (Call(eval, evaluated), r"builtin(__|s)\.eval\b"),
        "exec": (Call(exec, evaluated), r"builtin(__|s)\.exec\b"),
        "open": (Call(open, str(victim), "w"), "io.open|_io.open"),
        "import": (Call(builtins.__import__, "this"), r"builtin(__|s)\.__import__"),
        "nested": ([1, {"prob": ([0.5], [Call(os.system, touch)])}], "system"),
        "in a call": (Call(np.dtype, Call(eval, evaluated)), r"builtin(__|s)\.eval\b"),
        "path": (victim, r"pathlib\."),
        "ordered": (collections.OrderedDict(a=1), r"collections\.OrderedDict"),
        "objects": (np.array([None, Call(os.system, touch)], dtype=object), "O8|system"),
        "text array": (np.array(["ab"]), "plain numbers"),
        "record": (np.zeros(2, dtype=[("a", "i4")]), "plain numbers"),
        "tensor": (torch.zeros(3), "torch._utils|collections|tensors"),
        "storage": (torch.zeros(3).untyped_storage(), "torch|tensors"),
        "class": (int, r"builtin__\.long\b|builtins\.int\b"),
        "complex": (1 + 2j, r"builtin(__|s)\.complex\b"),
        "set of a call": ({Call(os.getpid): 1}, "getpid"),
    }


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", hostile(Path("x")))
def test_hostile_files_are_refused_and_do_nothing(
    tmp_path: Path, name: str, protocol: int, *, zipped: bool
) -> None:
    victim = tmp_path / "victim"
    value, message = hostile(victim)[name]
    path = save(value, tmp_path / "0.pth.tar", protocol=protocol, zipped=zipped)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message) as caught:
        load_plain(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_the_hostile_files_would_do_harm(tmp_path: Path) -> None:
    """Guard of the test above: an ordinary unpickler creates the victim."""
    for name in ("system", "eval", "exec", "open", "nested", "objects"):
        victim = tmp_path / name
        result = pickle.loads(pickle.dumps(hostile(victim)[name][0]))  # noqa: S301
        if isinstance(result, io.IOBase):
            result.close()
        assert victim.exists(), name


HEAD = b"\x80\x04"
SYSTEM = b"cposix\nsystem\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (SYSTEM + b"(X\x04\x00\x00\x00trueo.", r"posix\.system"),
        (b"(X\x04\x00\x00\x00trueiposix\nsystem\n.", r"posix\.system"),
        (HEAD + b"\x8c\x05posix\x8c\x06system\x93.", r"posix\.system"),
        (HEAD + b"\x8c\x05numpy\x8c\x0dndarray.dumps\x93.", r"ndarray\.dumps"),
        (HEAD + b"\x8c\x08builtins\x8c\x04eval\x93.", r"builtins\.eval"),
        (b"cnumpy.core.multiarray\nfromfile\n.", "fromfile"),
        (b"\x80\x02\x82\x01.", "extension|refused"),
        (b"PX\n.", "tensors"),
        (b"X\x01\x00\x00\x00pQ.", "tensors"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8tR.", "plain numbers"),
        (b"cnumpy\ndtype\n}X\x08\x00\x00\x00__init__K\x01sb.", "refused"),
        (b"c_codecs\nencode\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.", "refused"),
        (b"cnumpy.core.multiarray\nscalar\nN}X\x07\x00\x00\x00__new__K\x01s\x86b.", "refused"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x03\x00\x00\x00hextR.", "encoded as 'hex'"),
        (b"cnumpy.core.multiarray\nscalar\n(K\x01K\x02tR.", "unknown type"),
        (b"c__builtin__\nbytes\n(K\x09tR.", "refused"),
        (b"", "refused"),
        (b".", "refused"),
        (b"0000", "refused"),
        (b"(" * 50, "refused"),
        (b"X\xff\xff\xff\x7f.", "refused"),
        (b"\x80\x09.", "protocol"),
    ],
)
@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_crafted_programs_are_refused(
    tmp_path: Path, program: bytes, message: str, *, zipped: bool
) -> None:
    path = tmp_path / "x"
    if zipped:
        in_zip(program, path)
    else:
        head = save(0, tmp_path / "head", zipped=LEGACY).read_bytes()
        body = pickle.dumps(0, protocol=4)
        assert head.count(body) == 1
        path.write_bytes(head.replace(body, program))
    with pytest.raises(ValueError, match=message):
        load_plain(path)
    assert load_plain(save([np.float32(0.5), b"x"], tmp_path / "y", protocol=2)) == [0.5, b"x"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "refused"),
        (b"PK\x03\x04 no archive", "refused"),
        (pickle.dumps([1]), "not written by torch.save|refused"),
        (b"no pickle at all", "refused"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        load_plain(tmp_path / "x")


@pytest.mark.parametrize("zipped", [ZIP, LEGACY])
def test_truncated_files_are_refused(tmp_path: Path, *, zipped: bool) -> None:
    path = save(PLAIN, tmp_path / "x", zipped=zipped)
    data = path.read_bytes()
    for length in range(0, len(data) - 1, 7):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match="is refused"):
            load_plain(path)


def test_flipped_bytes_of_an_archive_are_refused(tmp_path: Path) -> None:
    path = in_zip(pickle.dumps(PLAIN, protocol=4), tmp_path / "x")
    data = path.read_bytes()
    place = data.index(b"params")
    path.write_bytes(data[:place] + b"P" + data[place + 1 :])
    with pytest.raises(ValueError, match="CRC"):
        load_plain(path)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    data = save(0, tmp_path / "x", zipped=LEGACY).read_bytes()
    flipped = data.replace(b"little_endian\x94\x88", b"little_endian\x94\x89")
    assert flipped != data
    (tmp_path / "x").write_bytes(flipped)
    with pytest.raises(ValueError, match="big-endian"):
        load_plain(tmp_path / "x")


def test_huge_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(PLAIN, tmp_path / "x")
    monkeypatch.setattr(unpickle, "MAX_PICKLE_BYTES", 50)
    with pytest.raises(ValueError, match="more than 50 bytes"):
        load_plain(path)
    program = pickle.dumps(list(range(100)))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", program)
    monkeypatch.setattr(unpickle, "MAX_PICKLE_BYTES", len(program) - 1)
    with pytest.raises(ValueError, match=f"more than {len(program) - 1} bytes"):
        load_plain(path)


def test_an_archive_of_several_pickles_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(1))
        archive.writestr("b/data.pkl", pickle.dumps(2))
    with pytest.raises(ValueError, match=r"2 members data\.pkl"):
        load_plain(tmp_path / "x")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="x does not exist"):
        load_plain(tmp_path / "x")


def test_the_magic_number_is_torchs(tmp_path: Path) -> None:
    """A legacy file of this torch begins with the constants that the reader expects."""
    data = io.BytesIO(save(0, tmp_path / "x", zipped=LEGACY).read_bytes())
    assert pickle.load(data) == unpickle._LEGACY_MAGIC  # noqa: S301
    assert pickle.load(data) == unpickle._LEGACY_VERSION  # noqa: S301
    assert struct.calcsize("P") == 8
