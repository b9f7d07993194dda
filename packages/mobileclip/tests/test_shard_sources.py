"""Shards named by a folder or by a pattern."""

from pathlib import Path

import pytest
from published_shards import INFO, make_sample, write_folder, write_tar

from mobileclip.published import published
from mobileclip.schema import write_info
from mobileclip.shard_sources import expand, open_shards, read_reinforcement
from mobileclip.tar_paths import list_tars


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_plain(folder: Path) -> None:
    """Write the nested folders of the release of a billion samples."""
    for number, name in enumerate(("00/0000.tar", "00/0001.tar", "01/0000.tar")):
        made = [make_sample(2 * number + n) for n in range(1 + number % 2)]
        write_tar(folder / name, {one.uid: one.members for one in made})


def test_nested_braces_of_the_release(tmp_path: Path, cache: Path) -> None:
    write_plain(tmp_path)
    index = open_shards(f"{tmp_path}/{{{{00..00}}/{{0000..0001}},01/{{0000..0000}}}}.tar")
    assert [entry.name for entry in index.entries] == ["00/0000.tar", "00/0001.tar", "01/0000.tar"]
    assert [entry.num_samples for entry in index.entries] == [1, 2, 1]
    assert index.folder == tmp_path


def test_tars_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_plain(tmp_path)
    first = open_shards(f"{tmp_path}/**/*.tar")
    with monkeypatch.context() as changed:
        changed.setattr("mobileclip.shard_sources._scan", None)
        assert open_shards(f"{tmp_path}/**/*.tar") == first
    made = make_sample(9)
    write_tar(tmp_path / "01/0000.tar", {made.uid: made.members, "another": made.members})
    assert open_shards(f"{tmp_path}/**/*.tar").num_samples == first.num_samples + 1
    assert not list(tmp_path.glob("*.json"))


def test_an_index_beside_the_tars_is_believed(tmp_path: Path) -> None:
    index = write_folder(tmp_path, [[make_sample(n)] for n in range(3)])
    assert open_shards(tmp_path) == index
    some = open_shards(f"{tmp_path}/{{00000001..00000002}}.tar")
    assert some.entries == index.entries[1:]
    write_tar(tmp_path / "stray.tar", {"a": {"txt": b"a"}})
    with pytest.raises(ValueError, match=r"stray\.tar is not listed in"):
        open_shards(f"{tmp_path}/*.tar")
    _, tars = list_tars(tmp_path)
    assert [tar.name for tar in tars] == [entry.name for entry in index.entries]


def test_what_shards_say_of_themselves(tmp_path: Path) -> None:
    index = write_folder(tmp_path, [[make_sample(0)]], info=None)
    assert read_reinforcement(index) is None
    assert read_reinforcement(index, release="dfndr-2b") == published("dfndr-2b")
    write_info(tmp_path, INFO)
    assert read_reinforcement(index) == INFO
    with pytest.raises(ValueError, match="leave release out"):
        read_reinforcement(index, release="dfndr-2b")


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"0\.tar does not exist \(2 of 2 tars"):
        expand(f"{tmp_path}/{{0..1}}.tar")
    with pytest.raises(FileNotFoundError, match=r"\*\.tar does not exist"):
        expand(f"{tmp_path}/*.tar")
    with pytest.raises(ValueError, match="unbalanced braces"):
        expand(f"{tmp_path}/{{0..1.tar")
    with pytest.raises(FileNotFoundError, match=r"holds no \.tar files"):
        list_tars(tmp_path)
