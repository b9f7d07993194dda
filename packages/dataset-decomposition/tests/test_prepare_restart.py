"""Preparation in parts: the same bytes from any number of workers and after any kill."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import prepare_killed
import pytest
from prepare_corpus import BUCKETS, hashes, make_texts, rows_of, write_jsonl
from prepare_killed import prepare_with_bpe

from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import read_info

pytestmark = pytest.mark.usefixtures("small_parts")


def test_any_number_of_workers_gives_the_same_bytes(corpus: Path, tmp_path: Path):
    results = []
    for workers in (1, 2, 5):
        out = tmp_path / str(workers)
        options: dict[str, Any] = {**BUCKETS, "overflow": "random", "seed": 3}
        heldout = [f"{corpus}/text-*.txt"]
        prepare([f"{corpus}/*.jsonl"], out, heldout=heldout, workers=workers, **options)
        results.append(hashes(out))
    assert results[0] == results[1] == results[2]
    shards = [name for name in results[0] if name.endswith(".tar")]
    assert len(shards) > 20
    assert all(f"D_{k}/shard-0000001.tar" in shards for k in range(3, 8))


def run_until_killed(corpus: Path, out: Path, number: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, prepare_killed.__file__, str(corpus), str(out), str(number)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def check_kills(corpus: Path, tmp_path: Path, count: int) -> None:
    whole = run_until_killed(corpus, tmp_path / "whole", 0)
    assert whole.returncode == 0, whole.stderr
    changes = int(whole.stdout.split("changes")[1])
    expected = hashes(tmp_path / "whole")
    moments = np.random.default_rng(0).permutation(changes - 1)[: count - 1] + 1
    for number in [*moments.tolist(), changes]:
        out = tmp_path / f"killed-{number}"
        assert run_until_killed(corpus, out, number).returncode == -signal.SIGKILL
        prepare_with_bpe(corpus, out)
        assert hashes(out) == expected, f"killed at change {number} of {changes}"


@pytest.fixture(scope="module")
def small_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    for index in range(3):
        write_jsonl(folder / f"{index}.jsonl", make_texts(20 + index, 60))
    (folder / "held.txt").write_text("held out " * 20)
    return folder


def test_a_killed_run_continues_to_the_same_bytes(small_corpus: Path, tmp_path: Path):
    check_kills(small_corpus, tmp_path, 5)


@pytest.mark.slow
def test_a_run_killed_at_any_of_twenty_moments_continues(small_corpus: Path, tmp_path: Path):
    check_kills(small_corpus, tmp_path, 20)


def test_a_run_killed_again_and_again_ends_at_last(small_corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    for number in (30, 60, 90):
        assert run_until_killed(small_corpus, out, number).returncode == -signal.SIGKILL
    assert run_until_killed(small_corpus, out, 0).returncode == 0
    assert run_until_killed(small_corpus, tmp_path / "whole", 0).returncode == 0
    assert hashes(out) == hashes(tmp_path / "whole")


def test_a_finished_folder_is_left_as_it_is(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    prepare([str(corpus)], out, **BUCKETS)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    prepare([str(corpus)], out, workers=2, max_bad=0.5, **BUCKETS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    next(out.glob("D_3/*.tar")).unlink()
    with pytest.raises(ValueError, match=r"damaged: .*D_3.*is missing; prepare anew with --overw"):
        prepare([str(corpus)], out, **BUCKETS)


def test_changed_options_are_refused_and_overwrite_keeps_foreign_files(
    corpus: Path, tmp_path: Path
):
    out = tmp_path / "out"
    texts, held = [f"{corpus}/*.jsonl"], [f"{corpus}/*.txt"]
    prepare(texts, out, tail="keep-small", heldout=held, **BUCKETS)
    (out / "notes.md").write_text("mine")
    (out / "D_4/notes.md").write_text("mine")
    with pytest.raises(ValueError, match=r'max_bucket: 7 -> 6; .*tail: "keep-small" -> "drop"'):
        prepare(texts, out, min_bucket=3, max_bucket=6)
    prepare(texts, out, min_bucket=4, max_bucket=6, overwrite=True)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    assert {"notes.md", "D_4/notes.md"} <= names
    prepare(texts, tmp_path / "fresh", min_bucket=4, max_bucket=6)
    assert names - {"notes.md", "D_4/notes.md"} == set(hashes(tmp_path / "fresh"))


def add(folder: Path) -> None:
    (folder / "c d.txt").write_text("more")


def edit(folder: Path) -> None:
    write_jsonl(folder / "b.jsonl", make_texts(2, 3))


def edit_in_place(folder: Path) -> None:
    path = folder / "b.jsonl"
    path.write_text(path.read_text().replace("aa", "bb", 1))


CHANGES: dict[str, tuple[Any, Any]] = {
    r"input b\.jsonl has other content, [\d,]+ -> [\d,]+ B": (edit, None),
    r"input b\.jsonl has other content, of the same size": (edit_in_place, None),
    r"input c d\.txt was added": (add, None),
    r"input b\.jsonl is gone": (lambda folder: (folder / "b.jsonl").unlink(), None),
    r"input files come in another order": (lambda folder: None, ["b.jsonl", "a.jsonl"]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_inputs_are_refused_and_the_first_is_named(tmp_path: Path, change: str):
    folder, out = tmp_path / "in", tmp_path / "out"
    for index, name in enumerate(("a.jsonl", "b.jsonl")):
        write_jsonl(folder / name, make_texts(index, 50))
    prepare([str(folder)], out, **BUCKETS)
    do, order = CHANGES[change]
    do(folder)
    named = [str(folder / name) for name in order] if order else [str(folder)]
    message = rf"^the input changed since .*out was begun \({change}\); prepare anew with --overw"
    with pytest.raises(ValueError, match=message):
        prepare(named, out, **BUCKETS)
    prepare(named, out, overwrite=True, **BUCKETS)
    assert read_info(out)["inputs"]["files"] == len(list(folder.iterdir()))


def test_a_changed_held_out_input_is_called_so(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(0, 50))
    held = write_jsonl(tmp_path / "held.jsonl", make_texts(1, 5))
    prepare([str(path)], tmp_path / "out", heldout=[str(held)], **BUCKETS)
    write_jsonl(held, make_texts(2, 5))
    with pytest.raises(ValueError, match=r"\(held-out input held\.jsonl has other content"):
        prepare([str(path)], tmp_path / "out", heldout=[str(held)], **BUCKETS)


def test_inputs_that_were_touched_or_copied_are_the_same(tmp_path: Path):
    path = write_jsonl(tmp_path / "a.jsonl", make_texts(0, 50))
    out = tmp_path / "out"
    prepare([str(path)], out, **BUCKETS)
    before = hashes(out)
    os.utime(path, ns=(0, 0))
    prepare([str(path)], out, **BUCKETS)
    (tmp_path / "elsewhere").mkdir()
    copy = path.rename(tmp_path / "elsewhere/a.jsonl")
    prepare([str(copy)], out, **BUCKETS)
    assert hashes(out) == before


def test_a_folder_that_is_not_ours_is_refused(corpus: Path, tmp_path: Path):
    out = tmp_path / "out"
    (out / "D_8").mkdir(parents=True)
    (out / "D_8/shard-0000000.tar").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"is not empty \(D_8\) and was not made by prepare"):
            prepare([str(corpus)], out, overwrite=overwrite, **BUCKETS)
    assert (out / "D_8/shard-0000000.tar").read_bytes() == b"precious"
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"cannot write the output folder .*file/out: Not a dir"):
        prepare([str(corpus)], tmp_path / "file/out", **BUCKETS)


def test_too_many_bad_documents_fail_by_file_and_line_and_the_work_is_kept(tmp_path: Path):
    good = make_texts(0, 97)
    path = write_jsonl(tmp_path / "a.jsonl", good)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[10:10] = [b"\n", b'{"text": ""}\n', b"{broken\n"]
    path.write_bytes(b"".join(lines))
    out = tmp_path / "out"
    message = (
        r"3 of 100 documents \(3\.00%\) cannot be used: blank_line 1, empty_text 1, "
        r"invalid_json 1; first blank_line at .*a\.jsonl:11; --max_bad allows 0\.10%"
    )
    with pytest.raises(ValueError, match=message):
        prepare([str(path)], out, **BUCKETS)
    assert not (out / "dataset.json").exists()
    marks = list((out / ".jobs/map").glob("*.json"))
    before = marks[0].stat().st_mtime_ns
    with pytest.raises(ValueError, match=r"allows 2\.00%"):
        prepare([str(path)], out, max_bad=0.02, **BUCKETS)
    assert marks[0].stat().st_mtime_ns == before
    prepare([str(path)], out, max_bad=0.03, **BUCKETS)
    failed = {"blank_line": 1, "invalid_json": 1}
    documents = read_info(out)["documents"]
    assert documents == {"in": 100, "usable": 97, "empty": 1, "failed": failed}
    clean = write_jsonl(tmp_path / "clean.jsonl", good)
    prepare([str(clean)], tmp_path / "clean", **BUCKETS)
    assert rows_of(out) == rows_of(tmp_path / "clean")
