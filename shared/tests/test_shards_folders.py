"""Indexing and verifying whole folders."""

import pytest
from foreign_tars import PIXELS, image_bytes, write_tar

from tenfold.shards import (
    ShardError,
    index_folder,
    read_index,
    verify,
    write_index,
    write_shard,
)
from tenfold.testing import numbered_sample, tiny_shards


def test_img2dataset_folder_is_indexed(tmp_path):
    for shard in range(2):
        members = []
        for i in range(3):
            key = f"{shard:05d}{i:04d}"
            members += [
                (f"{key}.jpg", image_bytes("JPEG", PIXELS)),
                (f"{key}.json", b'{"width": 7}'),
                (f"{key}.txt", b"a caption"),
            ]
        write_tar(tmp_path / f"{shard:05d}.tar", members)
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    index = index_folder(tmp_path)
    assert [(entry.name, entry.num_samples) for entry in index.entries] == [
        ("00000.tar", 3),
        ("00001.tar", 3),
    ]
    assert read_index(tmp_path).sha256 == index.sha256
    assert verify(tmp_path, deep=True).ok
    with pytest.raises(FileExistsError, match="delete it to index the folder anew"):
        index_folder(tmp_path)


def test_folder_with_broken_shards_is_not_indexed(tmp_path):
    write_shard(tmp_path / "0.tar", map(numbered_sample, range(3)))
    (tmp_path / "1.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:5000])
    (tmp_path / "2.tar").write_bytes(b"")
    with pytest.raises(ShardError, match=r"2 of 3 shards are not intact.*1\.tar.*2\.tar"):
        index_folder(tmp_path)
    assert not (tmp_path / "index.json").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no \.tar files"):
        index_folder(tmp_path / "none")


def test_verify_names_every_fault(tmp_path):
    folder = tiny_shards(tmp_path / "data", (3,) * 6).folder
    assert verify(folder, deep=True).ok
    report = verify(folder)
    assert (report.num_shards, report.num_samples, report.num_bytes) == (6, 18, 6 * 10240)
    (folder / "0.tar").unlink()
    data = bytearray((folder / "1.tar").read_bytes())
    data[512] ^= 1  # content only: headers stay valid
    (folder / "1.tar").write_bytes(data)
    (folder / "2.tar").write_bytes((folder / "2.tar").read_bytes()[: 3 * 1024 + 100])
    (folder / "3.tar").write_bytes(b"")
    write_tar(folder / "4.tar", [("../evil.txt", b"")])
    write_shard(folder / "5.tar", map(numbered_sample, range(2)))
    write_shard(folder / "stray.tar", map(numbered_sample, range(1)))
    report = verify(folder)
    assert not report.ok
    text = "\n".join(report.problems)
    for line in (
        "0.tar: missing",
        "1.tar: sha256 differs",
        "2.tar: 3172 bytes, the index says 10240",
        "2.tar: truncated: no end mark",
        "2.tar: 1 samples, the index says 3",
        "3.tar: broken tar: empty file",
        "4.tar: member '../evil.txt' climbs out",
        "5.tar: 2 samples, the index says 3",
        "stray.tar: not listed",
    ):
        assert line in text


def test_deep_verify_decodes(tmp_path):
    samples = [{"__key__": "a", "jpg": b"broken"}, {"__key__": "b", "flac": b"x"}]
    write_index(tmp_path, [write_shard(tmp_path / "0.tar", samples)])
    assert verify(tmp_path).ok
    problems = verify(tmp_path, deep=True).problems
    assert len(problems) == 2
    assert "sample 'a': member 'a.jpg': cannot decode" in problems[0]
    assert "sample 'b': member 'b.flac': extension 'flac'" in problems[1]
    assert len(verify(tmp_path, deep=True, decoders={"flac": len}).problems) == 1
