"""Shards with their embeddings in another member."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from published_shards import make_sample, write_folder, write_release

from mobileclip.convert import convert
from mobileclip.embedding_codecs import FORMATS, Format, decode
from mobileclip.schema import read_info
from tenfold.shards import TarMembers, read_index, verify


def embeddings(folder: Path, form: Format) -> dict[str, Any]:
    found = {}
    for entry in read_index(folder).entries:
        members = TarMembers(folder / entry.name)
        for key in members.keys:
            assert [e for e in members.extensions(key) if e in FORMATS] == [form]
            tables = decode(members.read(key, form), form).to(torch.bfloat16).tables()
            found[key] = [(name, table.tolist()) for name, table in tables]
    return found


@pytest.mark.parametrize("layout", ["legacy", "new"])
def test_there_and_back(tmp_path: Path, layout: Any) -> None:
    index, made = write_release(tmp_path / "npz", count=4, shard_size=2, layout=layout)
    convert(str(tmp_path / "npz"), tmp_path / "emb")
    convert(str(tmp_path / "emb"), tmp_path / "pth", to="pth.gz")
    convert(str(tmp_path / "pth"), tmp_path / "back", to="npz")
    expected = embeddings(tmp_path / "npz", "npz")
    assert embeddings(tmp_path / "emb", "emb.bin") == expected
    assert embeddings(tmp_path / "pth", "pth.gz") == expected
    assert embeddings(tmp_path / "back", "npz") == expected
    assert read_info(tmp_path / "back") == read_info(tmp_path / "npz")
    assert verify(tmp_path / "emb").ok
    members = TarMembers(tmp_path / "emb/00000001.tar")
    assert list(members.keys) == list(made)[2:]
    for extension in ("jpg", "txt", "url.txt", "syn.json", "paug.json", "json"):
        key = members.keys[0]
        assert members.read(key, extension) == made[key].members[extension]
    assert [e.name for e in read_index(tmp_path / "emb").entries] == [e.name for e in index.entries]


def test_what_cannot_be_converted(tmp_path: Path) -> None:
    made = make_sample(0)
    bare = replace(made, members={k: v for k, v in made.members.items() if k != "npz"})
    write_folder(tmp_path / "bare", [[bare]])
    with pytest.raises(Exception, match=f"sample '{made.uid}' has no embeddings"):
        convert(str(tmp_path / "bare"), tmp_path / "a")
    broken = replace(made, members={**made.members, "npz": b"PK"})
    write_folder(tmp_path / "broken", [[broken]])
    with pytest.raises(Exception, match=rf"'{made.uid}\.npz'"):
        convert(str(tmp_path / "broken"), tmp_path / "b")
    with pytest.raises(FileExistsError, match="choose another folder"):
        convert(str(tmp_path / "bare"), tmp_path / "broken")
    with pytest.raises(ValueError, match=r"to must be one of emb\.bin, npz, pth\.gz, got 'pkl'"):
        convert(str(tmp_path / "bare"), tmp_path / "c", to="pkl")  # type: ignore[arg-type]
