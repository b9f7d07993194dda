import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dataset_decomposition.bucket_reader import BucketReader
from dataset_decomposition.cli import APP
from dataset_decomposition.manifest import read_manifest, write_manifest
from dataset_decomposition.prepare import prepare
from dataset_decomposition.records import open_dataset, write_rows
from dataset_decomposition.verify import find_problems, verify

TAR = "D_4/shard-0000000.tar"


@pytest.fixture(scope="module", params=["packed", "openlm"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    for index, length in enumerate((3, 40, 100, 300, 1000)):
        (folder / f"{index}.txt").write_text("x" * length)
    (folder / "held").mkdir()
    (folder / "held/out.txt").write_text("held out")
    prepare(
        [f"{folder}/*.txt"],
        folder / "out",
        heldout=[f"{folder}/held"],
        format=request.param,
        min_bucket=4,
        max_bucket=6,
    )
    return folder / "out"


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "data"))


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_data_set_has_no_problems(
    data: Path, deep: bool, capsys: pytest.CaptureFixture[str]
):
    assert find_problems(data, deep=deep) == []
    verify(data, deep=deep)
    assert "ok" in capsys.readouterr().out


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(bytes(content))


def edit(data: Path, change: Callable[[dict[str, Any]], None]) -> None:
    info = json.loads((data / "dataset.json").read_text())
    change(info)
    (data / "dataset.json").write_text(json.dumps(info))


def bump(*keys: str) -> Callable[[Path], None]:
    def change(info: dict[str, Any]) -> None:
        for key in keys[:-1]:
            info = info[key]
        info[keys[-1]] += 1

    return lambda data: edit(data, change)


SHALLOW = {
    "is missing": lambda data: (data / TAR).unlink(),
    "bytes, the manifest says": lambda data: (data / TAR).write_bytes(b"short"),
    "D_5 is missing": lambda data: shutil.rmtree(data / "D_5"),
    "D_5 has no manifest.jsonl": lambda data: (data / "D_5/manifest.jsonl").unlink(),
    "manifest.jsonl:1 is not a shard's line": lambda data: (data / "D_5/manifest.jsonl").write_text(
        "x\n"
    ),
    "stray.tar is not in the manifest": lambda data: shutil.copy(
        data / TAR, data / "D_4/stray.tar"
    ),
    "D_9 is not in dataset.json": lambda data: (data / "D_9").mkdir(),
    "tokens do not add up": bump("tokens", "dropped_tail"),
    "documents do not add up": bump("documents", "empty"),
    "histogram of document lengths": bump("document_lengths_log2", "5"),
    "tokens are stored in rows": bump("buckets", "4", "stored_tokens"),
    r"sequences, dataset.json says": bump("buckets", "4", "sequences"),
    "held-out documents and tokens are": bump("heldout", "tokens", "in"),
    "does not belong to": lambda data: np.save(
        data / "heldout/offsets.npy", np.array([0, 5], dtype=np.int64)
    ),
    "has no held-out documents": lambda data: (data / "heldout/tokens.npy").unlink(),
    "heldout/tokens.npy is missing": lambda data: (data / "heldout/tokens.npy").unlink(),
    "offsets.npy has 3 bytes, dataset.json says 144": lambda data: (
        data / "heldout/offsets.npy"
    ).write_bytes(b"abc"),
    "no size and SHA-256 of heldout/tokens.npy": lambda data: edit(
        data, lambda info: info["heldout"].pop("files")
    ),
}


@pytest.mark.parametrize("message", SHALLOW)
def test_each_shallow_problem_is_found(data: Path, message: str):
    SHALLOW[message](data)
    problems = find_problems(data)
    assert any(message in problem for problem in problems), problems
    number = len(problems)
    count = "1 problem" if number == 1 else f"{number} problems"
    with pytest.raises(ValueError, match=f"{data} has {count}: "):
        verify(data)


@pytest.mark.parametrize(("name", "position"), [(TAR, 700), ("heldout/tokens.npy", -6)])
def test_a_changed_byte_is_found_in_depth_only(data: Path, name: str, position: int):
    flip(data / name, position)
    assert find_problems(data) == []
    (problem,) = find_problems(data, deep=True)
    assert problem.startswith(f"{data / name} has another SHA-256")


def rewrite(data: Path, rows: np.ndarray) -> None:
    """Write other rows into D_4 with a manifest that agrees with them."""
    (old,) = read_manifest(data / "D_4")
    shard = write_rows(
        data / TAR, rows, number=0, rows_per_record=old.rows_per_record, format=old.format
    )
    assert asdict(replace(shard, bytes=0, sha256="")) == asdict(replace(old, bytes=0, sha256=""))
    write_manifest(data / "D_4", [shard])


@pytest.mark.parametrize(
    ("token", "place", "message"),
    [(257, 0, "D_4 has token 257, the vocabulary ends at 256"), (256, 3, "goes on after the end")],
)
def test_tokens_that_cannot_be_are_found_in_depth(data: Path, token: int, place: int, message: str):
    reader = open_dataset(data).buckets[4]
    rows = reader.read(np.arange(reader.num_rows))
    rows[0, place] = token
    rewrite(data, rows)
    assert find_problems(data) == []
    assert any(message in problem for problem in find_problems(data, deep=True))


@pytest.mark.parametrize("method", ["concat", "openlm"])
def test_rows_that_may_go_on_after_an_end_of_text_are_no_problem(data: Path, method: str):
    reader = open_dataset(data).buckets[4]
    rows = reader.read(np.arange(reader.num_rows))
    rows[0, 3] = 256
    rewrite(data, rows)
    edit(data, lambda info: info.update(method=method))
    assert find_problems(data, deep=True) == []


def test_a_shard_with_other_rows_than_the_manifest_says(data: Path):
    reader: BucketReader = open_dataset(data).buckets[4]
    rows = reader.read(np.arange(reader.num_rows))
    (old,) = read_manifest(data / "D_4")
    more = np.concatenate([rows] * 2)
    shard = write_rows(
        data / TAR, more, number=0, rows_per_record=old.rows_per_record, format=old.format
    )
    write_manifest(data / "D_4", [replace(old, bytes=shard.bytes, sha256=shard.sha256)])
    assert find_problems(data) == []
    assert len(find_problems(data, deep=True)) == 1


def test_held_out_tokens_are_read_in_depth(data: Path):
    tokens = np.load(data / "heldout/tokens.npy")
    for value, message in ((5, "does not end with"), (300, "beyond the vocabulary")):
        tokens[-1] = value
        np.save(data / "heldout/tokens.npy", tokens)
        assert any(message in problem for problem in find_problems(data, deep=True))


def test_an_empty_path_is_not_the_current_folder(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(data)
    assert APP.main(["verify", ""]) == 2
    assert capsys.readouterr().err == (
        "error: data is an empty path; write . for the current folder\n"
    )
    assert APP.main(["verify", "."]) == 0


def test_a_folder_without_dataset_json(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"has no dataset\.json"):
        verify(tmp_path)
