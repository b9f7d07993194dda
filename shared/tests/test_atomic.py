"""Files that are whole or absent."""

import hashlib
from pathlib import Path

import pytest

from tenfold import atomic


def test_an_error_leaves_the_older_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    atomic.write_text(path, "old")
    with pytest.raises(TypeError), atomic.open_atomic(path, "w") as file:
        file.write("half" + 1)
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


def test_the_name_appears_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with atomic.open_atomic(path) as file:
        file.write(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"
    assert atomic.sha256_file(path) == hashlib.sha256(b"x").hexdigest()


def test_left_overs_are_removed_and_other_files_stay(tmp_path: Path) -> None:
    atomic.temporary_name(tmp_path / "a").write_text("half")
    (tmp_path / ".hidden").write_text("kept")
    atomic.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".hidden"]


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        atomic.write_text(tmp_path / "file" / "a", "x")
