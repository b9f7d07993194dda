"""Tars of JSON Lines: what comes out, what is counted, and what is refused."""

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from dataset_decomposition.documents import BadDocument, TextDocument
from dataset_decomposition.inputs import find_sources
from dataset_decomposition.prepare import prepare
from dataset_decomposition.readers import read_documents
from tenfold.jobs import JobError

Member = tuple[str, bytes] | tarfile.TarInfo


def lines(*texts: str) -> bytes:
    return b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts)


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


def tar(*members: Member, format: int = tarfile.PAX_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as file:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                file.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                file.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def special(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/hostname"
    return info


def read(path: Path, data: bytes) -> list[TextDocument | BadDocument]:
    path.write_bytes(data)
    (source,) = find_sources([str(path)])
    assert source.kind == "tar"
    return list(read_documents(source))


LONG = "x" * 3_000_000
SHARD: tuple[Member, ...] = (
    ("part/one.jsonl", lines("a", "b\nb")),
    ("part/two.jsonl.gz", gzip.compress(lines("c", LONG))),
    ("part/" + "deep/" * 60 + "three.ndjson.zst", zst(lines("d") * 2)),
    ("000.json", json.dumps({"text": "e", "url": "u"}).encode()),
    ("001.JSON", json.dumps({"text": "f", "tags": [{}]}, indent=2).encode() + b"\n"),
    ("002.json.gz", gzip.compress(lines("g", "h"))),
    ("empty.jsonl", b""),
    ("\u00e4 name.jsonl", b'{"text": "i"}'),
)
SHARD_TEXTS = ["a", "b\nb", "c", LONG, "d", "d", "e", "f", "g", "h", "i"]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@pytest.mark.parametrize(
    ("name", "pack"), [("s.tar", bytes), ("s.tar.gz", gzip.compress), ("s.TAR.zst", zst)]
)
def test_members_of_every_kind_come_out_in_order(
    tmp_path: Path, name: str, pack: Callable[[bytes], bytes], format: int
) -> None:
    found = read(tmp_path / name, pack(tar(*SHARD, format=format)))
    assert [document.text for document in found] == SHARD_TEXTS
    assert found[1].place == f"{tmp_path / name}:part/one.jsonl:2"
    assert found[7].place == f"{tmp_path / name}:001.JSON:1"


def test_bad_lines_are_named_by_tar_member_and_line(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    members = [
        ("a.jsonl", lines("one") + b'\n{"url": 1}\nno json\n{"text": "\xff"}\n' + lines("two")),
        ("b.json", b'[{"text": "an array"}]'),
        ("c.json", b"{\n" + lines("in lines after all")),
        ("d.jsonl.gz", gzip.compress(lines("cut " * 10))[:-3]),
        ("e.jsonl.zst", b"never compressed"),
        ("f.jsonl", lines("three")),
    ]
    found = read(path, tar(*members))
    assert found == [
        TextDocument("one", f"{path}:a.jsonl:1"),
        BadDocument("blank_line", f"{path}:a.jsonl:2"),
        BadDocument("missing_text", f"{path}:a.jsonl:3"),
        BadDocument("invalid_json", f"{path}:a.jsonl:4"),
        BadDocument("invalid_utf8", f"{path}:a.jsonl:5"),
        TextDocument("two", f"{path}:a.jsonl:6"),
        BadDocument("invalid_json", f"{path}:b.json:1"),
        BadDocument("invalid_json", f"{path}:c.json:1"),
        TextDocument("in lines after all", f"{path}:c.json:2"),
        TextDocument("cut " * 10, f"{path}:d.jsonl.gz:1"),
        BadDocument("truncated_file", f"{path}:d.jsonl.gz:2"),
        BadDocument("corrupt_file", f"{path}:e.jsonl.zst:1"),
        TextDocument("three", f"{path}:f.jsonl:1"),
    ]


def test_links_devices_and_unknown_members_are_counted_and_hidden_ones_left_out(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.tar"
    sparse = special("sparse.jsonl", tarfile.GNUTYPE_SPARSE)
    members = [
        special("folder.jsonl", tarfile.DIRTYPE),
        special("link.jsonl", tarfile.SYMTYPE),
        special("hard.jsonl", tarfile.LNKTYPE),
        special("../../device.jsonl", tarfile.CHRTYPE),
        special("pipe.jsonl", tarfile.FIFOTYPE),
        sparse,
        ("new\nline.txt", b"text"),
        ("no-suffix", b"text"),
        ("._a.jsonl", b"left out"),
        (".git/b.jsonl", b"left out"),
        ("./../c.jsonl", lines("good")),
    ]
    found = read(path, tar(*members, format=tarfile.GNU_FORMAT))
    assert found == [
        BadDocument("special_member", f"{path}:link.jsonl"),
        BadDocument("special_member", f"{path}:hard.jsonl"),
        BadDocument("special_member", f"{path}:../../device.jsonl"),
        BadDocument("special_member", f"{path}:pipe.jsonl"),
        BadDocument("special_member", f"{path}:sparse.jsonl"),
        BadDocument("unknown_member", rf"{path}:'new\nline.txt'"),
        BadDocument("unknown_member", f"{path}:no-suffix"),
        TextDocument("good", f"{path}:./../c.jsonl:1"),
    ]
    assert [item.name for item in tmp_path.iterdir()] == ["s.tar"]


def spoiled(data: bytes, place: int, with_: bytes) -> bytes:
    return data[:place] + with_ + data[place + len(with_) :]


def with_size(data: bytes, size: bytes) -> bytes:
    """Write a size into the first header and mend its checksum."""
    header = bytearray(spoiled(data[:512], 124, size))
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data[512:]


TWO = tar(("a.jsonl", lines("one" * 300, "two")), ("b.jsonl", lines("three")))
"""Headers at 0 and 1536, contents at 512 and 2048, the end mark at 2560."""
LOOP = b"".join(tarfile.TarInfo.create_pax_global_header({"comment": str(i)}) for i in range(3000))

BROKEN = {
    "inside a content": (TWO[:1000], "is truncated inside a member .last seen: a.jsonl.", 0),
    "inside a padding": (TWO[:1500], "is truncated or damaged: unexpected end", 2),
    "between members": (TWO[:1536], "is truncated: it has no end mark", 2),
    "inside a header": (TWO[:1600], "is truncated: it has no end mark", 2),
    "before the end mark": (TWO[:2560], "is truncated: it has no end mark .last seen: b.jsonl", 3),
    "wrong checksum": (spoiled(TWO, 1540, b"?"), "is damaged: a header is broken", 2),
    "two tars in one": (TWO + TWO, "is damaged: data stands behind", 3),
    "empty": (b"", "is truncated or damaged: empty file .last seen: its beginning.", 0),
    "garbage": (b"garbage" * 400, "is truncated or damaged: ", 0),
    "negative size": (
        with_size(TWO, b"\xff" * 10 + b"\xfc\0"),
        "is truncated or damaged: a header points back",
        0,
    ),
    "huge size": (with_size(TWO, b"\x80" + b"\x7f" * 10), "is truncated inside a member", 2),
    "endless headers": (LOOP + TWO, "is truncated or damaged: maximum recursion", 0),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tar_is_an_error_that_names_it(tmp_path: Path, case: str) -> None:
    data, message, num_before = BROKEN[case]
    path = tmp_path / "s.tar"
    path.write_bytes(data)
    (source,) = find_sources([str(path)])
    documents = read_documents(source)
    before = [next(documents).place for _ in range(num_before)]
    with pytest.raises(ValueError, match=rf"the tar .*s\.tar {message}.*; copy it again"):
        list(documents)
    places = ("a.jsonl:1", "a.jsonl:2", "b.jsonl:1")[:num_before]
    assert before == [f"{path}:{place}" for place in places]


@pytest.mark.parametrize(("suffix", "pack"), [("gz", gzip.compress), ("zst", zst)])
def test_a_truncated_compressed_tar_is_an_error(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes]
) -> None:
    whole = tar(("a.jsonl", lines(*map(str, range(100_000)))))
    with pytest.raises(ValueError, match=rf"the tar .*\.{suffix} is truncated \(last seen: a\.jso"):
        read(tmp_path / f"s.tar.{suffix}", pack(whole)[:-20])
    with pytest.raises(ValueError, match=rf"the tar .*\.{suffix} is corrupt"):
        read(tmp_path / f"s.tar.{suffix}", whole)


def test_prepare_reads_tars_and_names_a_broken_one(tmp_path: Path) -> None:
    texts = [f"document {i} " * 9 for i in range(40)]
    (tmp_path / "plain.jsonl").write_bytes(lines(*texts))
    data = tar(("part.jsonl.zst", zst(lines(*texts))))
    (tmp_path / "shard.tar").write_bytes(data)
    for name in ("plain.jsonl", "shard.tar"):
        prepare([str(tmp_path / name)], tmp_path / name[:5], min_bucket=4, max_bucket=6)
    plain, shard = (
        json.loads((tmp_path / name / "dataset.json").read_text()) for name in ("plain", "shard")
    )
    assert shard["tokens"] == plain["tokens"]
    assert shard["buckets"]["6"]["sequences"] == plain["buckets"]["6"]["sequences"] > 0
    (tmp_path / "cut.tar").write_bytes(data[:-9000])
    with pytest.raises(JobError, match=r"the tar .*cut\.tar is truncated"):
        prepare([str(tmp_path / "cut.tar")], tmp_path / "cut", min_bucket=4, max_bucket=6)
    (tmp_path / "other.tar").write_bytes(tar(("a.txt", b"text"), ("b.jsonl", lines(*texts))))
    with pytest.raises(ValueError, match=r"first unknown_member at .*other\.tar:a\.txt.*only \.js"):
        prepare([str(tmp_path / "other.tar")], tmp_path / "other", min_bucket=4, max_bucket=6)
