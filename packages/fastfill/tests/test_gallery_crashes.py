"""A gallery whose writer dies, or whose disk is full, at any moment (spec 7c (11), 9)."""

import errno
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, backfill, column_bytes, make, new_vectors, vectors

from fastfill.gallery import Gallery, Message, submit, writing
from fastfill.gallery import gallery as gallery_module
from fastfill.gallery.journal import Journal, Record, read_entries
from fastfill.gallery.state import journal_path
from tenfold.testing_kills import run_killed

ROWS = 8
PRELOAD = ("fastfill.gallery",)


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    folder = make(tmp_path / "undisturbed", ROWS)
    backfill(folder)
    return column_bytes(folder)


def crashed(folder: Path, copy: Path) -> Path:
    """Return the folder as a kill would leave it now."""
    shutil.copytree(folder, copy)
    return copy


def test_killed_at_every_change_of_the_disk_ends_in_the_same_bytes(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    changes = run_killed(backfill, make(tmp_path / "count", ROWS), kill_at=0, preload=PRELOAD)
    assert changes > 20
    for kill_at in range(1, changes + 1, 7):
        folder = make(tmp_path / str(kill_at), ROWS)
        run_killed(backfill, folder, kill_at=kill_at, preload=PRELOAD)
        backfill(folder)
        assert column_bytes(folder) == undisturbed


def test_journal_torn_at_every_byte_replays_whole_records(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    before = column_bytes(folder)
    new = new_vectors(3)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([2]), new[[2]])
        middle = crashed(folder, tmp_path / "middle")
        gallery.add(["more"], new[[0]])
        whole = crashed(folder, tmp_path / "whole")
    journal = journal_path(whole, 0)
    text = journal.read_bytes()
    first_end, last_end = (entry.end for entry in read_entries(journal))
    assert last_end == len(text)
    torn = tmp_path / "torn.bin"
    for length in range(20, len(text) + 1):
        torn.write_bytes(text[:length])
        found = [entry.end for entry in read_entries(torn)]
        assert found == [end for end in (first_end, last_end) if end <= length]
    for length in (20, 21, first_end - 1, first_end, first_end + 9, last_end - 1, last_end):
        torn_gallery = make(tmp_path / f"torn {length}", 3)
        journal_path(torn_gallery, 0).write_bytes(text[:length])
        with Gallery.open(torn_gallery, "w") as gallery:
            expected = (length >= first_end) + (length >= last_end)
            assert gallery.sequence == expected
        reference = (before, column_bytes(middle), column_bytes(whole))[expected]
        assert column_bytes(torn_gallery) == reference


def test_replay_repairs_columns_that_were_not_written(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    untouched = crashed(folder, tmp_path / "untouched")
    with Gallery.open(folder, "w") as gallery:
        gallery.fail(0, "lost")
        gallery.apply(np.array([2, 1]), new_vectors(2))
        gallery.add(["more"], new_vectors(1))
        shutil.copy(journal_path(folder, 0), journal_path(untouched, 0))
        with (untouched / "ids.jsonl").open("a") as file:
            file.write('"mor')  # half an id
    for _ in range(2):  # replaying what was replayed changes nothing
        again = crashed(untouched, tmp_path / "again")
        Gallery.open(again, "w").close()
        assert column_bytes(again) == column_bytes(folder)
        with Gallery.open(again) as gallery:
            assert [failure.reason for failure in gallery.failures()] == ["lost"]
        shutil.rmtree(again)
        # Dies after the replay, before its checkpoint.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Gallery, "checkpoint", lambda _: None)
            Gallery.open(untouched, "w").close()


def test_damage_before_the_end_is_no_torn_tail(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w") as gallery:
        for row in range(3):
            gallery.apply(np.array([row]), new_vectors(1))
        copy = crashed(folder, tmp_path / "copy")
    journal = journal_path(copy, 0)
    text = bytearray(journal.read_bytes())
    text[60] ^= 1
    journal.write_bytes(text)
    with pytest.raises(ValueError, match="damaged at byte 20 with records after it"):
        Gallery.open(copy, "w")
    journal.write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="not a gallery's journal"):
        Gallery.open(copy, "w")


def test_full_disk_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "g", 3)
    write = os.pwrite

    def full(descriptor: int, data: memoryview, offset: int) -> int:
        if len(data) > 10:  # half of it still fits
            return write(descriptor, data[: len(data) // 2], offset)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([2]), new_vectors(1))
        before, length = column_bytes(folder), journal_path(folder, 0).stat().st_size
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(OSError, match="No space left"):
            gallery.apply(np.array([1]), new_vectors(1))
        monkeypatch.undo()
        assert column_bytes(folder) == before
        assert journal_path(folder, 0).stat().st_size == length
        gallery.apply(np.array([0]), new_vectors(1))
        copy = crashed(folder, tmp_path / "copy")
    Gallery.open(copy, "w").close()
    assert column_bytes(copy) == column_bytes(folder)


def test_full_disk_when_columns_must_grow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w") as gallery:
        before = column_bytes(folder)
        monkeypatch.setattr(os, "posix_fallocate", full)
        with pytest.raises(OSError, match="No space left"):
            gallery.add(["more"], new_vectors(1))
        monkeypatch.undo()
        assert (gallery.size, gallery.sequence) == (3, 0)
        assert column_bytes(folder) == before
        gallery.add(["more"], new_vectors(1))
        assert gallery.size == 4


def test_writer_that_failed_between_journal_and_columns_must_be_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w") as gallery:
        monkeypatch.setattr(writing.Columns, "write", broken)
        with pytest.raises(OSError, match="Input/output"):
            gallery.apply(np.array([2]), new_vectors(1))
        monkeypatch.undo()
        with pytest.raises(ValueError, match="close and open it again"):
            gallery.fail(1, "lost")
    with Gallery.open(folder, "w") as gallery:
        np.testing.assert_array_equal(gallery.vectors(np.array([2])), new_vectors(1))


def test_inbox_is_applied_once_although_the_writer_dies(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 4)
    path = submit(folder, Message(kind="result", reasons={1: "lost", 2: "lost"}))
    content = path.read_bytes()
    with Gallery.open(folder, "w") as gallery:
        gallery.apply_pending()
        copy = crashed(folder, tmp_path / "copy")
    (copy / "pending" / path.name).write_bytes(content)  # its removal did not reach the disk
    with Gallery.open(copy, "w") as gallery:
        assert gallery.apply_pending() == 0
        assert [failure.attempts for failure in gallery.failures()] == [1, 1]


def test_long_journal_is_closed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "CHECKPOINT_BYTES", 1000)
    folder = make(tmp_path / "g", 50)
    with Gallery.open(folder, "w") as gallery:
        for row in range(50):
            gallery.apply(np.array([row]), new_vectors(50)[[row]])
        assert gallery.sequence == 50
        assert gallery.state.generation > 5
        assert len(list(folder.glob("journal-*.bin"))) == 2
        copy = crashed(folder, tmp_path / "copy")
    with Gallery.open(copy, "w") as gallery:
        np.testing.assert_array_equal(gallery.vectors(np.arange(50)), new_vectors(50))


def test_interrupted_roll_back_and_finalise_are_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "_CHUNK", 2)
    z = vectors("z", 5, NEW_DIM)
    folder = make(tmp_path / "g", 5)
    asked = []

    def h(rows: np.ndarray) -> np.ndarray:
        asked.append(rows)
        if len(asked) == 2:
            raise RuntimeError("killed")
        return z[rows]

    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.arange(5), new_vectors(5))
        with pytest.raises(RuntimeError, match="killed"):
            gallery.rollback("transformed", z=h)
    with Gallery.open(folder, "w") as gallery:
        assert gallery.rollback("transformed", z=h) == 3
        np.testing.assert_array_equal(gallery.vectors(np.arange(5)), z)
        gallery.finalise(force=True)
    np.save(folder / "s.npy", np.zeros(3))  # a removal that did not reach the disk
    Gallery.open(folder, "w").close()
    assert not (folder / "s.npy").exists()


def test_killed_creation_leaves_no_gallery_and_is_cleared_away(tmp_path: Path) -> None:
    changes = run_killed(make, tmp_path / "count", kill_at=0, preload=PRELOAD)
    for kill_at in range(1, changes + 1, 7):
        folder = tmp_path / "g"
        run_killed(make, folder, kill_at=kill_at, preload=PRELOAD)
        assert not folder.exists() or (folder / "gallery.json").exists()
        shutil.rmtree(folder, ignore_errors=True)
    make(folder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count", "g"]


def test_journal_keeps_arrays_bit_by_bit(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / "journal", base=41)
    columns = {
        "vec": new_vectors(2).astype(np.float16),
        "version": np.array([2, 65535], np.uint16),
        "nothing": np.empty((0, 3), np.float32),
    }
    record = Record(op="new", rows=np.array([5, 1]), columns=columns, extra={"ids": ["\n\u00e9"]})
    assert [journal.append(record), journal.append(Record(op="x"))] == [42, 43]
    journal.close()
    first, second = read_entries(tmp_path / "journal")
    assert (first.sequence, first.record.op, first.record.extra) == (42, "new", record.extra)
    np.testing.assert_array_equal(first.record.rows, record.rows)
    for name, value in columns.items():
        assert first.record.columns[name].dtype == value.dtype
        np.testing.assert_array_equal(first.record.columns[name], value)
    (again,) = read_entries(tmp_path / "journal", offset=first.end)
    assert again.sequence == second.sequence == 43
