import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from pyarrow import parquet

from dataset_decomposition.documents import BadDocument, TextDocument
from dataset_decomposition.inputs import (
    Source,
    demo_selection,
    find_sources,
    group_sources,
)
from dataset_decomposition.readers import read_documents
from tenfold.demo_data import documents as demo_documents

TEXTS = ["one", "zwei \u00e4\u00f6\u00fc", "three\nlines\r\n", "\U0001f600 " * 50, "x" * 3_000_000]


def json_lines(texts: list[str], key: str = "text") -> bytes:
    return b"".join(json.dumps({key: text, "url": "u"}).encode() + b"\n" for text in texts)


def read(path: Path, **options: str) -> list[TextDocument | BadDocument]:
    (source,) = find_sources([str(path)])
    return list(read_documents(source, **options))


def texts_of(found: list[TextDocument | BadDocument]) -> list[str]:
    assert all(isinstance(document, TextDocument) for document in found), found
    return [document.text for document in found if isinstance(document, TextDocument)]


def kinds_of(found: list[TextDocument | BadDocument]) -> list[str]:
    return [d.kind if isinstance(d, BadDocument) else "ok" for d in found]


def zst(data: bytes) -> bytes:
    return zstandard.ZstdCompressor().compress(data)


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "a.json.gz", "a.jsonl.gz", "a.jsonl.zst"])
def test_json_lines_in_every_compression(tmp_path: Path, name: str):
    data = json_lines(TEXTS)
    pack = {".gz": gzip.compress, ".zst": zst}.get(Path(name).suffix, bytes)
    (tmp_path / name).write_bytes(pack(data))
    assert texts_of(read(tmp_path / name)) == TEXTS
    (tmp_path / name).write_bytes(pack(data.rstrip(b"\n")))
    assert texts_of(read(tmp_path / name)) == TEXTS


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_several_compressed_members_are_one_file(tmp_path: Path, suffix: str):
    pack = {".gz": gzip.compress, ".zst": zst}[suffix]
    data = json_lines(TEXTS)
    path = tmp_path / f"a.jsonl{suffix}"
    padding = b"\0" * 512 if suffix == ".gz" else b""
    path.write_bytes(pack(data[:1000]) + pack(b"") + pack(data[1000:]) + padding)
    assert texts_of(read(path)) == TEXTS


def test_zstandard_without_content_size(tmp_path: Path):
    buffer = io.BytesIO()
    with zstandard.ZstdCompressor().stream_writer(buffer, closefd=False) as writer:
        writer.write(json_lines(TEXTS))
    (tmp_path / "a.jsonl.zst").write_bytes(buffer.getvalue())
    assert texts_of(read(tmp_path / "a.jsonl.zst")) == TEXTS


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_truncation_keeps_what_came_before_and_is_named(tmp_path: Path, suffix: str):
    lines = [f"document {i} " + "abcdefg"[i % 7] * 40 for i in range(20_000)]
    data = {".gz": gzip.compress, ".zst": zst}[suffix](json_lines(lines))
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(data[: len(data) * 9 // 10])
    found = read(path)
    assert isinstance(found[-1], BadDocument)
    assert found[-1].kind == "truncated_file"
    kept = texts_of(found[:-1])
    assert len(kept) > 10_000
    assert kept == lines[: len(kept)]
    assert found[-1].place == f"{path}:{len(kept) + 1}"
    # Cut by a single byte, inside the checksum or the last block.
    path.write_bytes(data[:-1])
    assert kinds_of(read(path))[-1] == "truncated_file"


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_garbage_and_flipped_bytes_are_corrupt(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(b"this was never compressed")
    assert kinds_of(read(path)) == ["corrupt_file"]
    data = bytearray({".gz": gzip.compress, ".zst": zst}[suffix](json_lines(TEXTS)))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data) if suffix == ".gz" else bytes(data[:4]) + b"\xff" * 40)
    assert kinds_of(read(path))[-1] == "corrupt_file"


BAD_LINES = {
    b'{"url": "u"}': "missing_text",
    b'{"text": null}': "missing_text",
    b'{"text": ""}': "empty_text",
    b'{"text": 5}': "not_string",
    b'{"text": ["a"]}': "not_string",
    b'{"text": "a': "invalid_json",
    b'["text"]': "invalid_json",
    b"7": "invalid_json",
    b"[" * 100_000: "invalid_json",
    b"": "blank_line",
    b" \t\r": "blank_line",
    b'{"text": "\xff"}': "invalid_utf8",
    b'{"text": "\\ud800"}': "invalid_utf8",
    '{"text": "a"}'.encode("utf-16"): "invalid_utf8",
}


@pytest.mark.parametrize(("line", "kind"), BAD_LINES.items(), ids=range(len(BAD_LINES)))
def test_each_bad_line_has_its_kind_and_place(tmp_path: Path, line: bytes, kind: str):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "before"}\n' + line + b'\n{"text": "after"}\n')
    before, bad, after = read(path)
    assert (before, after) == (
        TextDocument("before", f"{path}:1"),
        TextDocument("after", f"{path}:3"),
    )
    assert bad == BadDocument(kind, f"{path}:2")


def test_byte_order_mark_and_carriage_returns_are_no_errors(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n{"text": "b"}\r\n')
    assert texts_of(read(path)) == ["a", "b"]


def test_text_key_selects_the_field(tmp_path: Path):
    (tmp_path / "a.jsonl").write_bytes(json_lines(["a"], key="content"))
    assert texts_of(read(tmp_path / "a.jsonl", text_key="content")) == ["a"]
    assert kinds_of(read(tmp_path / "a.jsonl")) == ["missing_text"]


def test_parquet(tmp_path: Path):
    path = tmp_path / "a.parquet"
    texts = [*TEXTS, None, "", *(str(i) for i in range(1, 1500))]
    parquet.write_table(pa.table({"text": texts, "id": range(len(texts))}), path)
    found = read(path)
    assert kinds_of(found) == ["ok"] * 5 + ["missing_text", "empty_text"] + ["ok"] * 1499
    assert found[5].place == f"{path}:row 6"
    assert kinds_of(read(path, text_key="id"))[0] == "not_string"
    with pytest.raises(ValueError, match=r"no column 'body'; name one of text, id with --text_key"):
        read(path, text_key="body")


def test_parquet_of_bytes_with_invalid_utf8(tmp_path: Path):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": [b"good", b"\xff"]}), path)
    assert kinds_of(read(path)) == ["ok", "invalid_utf8"]


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_parquet_is_one_bad_document(tmp_path: Path, damage: str):
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"text": TEXTS}), path)
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-20], "garbage": b"x" * 500, "empty": b""}[damage])
    assert kinds_of(read(path)) == ["corrupt_file"]


def test_a_text_file_is_one_document(tmp_path: Path):
    for name, pack in (
        ("a.txt", bytes),
        ("b.py", bytes),
        ("c.txt.gz", gzip.compress),
        ("d", bytes),
    ):
        (tmp_path / name).write_bytes(pack("a\n\n\u00e9\n".encode()))
        assert texts_of(read(tmp_path / name)) == ["a\n\n\u00e9\n"]
    (tmp_path / "bad.txt").write_bytes(b"a\nb\n\xff\n")
    assert read(tmp_path / "bad.txt") == [BadDocument("invalid_utf8", f"{tmp_path}/bad.txt:3")]
    (tmp_path / "empty.txt").write_bytes(b"")
    assert kinds_of(read(tmp_path / "empty.txt")) == ["empty_text"]


def test_folders_globs_and_lists_give_each_file_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    for name in ("b/x.py", "a/y.txt", "a/z.jsonl", "a/.git/config", "a/__pycache__/y.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("data")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/b\n\n  {tmp_path}/a/*.txt\n")
    names = [s.name for s in find_sources([str(tmp_path / "a"), str(tmp_path / "b")])]
    assert names == ["a/y.txt", "a/z.jsonl", "b/x.py"]
    listed = find_sources([f"@{tmp_path}/list.txt"])
    assert [s.name for s in listed] == ["b/x.py", "a/y.txt"]
    piped = find_sources(["-"], stdin=io.StringIO(f"{tmp_path}/**/*.py\n"))
    assert [(s.name, s.kind) for s in piped] == [("x.py", "text")]
    assert not caplog.records
    twice = find_sources([str(tmp_path / "a/z.jsonl"), str(tmp_path / "a")])
    assert [(s.name, s.kind) for s in twice] == [("z.jsonl", "jsonl"), ("y.txt", "text")]
    assert "more than once" in caplog.text


def test_a_change_at_either_end_of_a_large_file_shows(tmp_path: Path):
    path = tmp_path / "a.txt"
    content = bytearray(b"x" * 3_000_000)
    found = set()
    for position in (None, 0, 2_999_999):
        changed = content.copy()
        if position is not None:
            changed[position] = 0
        path.write_bytes(changed)
        found.add(find_sources([str(path)])[0].identity)
    assert len(found) == 3
    assert all(identity.endswith(" 3000000 a.txt") for identity in found)


def test_a_pipe_is_refused(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file"):
        find_sources([str(tmp_path / "pipe")])


def test_names_do_not_depend_on_where_the_corpus_lies(tmp_path: Path):
    for place in ("here", "there/deeper"):
        (tmp_path / place / "sub").mkdir(parents=True)
        (tmp_path / place / "sub/a.txt").write_text("a")
        (tmp_path / place / "b.txt").write_text("b")
    here, there = (find_sources([str(tmp_path / p)]) for p in ("here", "there/deeper"))
    assert [s.name for s in here] == [s.name for s in there] == ["b.txt", "sub/a.txt"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "no inputs were named"),
        (["{tmp}/empty", ""], "an input has the empty name ''"),
        (["{tmp}/missing.jsonl"], "no such input: .*missing.jsonl"),
        (["{tmp}/*.jsonl"], r"no input matches .*\*\.jsonl"),
        (["{tmp}/empty"], "holds no files"),
        (["@{tmp}/nested.txt"], "lists do not nest"),
        (["@{tmp}/documents.txt"], r"documents.txt holds a document, '\{\"text\": \"a\"\}', where"),
        (["demo:photos"], "no such demo data: 'demo:photos'"),
        (["demo:documents/test"], "no such demo data"),
        (["demo:documentsx"], "no such demo data"),
    ],
)
def test_inputs_that_match_nothing_are_refused(tmp_path: Path, inputs: list[str], message: str):
    (tmp_path / "empty").mkdir()
    (tmp_path / "nested.txt").write_text("@other.txt\n")
    (tmp_path / "documents.txt").write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match=message):
        find_sources([item.format(tmp=tmp_path) for item in inputs])


def test_a_missing_list_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"list\.txt"):
        find_sources([f"@{tmp_path}/list.txt"])


def test_demo_names():
    assert demo_selection("demo:documents") == ("docstrings", "all")
    assert demo_selection("demo:documents/sources") == ("sources", "all")
    assert demo_selection("demo:documents/heldout") == ("docstrings", "heldout")
    assert demo_selection("demo:documents/sources/train") == ("sources", "train")


def test_demo_documents_are_read_in_order():
    (source,) = find_sources(["demo:documents/docstrings/heldout"])
    expected = [document.text for document in demo_documents.load("docstrings", "heldout")]
    assert texts_of(list(read_documents(source))) == expected
    assert source.size == sum(len(text.encode()) for text in expected)


def test_small_files_share_a_task_and_big_ones_do_not():
    sizes = [10, 10, 100, 10, 50, 50, 5]
    sources = [Source(str(i), str(i), "text", size, "") for i, size in enumerate(sizes)]
    groups = group_sources(sources, task_bytes=64)
    assert [[s.size for s in group] for group in groups] == [[10, 10], [100], [10, 50], [50, 5]]
    assert group_sources([], task_bytes=64) == []
