"""What a preparation leaves behind when the operating system refuses to write further."""

import errno
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from prepare_corpus import BUCKETS, hashes, make_texts, write_jsonl

from dataset_decomposition.cli import APP
from dataset_decomposition.spill import SpillWriter

pytestmark = pytest.mark.usefixtures("small_parts")


def spill_rows(folder: Path, count: int) -> None:
    row, documents = np.zeros(9, dtype=np.uint16), np.zeros(9, dtype=np.int16)
    with SpillWriter(folder, num_partitions=1, buffer_bytes=1 << 16) as spill:
        for _ in range(count):
            spill.add(3, row, 0, documents=documents)


@pytest.mark.parametrize("name", ["D_3.rows", "D_3.documents"])
def test_a_full_disk_keeps_its_reason(tmp_path: Path, name: str) -> None:
    """`run_jobs` stops at once by this reason; without it every other job would fail as well."""
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left") as caught:
        spill_rows(tmp_path, 10_000)
    assert caught.value.errno == errno.ENOSPC


@contextmanager
def files_up_to(num_bytes: int) -> Iterator[None]:
    """Let this process write no larger file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def prepare_by_command(corpus: Path, out: Path, form: str) -> int:
    options = [f"--{name}={value}" for name, value in {**BUCKETS, "format": form}.items()]
    return APP.main(["prepare", f"{corpus}/*", str(out), *options])


@pytest.mark.parametrize(
    ("phase", "form", "documents", "num_bytes"),
    [("map", "packed", 700, 20_000), ("reduce", "openlm", 200, 80_000)],
)
def test_what_was_done_before_the_disk_was_full_is_kept(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    phase: str,
    form: str,
    documents: int,
    num_bytes: int,
) -> None:
    corpus, out = tmp_path / "corpus", tmp_path / "out"
    for name, count in (("a", 20), ("b", documents)):
        write_jsonl(corpus / f"{name}.jsonl", make_texts(count, count))
    with files_up_to(num_bytes):
        assert prepare_by_command(corpus, out, form) != 0
    (line,) = [t for t in capsys.readouterr().err.splitlines() if t.startswith("error: ")]
    assert f"jobs of '{phase}' failed" in line
    assert "File too large" in line
    assert list((out / ".jobs" / phase).glob("*.json"))
    assert not list((out / ".jobs").rglob("work-*"))
    assert not (out / "dataset.json").exists()

    assert prepare_by_command(corpus, out, form) == 0
    assert prepare_by_command(corpus, tmp_path / "straight", form) == 0
    assert hashes(out) == hashes(tmp_path / "straight")
