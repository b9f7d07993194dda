"""What may be done with a gallery, and what it then says."""

import json
from pathlib import Path

import numpy as np
import pytest
from gallery_files import NEW_DIM, OLD_DIM, cards, make, new_vectors, vectors

from fastfill.gallery import (
    Gallery,
    Message,
    RetryPolicy,
    Status,
    Version,
    read_control,
    set_paused,
    set_rate,
    submit,
)


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_new_gallery_holds_what_it_was_given(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 10)
    with Gallery.open(folder) as gallery:
        assert gallery.size == 10
        assert gallery.progress == 0
        assert gallery.counts()._asdict() == {
            "live": 10,
            "new": 0,
            "transformed": 10,
            "old": 0,
            "waiting": 10,
            "failed": 0,
            "deleted": 0,
        }
        np.testing.assert_array_equal(
            gallery.vectors(rows(3, 1)), vectors("z", 10, NEW_DIM)[[3, 1]]
        )
        np.testing.assert_array_equal(gallery.column("old"), vectors("old", 10, OLD_DIM))
        assert gallery.id_of(rows(7, 2)) == ["item 7", "item 2"]
        assert gallery.row_of("item 7") == 7
        assert "item 10" not in gallery
        assert gallery.describe(rows(0)) == ["h(old)"]


def test_queue_follows_falling_log_variance_and_ties_keep_their_order(tmp_path: Path) -> None:
    s = np.array([1, 5, 1, 5, 0], dtype=np.float32)
    with Gallery.open(make(tmp_path / "g", 5, s=s)) as gallery:
        assert gallery.queue(9).tolist() == [1, 3, 0, 2, 4]
        assert gallery.queue(2, skip={3, 1}).tolist() == [0, 2]
        assert gallery.queue(0).tolist() == []


def test_queue_goes_on_behind_what_is_done_in_a_large_gallery(tmp_path: Path) -> None:
    count = 150_000
    folder = make(tmp_path / "g", count, s=np.zeros(count, dtype=np.float32))
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.arange(140_000), new_vectors(140_000))
        assert gallery.queue(3).tolist() == [140_000, 140_001, 140_002]
        assert gallery.queue(3, skip=[140_001]).tolist() == [140_000, 140_002, 140_003]
        assert len(gallery.queue(count)) == 10_000


def test_apply_replaces_vectors_once(tmp_path: Path) -> None:
    new = new_vectors(10)
    with Gallery.open(make(tmp_path / "g", 10), "w") as gallery:
        gallery.delete(["item 4"])
        applied = gallery.apply(rows(9, 4, 8), new[[9, 4, 8]])
        assert applied.rows.tolist() == [9, 8]
        assert applied.passed_over.tolist() == [4]
        assert gallery.apply(rows(9), new[[0]]).passed_over.tolist() == [9]
        np.testing.assert_array_equal(gallery.vectors(rows(9, 8)), new[[9, 8]])
        assert gallery.queue(3).tolist() == [7, 6, 5]
        assert gallery.describe(rows(9)) == ["new"]
        assert gallery.progress == pytest.approx(2 / 9)


@pytest.mark.parametrize(
    ("bad", "reason"), [(np.nan, "NaN"), (np.inf, "infinite"), (0, "zero vector")]
)
def test_bad_vectors_count_as_failures(tmp_path: Path, bad: float, reason: str) -> None:
    new = new_vectors(2)
    new[1] = bad
    folder = make(tmp_path / "g", 4)
    with Gallery.open(folder, "w") as gallery:
        applied = gallery.apply(rows(0, 1), new)
        assert applied.rows.tolist() == [0]
        assert list(applied.rejected) == [1]
        assert gallery.counts().failed == 1
        np.testing.assert_array_equal(gallery.vectors(rows(1)), vectors("z", 4, NEW_DIM)[[1]])
        assert [(f.id, f.attempts) for f in gallery.failures()] == [("item 1", 1)]
        assert reason in gallery.failures()[0].reason


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with Gallery.open(make(tmp_path / "g", 2, dtype="float16"), "w") as gallery:
        applied = gallery.apply(rows(0, 1), np.array([[1e6] * 4, [2.0] * 4], np.float32))
        assert (applied.rows.tolist(), list(applied.rejected)) == ([1], [0])
        assert gallery.vectors(rows(1)).dtype == np.float32


def test_cosine_gallery_normalises_what_comes_in(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3, cards=cards("cosine"))
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(rows(1), 5 * new_vectors(1))
        gallery.add(["more"], 7 * new_vectors(1))
        lengths = np.linalg.norm(gallery.vectors(gallery.live_rows()), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_failed_item_stays_and_comes_back_later_and_later(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    retry = RetryPolicy(first_s=10, max_attempts=3)
    with Gallery.open(folder, "w", retry=retry) as gallery:
        for attempt, wait in ((1, 10), (2, 20)):
            gallery.fail(2, f"no file {attempt}")
            (failure,) = gallery.failures()
            assert (failure.reason, failure.attempts) == (f"no file {attempt}", attempt)
            assert gallery.next_retry() == pytest.approx(failure.at + wait)
            assert gallery.queue(5, now=failure.at + wait - 1).tolist() == [1, 0]
            assert gallery.queue(5, now=failure.at + wait).tolist() == [2, 1, 0]
        gallery.fail(2, "no file 3")
        assert gallery.queue(5, now=1e12).tolist() == [1, 0]
        assert gallery.next_retry() is None
        assert 2 in gallery.live_rows()
        assert gallery.retry_failed() == 1
        assert gallery.queue(5).tolist() == [2, 1, 0]
        gallery.fail(2, "again")
    with Gallery.open(folder, "w", retry=retry) as gallery:
        assert gallery.queue(5).tolist() == [1, 0]
        gallery.apply(rows(2), new_vectors(1))
        assert gallery.failures() == []
        assert gallery.column("attempts")[2] == 0


def test_added_items_are_new_and_not_in_the_queue(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    added = new_vectors(2)
    with Gallery.open(folder, "w") as gallery:
        assert gallery.add(["a\nb", "\u00e9"], added).tolist() == [3, 4]
        assert gallery.counts().new == 2
        assert gallery.queue(9).tolist() == [2, 1, 0]
    with Gallery.open(folder) as gallery:
        assert gallery.id_of(rows(3, 4)) == ["a\nb", "\u00e9"]
        assert gallery.row_of("a\nb") == 3
        np.testing.assert_array_equal(gallery.vectors(rows(3, 4)), added)


def test_deleted_items_are_gone_and_erased_and_may_come_again(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w") as gallery:
        gallery.fail(1, "lost")
        gallery.delete(["item 2", "item 1"])
        assert gallery.queue(9, now=1e12).tolist() == [0]
        assert gallery.live_rows().tolist() == [0]
        assert not gallery.column("vec")[1:].any()
        assert not gallery.column("old")[1:].any()
        gallery.fail(2, "too late")
        assert gallery.counts().failed == 0
        with pytest.raises(ValueError, match="no item 'item 2'"):
            gallery.row_of("item 2")
        assert gallery.add(["item 2"], new_vectors(1)).tolist() == [3]
        assert gallery.row_of("item 2") == 3


def test_order_may_be_changed_and_leave_items_out(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 5)
    with Gallery.open(folder, "w") as gallery, Gallery.open(folder) as reader:
        assert reader.queue(1).tolist() == [4]
        gallery.set_order(rows(2, 0, 1))
        assert gallery.queue(9).tolist() == [2, 0, 1]
        reader.refresh()
        assert reader.queue(9).tolist() == [2, 0, 1]


def test_failed_items_that_an_order_leaves_out_do_not_come(tmp_path: Path) -> None:
    with Gallery.open(make(tmp_path / "g", 5), "w", retry=RetryPolicy(first_s=0)) as gallery:
        gallery.fail(1, "lost")
        gallery.set_order(rows(3, 4))
        assert gallery.queue(9, now=1e12).tolist() == [3, 4]
        assert gallery.next_retry() is None
        gallery.fail(3, "lost")
        assert gallery.queue(9, now=1e12).tolist() == [3, 4]
        gallery.finalise(force=True)
        assert gallery.next_retry() is None


def test_rows_deleted_while_batches_are_read_do_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "g", 6, cards=cards("cosine"))
    read = Gallery.vectors

    def delete_first(reader: Gallery, wanted: np.ndarray) -> np.ndarray:
        writer.delete([f"item {wanted[-1]}"])
        return read(reader, wanted)

    with Gallery.open(folder, "w") as writer, Gallery.open(folder) as reader:
        monkeypatch.setattr(Gallery, "vectors", delete_first)
        batches = list(reader.batches(3))
    assert [batch.tolist() for batch, _ in batches] == [[0, 1], [3, 4]]
    for _, found in batches:
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 3)
    with Gallery.open(folder, "w"), pytest.raises(ValueError, match=r"being written by process \d"):
        Gallery.open(folder, "w")
    with Gallery.open(folder, "w") as gallery:
        gallery.fail(0, "reason")


def test_reader_may_not_write(tmp_path: Path) -> None:
    with (
        Gallery.open(make(tmp_path / "g", 3)) as gallery,
        pytest.raises(ValueError, match="not open for writing"),
    ):
        gallery.fail(0, "reason")


def test_inbox_is_applied_in_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 5)
    new = new_vectors(5)
    result = Message(kind="result", rows=rows(0, 1), vectors=new[:2], reasons={2: "lost"})
    submit(folder, result, sender="worker/1")
    submit(folder, Message(kind="add", ids=["more"], vectors=new[4:]))
    submit(folder, Message(kind="delete", ids=["item 4", "more"]))
    with Gallery.open(folder, "w") as gallery:
        assert gallery.apply_pending(limit=1) == 1
        assert gallery.size == 5
        assert gallery.apply_pending() == 2
        assert gallery.apply_pending() == 0
        assert gallery.statuses().tolist() == [0, 0, 1, 0, 2, 2]
        assert gallery.versions()[:2].tolist() == [2, 2]
        np.testing.assert_array_equal(gallery.vectors(rows(0, 1)), new[:2])
    assert list((folder / "pending").iterdir()) == []


def test_bad_messages_are_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = make(tmp_path / "g", 2)
    (folder / "pending" / "0.npz").write_bytes(b"not a zip")
    submit(folder, Message(kind="delete", ids=["nobody"]))
    submit(folder, Message(kind="add", ids=["item 0"], vectors=new_vectors(1)))
    submit(folder, Message(kind="result", rows=rows(7), vectors=new_vectors(1)))
    with Gallery.open(folder, "w") as gallery:
        gallery.apply_pending()
        assert gallery.counts().live == 2
        assert gallery.sequence == 0
    assert [path.suffix for path in (folder / "pending").iterdir()] == [".rejected"] * 4
    assert "no item 'nobody'" in caplog.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"ids": ["a", "b", "a"]}, "1 ids are there twice, the first is 'a'"),
        ({"ids": ["a", "", "c"]}, "must be text, got '' as number 1"),
        ({"ids": ["a", "b"]}, "2 ids but more vectors"),
        ({"ids": list("abcd")}, "4 ids but 3 vectors"),
        ({"z": np.zeros((3, 4), np.float32)}, "3 of 3 transformed vectors.*zero vector"),
        ({"z": np.ones((3, 5), np.float32)}, r"z must be floating \[n, 4\]"),
        ({"z": np.ones((2, 4), np.float32)}, "z has 2 rows, old has 3"),
        ({"old": np.ones((3, 4), np.float32)}, r"old must be \[n, 3\]"),
        ({"old": np.full((3, 3), np.nan, np.float32)}, "are not finite"),
        ({"s": np.array([0, np.nan, 1])}, "s must be 3 finite numbers"),
        ({"vintage": np.array([0, 1, 0])}, r"vintage must lie in 0\.\.0"),
        ({"order": np.array([0, 0, 1])}, "each once at most"),
        ({"order": np.array([0, 3])}, r"rows of 0\.\.2"),
        ({"order": np.array([0.5])}, "an order must be row numbers"),
        ({"dtype": "int8"}, "dtype must be float32 or float16"),
    ],
)
def test_bad_columns_make_no_gallery(
    tmp_path: Path, options: dict[str, object], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        make(tmp_path / "g", 3, **options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda g: g.apply(rows(0), np.ones((1, 3), np.float32)), r"floating \[n, 4\]"),
        (lambda g: g.apply(rows(0), np.ones((1, 4), np.int64)), "got int64"),
        (lambda g: g.apply(rows(0, 1), new_vectors(1)), "2 items need as many vectors, got 1"),
        (lambda g: g.apply(rows(0, 0), new_vectors(2)), "twice in one batch"),
        (lambda g: g.apply(rows(3), new_vectors(1)), r"rows must lie in 0\.\.2, got 3"),
        (lambda g: g.fail(-1, "x"), "got -1"),
        (lambda g: g.add(["item 1"], new_vectors(1)), "1 ids are there already"),
        (lambda g: g.add(["x", "x"], new_vectors(2)), "are there twice"),
        (lambda g: g.add(["x"], np.zeros((1, 4), np.float32)), "1 of 1 vectors are bad"),
        (lambda g: g.delete(["x"]), "no item 'x'"),
        (lambda g: g.rollback("transformed"), "transformed with z"),
        (lambda g: g.rollback("transformed", z=None), "transformed with z"),
    ],
)
def test_bad_changes_change_nothing(tmp_path: Path, change: object, match: str) -> None:
    with Gallery.open(make(tmp_path / "g", 3), "w") as gallery:
        with pytest.raises(ValueError, match=match):
            change(gallery)  # pyright: ignore[reportCallIssue]
        assert gallery.sequence == 0
        assert gallery.counts().transformed == 3


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("nonsense", "is not JSON"),
        ("[1]", "schema"),
        ('{"schema": 99}', "has schema 99, this release reads 2"),
        ('{"schema": 2}', "lacks backend"),
    ],
)
def test_damaged_state_is_refused(tmp_path: Path, content: str, match: str) -> None:
    folder = make(tmp_path / "g", 3)
    (folder / "gallery.json").write_text(content)
    with pytest.raises(ValueError, match=match):
        Gallery.open(folder)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rows", -1),
        ("rows", True),
        ("dtype", "object"),
        ("phase", "done"),
        ("cards", []),
        ("cards", {"new": 1}),
        ("backend", 3),
    ],
)
def test_hostile_state_is_refused(tmp_path: Path, name: str, value: object) -> None:
    folder = make(tmp_path / "g", 3)
    path = folder / "gallery.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: value}))
    with pytest.raises(ValueError, match="damaged"):
        Gallery.open(folder)


def test_missing_gallery_and_column_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no gallery.*init-gallery"):
        Gallery.open(tmp_path, "w")
    folder = make(tmp_path / "g", 3)
    with pytest.raises(FileExistsError, match="exists"):
        make(folder, 3)
    np.save(folder / "s.npy", np.zeros((3, 2), np.float32))
    with pytest.raises(ValueError, match=r"s\.npy holds float32\[2\] a row"):
        Gallery.open(folder)
    (folder / "s.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"s\.npy is missing"):
        Gallery.open(folder)


def test_control_is_kept_and_checked(tmp_path: Path) -> None:
    assert read_control(tmp_path).paused is False
    set_rate(tmp_path, 2.5)
    assert (set_paused(tmp_path, paused=True).rate, read_control(tmp_path).paused) == (2.5, True)
    with pytest.raises(ValueError, match="rate must be > 0"):
        set_rate(tmp_path, 0)
    for content in ('{"pause": 1}', "[]", "{", '{"paused": 1}'):
        (tmp_path / "control.json").write_text(content)
        with pytest.raises(ValueError, match="delete it to start afresh"):
            read_control(tmp_path)


def test_status_and_version_values_are_those_on_disk() -> None:
    assert [int(value) for value in (*Status, *Version)] == [0, 1, 2, 0, 1, 2]
