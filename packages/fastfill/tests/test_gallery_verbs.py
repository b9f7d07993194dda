"""The verbs of a gallery, as a user calls them."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from gallery_files import cards, make, new_vectors

from fastfill.gallery import Gallery, Message, read_control, submit, verbs
from fastfill.gallery.progress import note_progress, speed
from fastfill.gallery.status import as_json
from fastfill.plan import plan


def save_items(folder: Path, ids: list[str], *, weights: str = "sha-new") -> dict[str, Path]:
    np.save(folder / "more.npy", new_vectors(len(ids)))
    (folder / "more.txt").write_text("".join(f"{item}\n" for item in ids))
    card = cards().new.to_json() | {"weights_sha256": weights}
    (folder / "more.card.json").write_text(json.dumps(card))
    return {"vectors": folder / "more.npy", "ids": folder / "more.txt"}


def test_status_says_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "g", 4)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([3]), new_vectors(1))
        gallery.fail(2, "no file\n")
        gallery.delete(["item 1"])
    verbs.status(folder)
    text = capsys.readouterr().out
    assert "backfilling" in text
    assert "33.3%" in text
    assert "failed 1 times: 'item 2': no file" in text
    verbs.status(folder, json=True)
    facts = json.loads(capsys.readouterr().out)
    assert facts["counts"]["waiting"] == 2
    assert facts["progress"] == pytest.approx(1 / 3)
    assert (facts["old"], facts["new"], facts["paused"]) == (["old"], "new", False)
    assert [failure["id"] for failure in facts["failures"]] == ["item 2"]
    assert facts["predicted_quality"] is None


def test_status_interpolates_the_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "g", 4)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([3]), new_vectors(1))
        (folder / "plan.json").write_text('{"predicted": [[0, 0.5], [0.5, 0.7], [1, 0.8]]}')
        assert as_json(gallery)["predicted_quality"] == pytest.approx(0.6)
        for damaged in (
            *("{", "[]", '{"predicted": [1, 2]}', '{"predicted": "x"}'),
            *('{"predicted": [[0, NaN]]}', f'{{"predicted": [[0, {10**400}]]}}'),
        ):
            (folder / "plan.json").write_text(damaged)
            facts = as_json(gallery)
            assert facts["predicted_quality"] is None
            assert "run plan again" in facts["problem"]
    verbs.status(folder)
    shown = capsys.readouterr().out
    assert "problem" in shown
    assert "plan.json" in shown


def test_time_left_comes_from_the_late_speed(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 30)
    now = time.time()
    for seconds, done in ((20, 0), (10, 5), (9.5, 6), (5, 10)):
        note_progress(folder, lambda done=done: done, now=now - seconds)
    with Gallery.open(folder) as gallery:
        facts = as_json(gallery)
    assert facts["items_per_s"] == pytest.approx(10 / 15)
    assert facts["seconds_left"] == pytest.approx(45)
    verbs.pause(folder)
    with Gallery.open(folder) as gallery:
        assert as_json(gallery)["items_per_s"] is None


def test_speed_looks_no_further_back_than_the_last_pause(tmp_path: Path) -> None:
    for at, done in ((0, 0), (10, 100), (500, 100), (502, 110), (504, 120)):
        note_progress(tmp_path, lambda done=done: done, now=at)
    late = speed(tmp_path, now=510)
    assert late is not None
    assert late == (5.0, 504.0)
    assert speed(tmp_path, now=900) is None
    note_progress(tmp_path, lambda: 7, now=506)  # rolled back
    assert speed(tmp_path, now=507) is None
    (tmp_path / "progress.json").write_text("[[")
    assert speed(tmp_path) is None


def test_pause_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "g", 2)
    verbs.pause(folder)
    assert read_control(folder).paused
    verbs.resume(folder, rate=20)
    assert "at most 20 items/s" in capsys.readouterr().out
    verbs.resume(folder)
    assert (read_control(folder).paused, read_control(folder).rate) == (False, 20)
    with pytest.raises(FileNotFoundError, match="no gallery"):
        verbs.pause(tmp_path)


def test_items_come_and_go(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 2)
    files = save_items(tmp_path, ["x", "y"])
    verbs.add_items(folder, **files)
    with pytest.raises(ValueError, match="are there already"):
        verbs.add_items(folder, **files)
    verbs.delete_items(folder, ids=files["ids"])
    with pytest.raises(ValueError, match="no item 'x'"):
        verbs.delete_items(folder, ids=files["ids"])
    with Gallery.open(folder) as gallery:
        assert (gallery.size, gallery.counts().live) == (4, 2)


def test_items_come_and_go_while_somebody_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "g", 2)
    files = save_items(tmp_path, ["x", "y"])
    (tmp_path / "gone.txt").write_text("item 0\n")
    with Gallery.open(folder, "w") as gallery:
        verbs.add_items(folder, **files)
        verbs.delete_items(folder, ids=tmp_path / "gone.txt")
        assert "1 items will be deleted by the running backfill" in capsys.readouterr().out
        assert as_json(gallery)["inbox"] == 2
        gallery.apply_pending()
        with pytest.raises(ValueError, match="'x' is there already"):
            verbs.add_items(folder, **files)
        with pytest.raises(ValueError, match="no item 'item 0'"):
            verbs.delete_items(folder, ids=tmp_path / "gone.txt")
        assert [item in gallery for item in ("item 0", "item 1", "x", "y")] == [
            False,
            True,
            True,
            True,
        ]


def test_items_of_another_model_are_refused(tmp_path: Path) -> None:
    folder = make(tmp_path / "g", 2)
    files = save_items(tmp_path, ["x"], weights="other")
    with pytest.raises(ValueError, match=r"expected new \(sha-new\), got new \(other\)"):
        verbs.add_items(folder, **files)
    (tmp_path / "more.card.json").unlink()
    with pytest.raises(FileNotFoundError, match="no card says which model made"):
        verbs.add_items(folder, **files)
    files = save_items(tmp_path, ["x"])
    (tmp_path / "more.txt").write_text("x\ny\n")
    with pytest.raises(ValueError, match="2 lines for 1 vectors"):
        verbs.add_items(folder, **files)


def test_roll_back_and_finalise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make(tmp_path / "g", 2)
    verbs.rollback(folder, to="old")
    assert "searched with old" in capsys.readouterr().out
    assert read_control(folder).paused
    folder = make(tmp_path / "h", 2)
    with pytest.raises(ValueError, match="2 of 2 items have no vector"):
        verbs.finalise(folder)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.arange(2), new_vectors(2))
    verbs.finalise(folder)
    assert "final, 2 of 2 items" in capsys.readouterr().out
    verbs.status(folder)
    assert "final" in capsys.readouterr().out


def test_way_forward_leaves_the_pause_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "g", 2)
    with Gallery.open(folder, "w") as gallery:
        gallery.apply(np.array([0]), new_vectors(1))
    verbs.rollback(folder, to="old")
    capsys.readouterr()
    verbs.rollback(folder, to="new")
    assert (
        "2 items back again, searched with new; the backfill is paused" in capsys.readouterr().out
    )
    verbs.rollback(folder, to="old")
    verbs.resume(folder)
    verbs.rollback(folder, to="new")
    assert not read_control(folder).paused
    with Gallery.open(folder) as gallery:
        assert gallery.counts().new == 1
    with pytest.raises(ValueError, match="needs h"):
        verbs.rollback(folder)
    assert not read_control(folder).paused


def test_verbs_need_no_torch() -> None:
    code = "import sys, fastfill.gallery.verbs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "damage",
    [b"PK\x03\x04garbage", b"", b"\x93NUMPY", None],
    ids=["zip", "empty", "npy", "cut"],
)
def test_damaged_changes_are_set_aside(tmp_path: Path, damage: bytes | None) -> None:
    folder = make(tmp_path / "g", 4)
    path = submit(folder, Message(kind="result", rows=np.array([1]), vectors=new_vectors(1)))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    submit(folder, Message(kind="result", rows=np.array([2]), vectors=new_vectors(1)))
    with Gallery.open(folder, "w") as gallery:
        assert gallery.apply_pending() == 2
        assert gallery.counts().new == 1
        assert as_json(gallery)["rejected"] == 1


@pytest.mark.parametrize(
    ("verb", "instead"),
    [
        (verbs.finalise, "end it, finalise, and start it again"),
        (
            lambda folder: verbs.rollback(folder, to="old"),
            r'POST {"to": "old"} to its /api/rollback',
        ),
        (plan, "End serve and backfill, plan, and start them again"),
    ],
    ids=["finalise", "rollback", "plan"],
)
def test_verbs_that_write_say_what_to_do_where_another_process_writes(
    tmp_path: Path, verb: Callable[[Path], None], instead: str
) -> None:
    folder = make(tmp_path / "g", 4)
    with Gallery.open(folder, "w"), pytest.raises(ValueError, match="being written by") as caught:
        verb(folder)
    assert instead in str(caught.value)
    assert not read_control(folder).paused
