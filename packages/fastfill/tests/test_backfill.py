"""The backfill: order, resumption after kills, workers, failures, limits, wishes from outside."""

import os
import shutil
import signal
import threading
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from backfill_files import (
    ITEMS,
    Backfill,
    broken_encoder,
    draw,
    forgetful_encoder,
    name_of,
    run_in,
)

from fastfill.backfill import summary
from fastfill.backfill_run import run_backfill
from fastfill.cli import APP
from fastfill.encoders import load_encoder
from fastfill.gallery import Gallery, Leases, Message, Status, set_paused, set_rate, submit
from fastfill.gallery.pending import waiting
from fastfill.sources import open_source
from fastfill.workers import WorkerName, count_workers
from tenfold.jobs import JobError
from tenfold.keyed import generator
from tenfold.testing_kills import run_killed


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Backfill:
    """An undisturbed run, which no test changes."""
    there = Backfill(tmp_path_factory.mktemp("finished"))
    there.run()
    return there


def column_bytes(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*folder.glob("*.npy"), folder / "ids.jsonl"]}


def test_every_item_gets_the_new_vector_best_first(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    report = there.run()
    assert (report.tried, report.failed, report.stopped_by) == (ITEMS, 0, None)
    assert report.counts.new == report.counts.live == ITEMS
    # Batches by falling s; inside of one by the place of the original.
    batches = np.split(np.arange(ITEMS), range(8, ITEMS, 8))[::-1]
    assert there.seen() == np.concatenate(batches).tolist()
    source, encoder = open_source(str(there.images)), load_encoder(str(there.model))
    expected = encoder.embed_images([source.load(name_of(n)) for n in range(ITEMS)])
    np.testing.assert_allclose(there.open().column("vec"), expected, rtol=1e-5, atol=1e-6)
    again = there.run()
    assert again.tried == 0
    assert len(there.seen()) == ITEMS
    assert not [path for path in (there.gallery / "workers").iterdir() if path.is_dir()]


def check_killed_run(finished: Backfill, fresh: Path, root: Path, moment: int) -> None:
    """Kill a run at a moment, go on, and compare with the undisturbed one."""
    shutil.copytree(fresh, root)
    run_killed(run_in, root, kill_at=moment, preload=["fastfill.backfill_run"])
    run_in(root)
    assert column_bytes(root / "gallery") == column_bytes(finished.gallery)
    seen = [int(line) for line in (root / "new.log").read_text().split()]
    times = np.bincount(seen, minlength=ITEMS)
    assert times.min() == 1
    assert times.max() <= 2
    assert (times - 1).sum() <= 8  # the batch in flight
    assert not list((root / "gallery").rglob("vectors.npy"))


def kill_moments(root: Path, count: int) -> list[int]:
    """Return moments spread over a whole run, drawn at random inside of equal stretches."""
    total = run_killed(run_in, root, kill_at=0, preload=["fastfill.backfill_run"])
    edges = np.linspace(1, total, count + 1).astype(int)
    random = generator("kill moments")
    return [int(random.integers(low, high)) for low, high in pairwise(edges)]


@pytest.mark.parametrize("count", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_backfill_goes_on_to_the_same_bytes(
    finished: Backfill, tmp_path: Path, count: int
) -> None:
    fresh = tmp_path / "fresh"
    Backfill(fresh)
    shutil.copytree(fresh, tmp_path / "whole")
    for moment in kill_moments(tmp_path / "whole", count):
        check_killed_run(finished, fresh, tmp_path / f"killed-{moment}", moment)


def test_two_workers_give_the_same_bytes(finished: Backfill, tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    report = there.run(workers=2)
    assert report.tried == ITEMS
    assert column_bytes(there.gallery) == column_bytes(finished.gallery)
    assert sorted(there.seen()) == list(range(ITEMS))


def test_missing_and_corrupt_originals_fail_and_stay_searchable(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    (there.images / name_of(39)).unlink()
    (there.images / name_of(5)).write_bytes(b"no image")
    before = np.array(there.open().column("vec"))
    report = there.run()
    assert (report.tried, report.failed) == (ITEMS, 2)
    assert {failure.id for failure in report.failures} == {name_of(5), name_of(39)}
    gallery = there.open()
    np.testing.assert_array_equal(gallery.column("vec")[[5, 39]], before[[5, 39]])
    assert (gallery.statuses()[[5, 39]] == Status.FAILED).all()
    assert len(gallery.live_rows()) == ITEMS
    assert there.run().tried == 0  # their time has not come
    draw(there.images / name_of(5), 5)
    again = there.run(retry=True)
    assert (again.tried, again.failed) == (2, 1)
    text = summary(there.gallery, again)
    assert "1 items embedded, 1 failed; 39 of 40 (97.5%)" in text
    assert f"{name_of(39)}: is missing" in text


def test_items_added_and_deleted_in_the_middle(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    there.run(max_items=16)
    fresh = np.full((1, 6), 0.5, dtype=np.float32)
    submit(there.gallery, Message(kind="add", ids=["fresh"], vectors=fresh))
    submit(there.gallery, Message(kind="delete", ids=[name_of(0), name_of(39)]))
    report = there.run()
    assert report.tried == ITEMS - 16 - 1
    assert 0 not in there.seen()
    gallery = there.open()
    assert report.counts.new == report.counts.live == ITEMS - 1
    np.testing.assert_array_equal(gallery.vectors(np.array([gallery.row_of("fresh")])), fresh)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_stop_at_is_exact(tmp_path: Path, workers: int) -> None:
    there = Backfill(tmp_path)
    (there.images / name_of(38)).unlink()
    report = there.run(stop_at=0.3, workers=workers)
    assert report.counts.new == 12
    versions = there.open().versions()
    assert versions[np.r_[27:38, 39]].tolist() == [2] * 12  # the failed one did not count
    assert there.run(stop_at=0.3).tried == 0


def test_max_items_counts_what_is_tried(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    assert there.run(max_items=11).tried == 11
    assert sorted(there.seen()) == list(range(29, 40))


def test_pause_holds_and_resume_goes_on(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    set_paused(there.gallery, paused=True)
    seen_while_paused = []

    def resume() -> None:
        time.sleep(0.8)
        seen_while_paused.extend(there.seen())
        set_paused(there.gallery, paused=False)

    thread = threading.Thread(target=resume)
    thread.start()
    report = there.run()
    thread.join()
    assert seen_while_paused == []
    assert report.tried == ITEMS


def test_pause_in_the_middle_stops_after_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Backfill(tmp_path)
    pauses = []

    def sleep(self: object, seconds: float) -> None:
        pauses.append(len(there.seen()))
        set_paused(there.gallery, paused=False)

    apply = Gallery.apply

    def apply_and_pause(self: Gallery, *arguments: np.ndarray) -> object:
        set_paused(there.gallery, paused=len(there.seen()) == 16)
        return apply(self, *arguments)

    monkeypatch.setattr("fastfill.stopping.StopSignal.sleep", sleep)
    monkeypatch.setattr(Gallery, "apply", apply_and_pause)
    assert there.run().tried == ITEMS
    assert pauses == [16]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signal_ends_after_the_batch_and_says_how_to_go_on(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    there = Backfill(tmp_path)
    apply = Gallery.apply

    def apply_and_signal(self: Gallery, *arguments: np.ndarray) -> object:
        os.kill(os.getpid(), number)
        return apply(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Gallery, "apply", apply_and_signal)
        words = ["backfill", str(there.gallery), "--model", str(there.model)]
        words += ["--source", str(there.images), "--batch_size", "8", "--max_items", "30"]
        assert APP.main(words) == code
    out = capsys.readouterr().out
    assert "8 items embedded, 0 failed" in out
    command = out.partition("go on with: fastfill ")[2].split()
    assert command[-4:] == ["--max_items", "22", "--batch_size", "8"]
    assert APP.main(command) == 0
    assert there.open().counts().new == 30
    assert not Leases(there.gallery).held()


def test_results_go_to_the_inbox_while_another_process_writes(
    finished: Backfill, tmp_path: Path
) -> None:
    there = Backfill(tmp_path)
    done = threading.Event()

    def serve() -> None:
        with Gallery.open(there.gallery, "w") as gallery:
            opened.set()
            while not done.is_set() or waiting(there.gallery):
                gallery.apply_pending()
                time.sleep(0.05)

    opened = threading.Event()
    writer = threading.Thread(target=serve)
    writer.start()
    opened.wait()
    report = there.run()
    done.set()
    writer.join()
    assert report.counts.new == ITEMS
    assert sorted(there.seen()) == list(range(ITEMS))
    assert column_bytes(there.gallery) == column_bytes(finished.gallery)


def test_two_runs_at_a_time_share_the_work(finished: Backfill, tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    reports = []
    other = threading.Thread(target=lambda: reports.append(there.run(batch_size=3)))
    other.start()
    reports.append(there.run(batch_size=3))
    other.join()
    assert sum(report.tried for report in reports) == ITEMS
    assert sorted(there.seen()) == list(range(ITEMS))
    np.testing.assert_allclose(
        there.open().column("vec"), finished.open().column("vec"), rtol=1e-5, atol=1e-6
    )
    assert not Leases(there.gallery).held()
    assert not waiting(there.gallery)


def test_a_result_of_before_a_roll_back_is_refused(
    finished: Backfill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Backfill(tmp_path)
    z = np.array(there.open().column("vec"))
    new_after: list[int] = []
    with Gallery.open(there.gallery, "w") as writer:

        def late(folder: Path, message: Message, *, sender: str) -> None:
            if not new_after:  # the first batch is embedded and not yet left
                writer.rollback("transformed", z=lambda rows: z[rows])
            submit(folder, message, sender=sender)
            writer.apply_pending()
            new_after.append(writer.counts().new)

        monkeypatch.setattr("fastfill.result_sink.submit", late)
        assert there.run(max_items=16).tried == 16
        np.testing.assert_array_equal(writer.column("vec")[:32], z[:32])
    assert new_after == [0, 8]
    assert there.seen() == [*range(32, 40)] * 2  # nothing is lost: the batch came again
    assert not Leases(there.gallery).held()
    monkeypatch.undo()
    there.run()
    assert column_bytes(there.gallery) == column_bytes(finished.gallery)


@pytest.mark.slow
def test_ray_gives_the_same_bytes(
    finished: Backfill, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    there = Backfill(tmp_path)
    report = run_backfill(there.gallery, there.job(), workers=2, ray_address="local")
    assert (report.tried, report.failed) == (ITEMS, 0)
    assert sorted(there.seen()) == list(range(ITEMS))
    assert column_bytes(there.gallery) == column_bytes(finished.gallery)
    assert not Leases(there.gallery).held()


def test_inbox_of_a_writer_that_has_gone_is_applied(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    lock = Gallery.open(there.gallery, "w")
    closing = threading.Timer(1.5, lock.close)
    closing.start()
    report = there.run()
    closing.join()
    assert report.counts.new == ITEMS
    assert sorted(there.seen()) == list(range(ITEMS))
    assert not waiting(there.gallery)


def test_rows_of_other_workers_are_left_until_their_lease_ends(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    others = Leases(there.gallery).claim("elsewhere-0", range(30, 40), ttl=2.0)
    assert len(others) == 10
    assert there.run().tried == ITEMS
    assert sorted(there.seen()[:30]) == list(range(30))


def test_rate_limits_and_may_be_changed_from_outside(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    set_rate(there.gallery, 20.0)
    start = time.monotonic()
    assert there.run(max_items=16).tried == 16
    # The first batch at once, the second when it is paid for.
    assert time.monotonic() - start >= 8 / 20


def test_the_gallery_s_rate_is_divided_among_all_workers(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    set_rate(there.gallery, 40.0)
    assert count_workers(there.gallery) == 0
    with WorkerName(there.gallery), WorkerName(there.gallery) as other:
        assert count_workers(there.gallery) == 2
        other.release()
        assert count_workers(there.gallery) == 1
        start = time.monotonic()
        assert there.run(max_items=16).tried == 16
    # Half of the rate: the second batch of eight is paid for after eight twentieths of a second.
    assert time.monotonic() - start >= 8 / 20


def test_batch_is_halved_where_memory_runs_out(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    assert there.run(load=forgetful_encoder).counts.new == ITEMS
    assert sorted(there.seen()) == list(range(ITEMS))


def test_bad_vectors_fail_and_a_broken_model_ends_the_run(tmp_path: Path) -> None:
    there = Backfill(tmp_path)
    with pytest.raises(JobError, match="a batch of 8 items: RuntimeError: the device is gone"):
        there.run(load=broken_encoder)
    gallery = there.open()
    assert {failure.reason for failure in gallery.failures()} == {
        "zero vector",
        "NaN, infinite or too large a number",
    }
    assert gallery.counts().new == 6
    assert not Leases(there.gallery).held()
    assert there.run().tried == ITEMS - 8
    assert there.run(retry=True).counts.new == ITEMS
