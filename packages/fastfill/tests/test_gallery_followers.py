"""What other processes see of a gallery that changes."""

from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, make, new_vectors, vectors

from fastfill.gallery import (
    Gallery,
    reading,
    writing,
)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_columns_grow_under_readers(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 2)
    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        seen = reader.column("vec")
        for number in range(40):
            gallery.add([f"more {number}"], new_vectors(40)[[number]])
        reader.refresh()
        assert reader.size == 42
        np.testing.assert_array_equal(reader.vectors(np.arange(2, 42)), new_vectors(40))
        np.testing.assert_array_equal(seen, vectors("z", 2, NEW_DIM))
        assert reader.row_of("more 39") == 41


def test_follower_ends_with_the_same_vectors(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 6)
    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        since = reader.sequence
        mine = dict(zip(range(6), reader.vectors(np.arange(6)), strict=True))
        kinds = []
        for step in range(5):
            gallery.apply(rows(5 - step), new_vectors(5)[[step]])
            gallery.add([f"more {step}"], new_vectors(5)[[step]])
            if step == 2:
                gallery.delete(["item 3", "more 1"])
                gallery.checkpoint()
            for change in reader.follow(since):
                since = change.sequence
                kinds.append(change.kind)
                if change.kind == "deleted":
                    mine = {row: v for row, v in mine.items() if row not in change.rows}
                elif change.vectors is not None:
                    mine |= dict(zip(change.rows.tolist(), change.vectors, strict=True))
        assert "reload" not in kinds
        assert kinds.count("added") == 5
        assert sorted(mine) == gallery.live_rows().tolist()
        np.testing.assert_array_equal(
            np.stack([mine[row] for row in sorted(mine)]), gallery.vectors(gallery.live_rows())
        )


def test_follower_that_slept_is_told_to_reload(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        since = reader.sequence
        for row in range(3):
            gallery.apply(rows(row), new_vectors(1))
            gallery.checkpoint()
        (change,) = reader.follow(since)
        assert (change.kind, change.sequence) == ("reload", 3)
        gallery.rollback("old")
        (change,) = reader.follow(change.sequence)
        assert list(reader.follow(change.sequence)) == []


def test_follower_is_told_of_a_switch_at_whatever_moment_it_polls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "g", 3)
    kinds: list[str] = []
    write = writing.write_state

    def poll() -> None:
        nonlocal since
        for change in reader.follow(since):
            since = change.sequence
            kinds.append(f"{change.kind} {reader.state.serving}")

    def poll_around(*arguments: object) -> None:
        poll()
        write(*arguments)  # pyright: ignore[reportArgumentType]
        poll()  # the journal of before is still there

    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        since = reader.sequence
        monkeypatch.setattr(writing, "write_state", poll_around)
        gallery.apply(rows(0), new_vectors(1))
        gallery.rollback("old")
        gallery.apply(rows(1), new_vectors(1))
        poll()
        gallery.rollback("new")
        poll()
    assert kinds == ["new new", "reload old", "new old", "reload new"]


def test_follower_is_told_to_reload_where_a_journal_goes_while_it_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "g", 4)
    read = reading.read_base

    def rotate_after(path: Path) -> int:
        base = read(path)
        monkeypatch.setattr(reading, "read_base", read)
        gallery.apply(rows(1), new_vectors(1))
        gallery.checkpoint()
        return base

    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        since = reader.sequence
        gallery.apply(rows(0), new_vectors(1))
        gallery.checkpoint()
        monkeypatch.setattr(reading, "read_base", rotate_after)
        (change,) = reader.follow(since)
        assert (change.kind, change.sequence) == ("reload", 2)
        gallery.apply(rows(2), new_vectors(1))
        assert [later.rows.tolist() for later in reader.follow(change.sequence)] == [[2]]
